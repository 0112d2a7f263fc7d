// In what order the threads of a block take their turns. Whatever a kernel computes may not depend
// on it; a kernel that lacks a barrier gives itself away under one of them or another.
#pragma once

#include <cstdint>
#include <string>

namespace byhand::host {

enum class Order {
    forward,  // round robin
    reverse,  // the same backwards, blocks too
    random,
    warp_greedy,          // a warp runs as far as it can before the next one starts
    warp_greedy_reverse,  // the same backwards
};

struct Schedule {
    Order order = Order::forward;
    std::uint64_t seed = 0;
    // Asynchronous copies happen at once, and Hopper's products when they are waited for; otherwise
    // the other way round.
    bool early = false;

    bool backwards() const {
        return order == Order::reverse || order == Order::warp_greedy_reverse ||
               (order == Order::random && seed % 2 == 1);
    }
};

// "forward", "reverse", "random:7", "warp-greedy" or "warp-greedy-reverse", and "early" or "late"
// after a blank. Throws std::invalid_argument.
Schedule parse_schedule(const std::string& text);

// The one for the launches to come. At first what BYHAND_SCHEDULE says, else "forward late".
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

}  // namespace byhand::host
