// Philox for the CPU: the words of many groups at once.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/philox.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace byhand {

namespace philox_detail {

// One 64-bit lane a group, since the generator multiplies 32 by 32 bits into 64. Only the low half
// of a lane of the counter has a meaning; the other half is never cleared because nothing reads it.
#if defined(__AVX512F__)
constexpr int kLanes = 8;
#elif defined(__AVX2__)
constexpr int kLanes = 4;
#else
constexpr int kLanes = 2;
#endif
typedef std::uint64_t Lanes __attribute__((vector_size(8 * kLanes)));

// The product of the low halves. Compilers turn the portable form into full 64-bit multiplications.
inline Lanes multiply(Lanes a, std::uint32_t b) {
    const Lanes factor = Lanes{} + std::uint64_t{b};
#if defined(__AVX512F__)
    return reinterpret_cast<Lanes>(_mm512_maskz_mul_epu32(0xff, reinterpret_cast<__m512i>(a),
                                                          reinterpret_cast<__m512i>(factor)));
#elif defined(__AVX2__)
    return reinterpret_cast<Lanes>(
        _mm256_mul_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(factor)));
#elif defined(__SSE2__)
    return reinterpret_cast<Lanes>(
        _mm_mul_epu32(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(factor)));
#else
    return (a & 0xffffffffu) * factor;
#endif
}

// The 4 * kLanes words of groups first, first + 1, ...: the rounds of philox(), lane by lane.
inline void draw_lanes(std::uint32_t* words, std::uint64_t seed, std::uint64_t first,
                       std::uint64_t offset) {
    Lanes c0 = Lanes{} + first;
    for (int lane = 0; lane < kLanes; ++lane) c0[lane] += static_cast<std::uint64_t>(lane);
    Lanes c1 = c0 >> 32, c2 = Lanes{} + offset, c3 = c2 >> 32;
    std::uint32_t k0 = low(seed), k1 = high(seed);
    for (int round = 0; round < kRounds; ++round) {
        const Lanes p0 = multiply(c0, kMultiplier0), p1 = multiply(c2, kMultiplier1);
        c0 = (p1 >> 32) ^ c1 ^ std::uint64_t{k0};
        c1 = p1;
        c2 = (p0 >> 32) ^ c3 ^ std::uint64_t{k1};
        c3 = p0;
        k0 += kWeyl0;
        k1 += kWeyl1;
    }
    const Lanes pairs[2] = {(c0 & 0xffffffffu) | (c1 << 32), (c2 & 0xffffffffu) | (c3 << 32)};
    std::uint64_t groups[2 * kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
        groups[2 * lane] = pairs[0][lane];
        groups[2 * lane + 1] = pairs[1][lane];
    }
    std::memcpy(words, groups, sizeof groups);
}

}  // namespace philox_detail

// The 4 * groups words of groups first, first + 1, ..., in the order of the elements they belong
// to.
inline void philox_words(std::uint32_t* words, std::int64_t groups, std::uint64_t seed,
                         std::uint64_t first, std::uint64_t offset) {
    using namespace philox_detail;
    std::int64_t g = 0;
    for (; g + kLanes <= groups; g += kLanes) {
        draw_lanes(words + 4 * g, seed, first + static_cast<std::uint64_t>(g), offset);
    }
    if (g < groups) {
        std::uint32_t rest[4 * kLanes];
        draw_lanes(rest, seed, first + static_cast<std::uint64_t>(g), offset);
        std::memcpy(words + 4 * g, rest, 4 * sizeof(std::uint32_t) * (groups - g));
    }
}

}  // namespace byhand
