// Work divided over threads, and what long work calls meanwhile.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace byhand::text {

// Called now and then on the calling thread; throws to stop.
using Tick = std::function<void()>;
// As Tick, with how much is done and all of it.
using Progress = std::function<void(std::int64_t done, std::int64_t all)>;
// The number of the next task; a number too large when there are no more.
using Next = std::function<std::size_t()>;

// Calls work(next, tick) on min(threads, tasks) threads, one of which is this one, and waits. Only
// here does the tick call `tick`. The first exception stops all of them and is thrown here.
inline void run_on_threads(std::size_t tasks, int threads, const Tick& tick,
                           const std::function<void(const Next&, const Tick&)>& work) {
    std::atomic<std::size_t> count{0};
    std::atomic<bool> stopped{false};
    std::exception_ptr error;
    std::mutex lock;
    const Next next = [&] { return stopped ? tasks : count++; };
    const auto guarded = [&](const Tick& tick_here) {
        try {
            work(next, tick_here);
        } catch (...) {
            const std::lock_guard<std::mutex> guard(lock);
            if (!error) error = std::current_exception();
            stopped = true;
        }
    };
    std::vector<std::thread> others;
    const std::size_t wanted = std::min(tasks, static_cast<std::size_t>(std::max(threads, 1)));
    try {
        while (others.size() + 1 < wanted) others.emplace_back(guarded, [] {});
    } catch (const std::system_error&) {
        // Fewer threads than asked for do the same work.
    }
    guarded(tick);
    for (std::thread& other : others) other.join();
    if (error) std::rethrow_exception(error);
}

}  // namespace byhand::text
