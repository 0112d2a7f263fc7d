#include "threads/threads.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif
#if !defined(_WIN32)
#include <pthread.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace byhand {
namespace {

constexpr int kMaxThreads = 256;
// A training step consists of hundreds of kernels with tens of microseconds of Python between them,
// and waking a sleeping thread takes as long. So a worker spins for this long before it sleeps, and
// yields its core to other threads meanwhile.
constexpr auto kSpin = std::chrono::milliseconds(1);

void pause() {
#if defined(__x86_64__)
    _mm_pause();
#else
    std::this_thread::yield();
#endif
}

int affinity_cpus() {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
    return std::max(1u, std::thread::hardware_concurrency());
}

// The CPU quota of a container (cgroup v2, then v1), rounded up; a large number when unlimited.
int quota_cpus() {
    double quota = -1, period = 0;
    if (std::ifstream v2("/sys/fs/cgroup/cpu.max"); v2) {
        std::string text;
        if (v2 >> text >> period && text != "max") quota = std::strtod(text.c_str(), nullptr);
    } else if (std::ifstream q("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"); q) {
        std::ifstream p("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
        if (!(q >> quota && p >> period)) quota = -1;
    }
    if (quota <= 0 || period <= 0) return kMaxThreads;
    return std::max(1, static_cast<int>(quota / period + 0.999));
}

int default_threads() {
    if (const char* text = std::getenv("OMP_NUM_THREADS")) {
        const int n = std::atoi(text);
        if (n > 0) return std::min(n, kMaxThreads);
    }
    return std::min({affinity_cpus(), quota_cpus(), kMaxThreads});
}

std::atomic<int> g_threads{0};
thread_local bool t_inside = false;

struct Job {
    detail::Task task = nullptr;
    void* context = nullptr;
    std::int64_t n = 0;
    std::int64_t slices = 0;
};

class Pool {
  public:
    // Runs slice 0 on the caller and the others on workers; returns when all are done.
    void run(const Job& job) {
        grow(static_cast<int>(job.slices) - 1);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            job_ = job;
            error_ = nullptr;
            pending_.store(static_cast<int>(job.slices) - 1, std::memory_order_relaxed);
            ticket_.fetch_add(1, std::memory_order_release);
        }
        if (sleepers_.load(std::memory_order_seq_cst) > 0) wake_.notify_all();
        do_slice(job, 0);
        wait_for_workers();
        if (error_) std::rethrow_exception(error_);
    }

    std::mutex& owner() { return owner_; }

  private:
    void grow(int workers) {
        while (static_cast<int>(threads_.size()) < workers) {
            const auto index = static_cast<std::int64_t>(threads_.size()) + 1;
            const auto seen = ticket_.load(std::memory_order_relaxed);
            threads_.emplace_back([this, index, seen] { work(index, seen); });
            threads_.back().detach();  // workers live as long as the process
        }
    }

    void work(std::int64_t index, std::uint64_t seen) {
        t_inside = true;
        for (;;) {
            seen = wait_for_job(seen);
            // Only workers with a slice use the job. The caller waits for them, so the job cannot
            // change meanwhile.
            Job job;
            {
                std::lock_guard<std::mutex> lock(mutex_);
                if (ticket_.load(std::memory_order_relaxed) != seen) continue;
                job = job_;
            }
            if (index >= job.slices) continue;
            do_slice(job, index);
            pending_.fetch_sub(1, std::memory_order_release);
        }
    }

    std::uint64_t wait_for_job(std::uint64_t seen) {
        const auto until = std::chrono::steady_clock::now() + kSpin;
        for (int i = 0;; ++i) {
            const auto now = ticket_.load(std::memory_order_acquire);
            if (now != seen) return now;
            pause();
            if (i % 64 != 63) continue;
            if (std::chrono::steady_clock::now() > until) break;
            std::this_thread::yield();  // the caller may be waiting for this core
        }
        std::unique_lock<std::mutex> lock(mutex_);
        sleepers_.fetch_add(1, std::memory_order_seq_cst);
        wake_.wait(lock, [&] { return ticket_.load(std::memory_order_relaxed) != seen; });
        sleepers_.fetch_sub(1, std::memory_order_relaxed);
        return ticket_.load(std::memory_order_relaxed);
    }

    void wait_for_workers() {
        for (int i = 0; pending_.load(std::memory_order_acquire) > 0; ++i) {
            pause();
            if (i % 128 == 127) std::this_thread::yield();  // a worker may be waiting for this core
        }
    }

    void do_slice(const Job& job, std::int64_t index) {
        const bool outer = t_inside;
        t_inside = true;
        try {
            job.task(job.context, job.n * index / job.slices, job.n * (index + 1) / job.slices);
        } catch (...) {
            std::lock_guard<std::mutex> lock(mutex_);
            if (!error_) error_ = std::current_exception();
        }
        t_inside = outer;
    }

    std::mutex owner_;  // held by the caller whose job runs
    std::mutex mutex_;  // guards job_ and error_
    std::condition_variable wake_;
    std::atomic<std::uint64_t> ticket_{0};
    std::atomic<int> pending_{0};
    std::atomic<int> sleepers_{0};
    Job job_;
    std::exception_ptr error_;
    std::vector<std::thread> threads_;
};

// Never destroyed: workers may still be spinning while the process exits. A forked child does not
// inherit its parent's threads, so it gets a new pool.
Pool* g_pool = nullptr;
std::once_flag g_once;

Pool& pool() {
    std::call_once(g_once, [] {
        g_pool = new Pool;
#if !defined(_WIN32)
        pthread_atfork(nullptr, nullptr, [] { g_pool = new Pool; });
#endif
    });
    return *g_pool;
}

}  // namespace

int num_threads() {
    int n = g_threads.load(std::memory_order_relaxed);
    if (n == 0) {
        n = default_threads();
        g_threads.store(n, std::memory_order_relaxed);
    }
    return n;
}

void set_num_threads(int n) {
    if (n < 1 || n > kMaxThreads) {
        throw std::invalid_argument("the number of threads must be between 1 and " +
                                    std::to_string(kMaxThreads) + ", got " + std::to_string(n));
    }
    g_threads.store(n, std::memory_order_relaxed);
}

namespace detail {

std::int64_t slice_count(std::int64_t n, std::int64_t grain) {
    if (t_inside) return 1;
    const std::int64_t most = n / std::max<std::int64_t>(grain, 1);
    return std::clamp<std::int64_t>(most, 1, num_threads());
}

void run_slices(std::int64_t n, std::int64_t slices, Task task, void* context) {
    Pool& p = pool();
    std::unique_lock<std::mutex> owner(p.owner(), std::try_to_lock);
    if (!owner.owns_lock()) {
        // The same slices, one after the other: a kernel may rely on at most num_threads() of them.
        for (std::int64_t s = 0; s < slices; ++s) {
            task(context, n * s / slices, n * (s + 1) / slices);
        }
        return;
    }
    p.run(Job{task, context, n, slices});
}

}  // namespace detail

float* scratch(std::size_t floats, int slot) {
    struct Block {
        float* data = nullptr;
        std::size_t capacity = 0;
        ~Block() { ::operator delete(data, std::align_val_t{64}); }
    };
    thread_local Block blocks[kScratchSlots];
    Block& block = blocks[slot];
    if (block.capacity < floats || block.data == nullptr) {
        const std::size_t capacity = std::max<std::size_t>({floats, block.capacity * 3 / 2, 1024});
        ::operator delete(block.data, std::align_val_t{64});
        block.data = nullptr;
        block.capacity = 0;
        block.data =
            static_cast<float*>(::operator new(capacity * sizeof(float), std::align_val_t{64}));
        block.capacity = capacity;
    }
    return block.data;
}

}  // namespace byhand
