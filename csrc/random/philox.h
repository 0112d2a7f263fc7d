// Philox4x32-7, the counter-based generator behind every dropout mask (Salmon, Moraes, Dror and
// Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011; seven rounds are the fewest of their
// table 2 that pass BigCrush). A random word is a pure function of (seed, group, offset): no mask
// is stored, the backward pass redraws it, and the CPU and the GPU draw the same one.
//
//     key     = seed (low, high)
//     counter = group (low, high), offset (low, high)
//     a group holds eight consecutive elements, 16 bits each: element i of an array is the low half
//     of word i % 8 / 2 of group i / 8 when i is even, the high half when it is odd
//
// Sixteen bits per element are enough for dropout (FlashAttention takes eight) and cost half as
// much as 32.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>

#include "core/both.h"

namespace byhand {

namespace philox_detail {

constexpr int kRounds = 7;
constexpr std::uint32_t kMultiplier0 = 0xD2511F53u, kMultiplier1 = 0xCD9E8D57u;
constexpr std::uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;

BYHAND_HD constexpr std::uint32_t low(std::uint64_t v) { return static_cast<std::uint32_t>(v); }
BYHAND_HD constexpr std::uint32_t high(std::uint64_t v) {
    return static_cast<std::uint32_t>(v >> 32);
}

}  // namespace philox_detail

inline constexpr std::int64_t kPhiloxElements = 8;  // elements of one group

// The offset of a mask. A CUDA graph repeats a launch with the arguments it was captured with, so a
// part of the offset that changes between launches is read from device memory and added.
struct Offset {
    std::uint64_t fixed;
    const std::int64_t* moving = nullptr;

    BYHAND_HD std::uint64_t value() const {
        return moving == nullptr ? fixed : fixed + static_cast<std::uint64_t>(*moving);
    }
};

struct PhiloxGroup {
    std::uint32_t word[4];

    // The 16 bits of element `i` of the group.
    BYHAND_HD constexpr std::uint32_t bits(int i) const {
        return i % 2 == 0 ? word[i / 2] & 0xffffu : word[i / 2] >> 16;
    }
};

// The four words of one group. The CPU draws many groups at once in random/philox_words.h.
BYHAND_HD inline PhiloxGroup philox(std::uint64_t seed, std::uint64_t group, std::uint64_t offset) {
    using namespace philox_detail;
    std::uint32_t k0 = low(seed), k1 = high(seed);
    std::uint32_t c0 = low(group), c1 = high(group), c2 = low(offset), c3 = high(offset);
    for (int round = 0; round < kRounds; ++round) {
        const std::uint64_t p0 = static_cast<std::uint64_t>(kMultiplier0) * c0;
        const std::uint64_t p1 = static_cast<std::uint64_t>(kMultiplier1) * c2;
        c0 = high(p1) ^ c1 ^ k0;
        c1 = low(p1);
        c2 = high(p0) ^ c3 ^ k1;
        c3 = low(p0);
        k0 += kWeyl0;
        k1 += kWeyl1;
    }
    return {{c0, c1, c2, c3}};
}

// The threshold and scale of a dropout probability: an element is dropped if its bits are below
// `threshold`, and a kept one is multiplied by `scale`. The probability is rounded to the nearest
// multiple of 2^-16, and the scale belongs to the rounded probability, so that the mean is kept.
struct DropoutRule {
    std::uint32_t threshold;
    float scale;

    explicit DropoutRule(double p)
        : threshold(std::min(65535u, static_cast<std::uint32_t>(checked(p) * 65536.0 + 0.5))),
          scale(static_cast<float>(65536.0 / (65536.0 - threshold))) {}

    BYHAND_HD float factor(std::uint32_t bits) const { return bits < threshold ? 0.0f : scale; }

  private:
    static double checked(double p) {
        if (!(p >= 0.0 && p < 1.0)) throw std::invalid_argument("dropout: p must be in [0, 1)");
        return p;
    }
};

}  // namespace byhand
