// The order in which the threads of a block run. The results of a kernel must not depend on it; if
// a barrier is missing, they are wrong under at least one of these orders.
#pragma once

#include <cstdint>
#include <string>

namespace byhand::emulator {

enum class Order {
    forward,  // round robin
    reverse,  // the same in reverse order, for blocks too
    random,
    warp_greedy,          // a warp runs as far as it can before the next one starts
    warp_greedy_reverse,  // the same in reverse order
};

struct Schedule {
    Order order = Order::forward;
    std::uint64_t seed = 0;
    // If true, asynchronous copies are performed when they are issued and Hopper's products when
    // they are waited for; if false, the other way round.
    bool early = false;
    // If true, tensor cores truncate sums, as accumulate.h says; if false, they round them.
    bool truncate = true;

    bool backwards() const {
        return order == Order::reverse || order == Order::warp_greedy_reverse ||
               (order == Order::random && seed % 2 == 1);
    }
};

// Up to three words: "forward", "reverse", "random:7", "warp-greedy" or "warp-greedy-reverse";
// "early" or "late"; "truncate" or "nearest". Throws std::invalid_argument.
Schedule parse_schedule(const std::string& text);

// The schedule of the next launches. Initially that of BYHAND_SCHEDULE, else "forward late".
std::string schedule_text();
Schedule schedule();
void set_schedule(const std::string& text);

// xorshift64*: Vigna 2016, "An experimental exploration of Marsaglia's xorshift generators".
struct Random {
    std::uint64_t state = 1;
    explicit Random(std::uint64_t seed = 1) : state(seed * 0x9e3779b97f4a7c15u | 1) {}
    unsigned below(unsigned n) {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        return static_cast<unsigned>((state * 0x2545f4914f6cdd1du) >> 33) % n;
    }
};

}  // namespace byhand::emulator
