#include "emulator/schedule.h"

#include <cstdlib>
#include <mutex>
#include <sstream>
#include <stdexcept>

namespace byhand::emulator {
namespace {

struct Current {
    std::mutex mutex;
    std::string text;
    Schedule schedule;

    Current() {
        const char* const wish = std::getenv("BYHAND_SCHEDULE");
        set(wish != nullptr ? wish : "forward late");
    }
    void set(const std::string& wish) {
        schedule = parse_schedule(wish);
        text = wish;
    }
};

Current& current() {
    static Current result;
    return result;
}

Order parse_order(const std::string& word) {
    if (word == "forward") return Order::forward;
    if (word == "reverse") return Order::reverse;
    if (word == "random") return Order::random;
    if (word == "warp-greedy") return Order::warp_greedy;
    if (word == "warp-greedy-reverse") return Order::warp_greedy_reverse;
    throw std::invalid_argument(word);
}

}  // namespace

Schedule parse_schedule(const std::string& text) {
    try {
        std::istringstream words(text);
        std::string order, copies = "late", sums = "truncate", rest;
        words >> order >> copies >> sums >> rest;
        Schedule schedule;
        if (const auto colon = order.find(':'); colon != std::string::npos) {
            std::size_t used = 0;
            const std::string seed = order.substr(colon + 1);
            schedule.seed = std::stoull(seed, &used);
            order.resize(colon);
            if (used != seed.size() || order != "random") throw std::invalid_argument(seed);
        }
        schedule.order = parse_order(order);
        schedule.early = copies == "early";
        schedule.truncate = sums == "truncate";
        const bool known =
            (copies == "early" || copies == "late") && (sums == "truncate" || sums == "nearest");
        if (!known || !rest.empty()) throw std::invalid_argument(text);
        return schedule;
    } catch (const std::logic_error&) {  // std::out_of_range too
        throw std::invalid_argument(
            "a schedule is forward, reverse, random:SEED, warp-greedy or warp-greedy-reverse, "
            "after a blank early or late, and after another truncate or nearest, got '" +
            text + "'");
    }
}

std::string schedule_text() {
    Current& now = current();
    const std::lock_guard<std::mutex> lock(now.mutex);
    return now.text;
}

Schedule schedule() {
    Current& now = current();
    const std::lock_guard<std::mutex> lock(now.mutex);
    return now.schedule;
}

void set_schedule(const std::string& text) {
    Current& now = current();
    const std::lock_guard<std::mutex> lock(now.mutex);
    now.set(text);
}

}  // namespace byhand::emulator
