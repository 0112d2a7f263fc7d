// Philox for the CPU: the bits of many groups at once, in vectors.
#pragma once

#include <cstdint>
#include <cstring>

#include "random/philox.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the low half of a word must come first in memory"
#endif

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace byhand {

namespace philox_detail {

// One 64-bit lane per group, because the generator multiplies 32 by 32 bits into 64. Only the low
// half of a lane of the counter is used; the other half is never cleared because it is never read.
#if defined(__AVX512F__)
constexpr int kLanes = 8;
#elif defined(__AVX2__)
constexpr int kLanes = 4;
#else
constexpr int kLanes = 2;
#endif
typedef std::uint64_t Lanes __attribute__((vector_size(8 * kLanes)));

// The first half of the groups is in the even lanes, so that the results of even_pairs and
// odd_pairs are in order. Written as a constant, because compilers would otherwise build it lane by
// lane for every draw.
#if defined(__AVX512F__)
constexpr Lanes kOrder = {0, 4, 1, 5, 2, 6, 3, 7};
#elif defined(__AVX2__)
constexpr Lanes kOrder = {0, 2, 1, 3};
#else
constexpr Lanes kOrder = {0, 1};
#endif

// The product of the low halves. Compilers turn the portable expression into full 64-bit products.
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

// The even lanes of a and b, alternating; and the odd lanes.
inline Lanes even_pairs(Lanes a, Lanes b) {
#if defined(__AVX512F__)
    return reinterpret_cast<Lanes>(_mm512_maskz_unpacklo_epi64(0xff, reinterpret_cast<__m512i>(a),
                                                               reinterpret_cast<__m512i>(b)));
#elif defined(__AVX2__)
    return reinterpret_cast<Lanes>(
        _mm256_unpacklo_epi64(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#else
    return Lanes{a[0], b[0]};
#endif
}
inline Lanes odd_pairs(Lanes a, Lanes b) {
#if defined(__AVX512F__)
    return reinterpret_cast<Lanes>(_mm512_maskz_unpackhi_epi64(0xff, reinterpret_cast<__m512i>(a),
                                                               reinterpret_cast<__m512i>(b)));
#elif defined(__AVX2__)
    return reinterpret_cast<Lanes>(
        _mm256_unpackhi_epi64(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#else
    return Lanes{a[1], b[1]};
#endif
}

// The bits of groups first, first + 1, ... first + kLanes - 1: the rounds of philox(), lane by
// lane. Unless the group numbers carry into their high halves, half of the first two rounds is the
// same for all groups, and the compiler moves it out of the loop over the groups.
template <bool carries>
inline void draw_lanes(std::uint16_t* bits, std::uint64_t seed, std::uint64_t first,
                       std::uint64_t offset) {
    Lanes c0 = kOrder + first;
    Lanes c1 = carries ? c0 >> 32 : Lanes{} + (first >> 32);
    Lanes c2 = Lanes{} + offset, c3 = c2 >> 32;
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
    const Lanes a = (c0 & 0xffffffffu) | (c1 << 32), b = (c2 & 0xffffffffu) | (c3 << 32);
    const Lanes pairs[2] = {even_pairs(a, b), odd_pairs(a, b)};
    std::memcpy(bits, pairs, sizeof pairs);
}

template <bool carries>
inline void draw_groups(std::uint16_t* bits, std::int64_t groups, std::uint64_t seed,
                        std::uint64_t first, std::uint64_t offset) {
    std::int64_t g = 0;
    for (; g + kLanes <= groups; g += kLanes) {
        draw_lanes<carries>(bits + kPhiloxElements * g, seed, first + static_cast<std::uint64_t>(g),
                            offset);
    }
    if (g < groups) {
        std::uint16_t rest[kPhiloxElements * kLanes];
        draw_lanes<carries>(rest, seed, first + static_cast<std::uint64_t>(g), offset);
        std::memcpy(bits + kPhiloxElements * g, rest,
                    sizeof(std::uint16_t) * kPhiloxElements * static_cast<std::size_t>(groups - g));
    }
}

}  // namespace philox_detail

// The 16 bits of each of the n elements of groups first, first + 1, ... `bits` has room for whole
// groups.
inline void philox_bits(std::uint16_t* bits, std::int64_t n, std::uint64_t seed,
                        std::uint64_t first, std::uint64_t offset) {
    using namespace philox_detail;
    const std::int64_t groups = (n + kPhiloxElements - 1) / kPhiloxElements;
    // With sixteen registers there is no room for values moved out of the loop.
    constexpr bool kFewRegisters = kLanes < 8;
    const bool carries =
        kFewRegisters || high(first) != high(first + static_cast<std::uint64_t>(groups));
    (carries ? draw_groups<true> : draw_groups<false>)(bits, groups, seed, first, offset);
}

}  // namespace byhand
