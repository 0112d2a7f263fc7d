// The SIMD vector type `Vec`: as many floats as a register of this module's instruction set holds.
// Other files also call such a vector a word.
//
// Each back end (_cpu_base, _cpu_avx2, _cpu_avx512, _cpu_neon) is the same source compiled with
// other flags, so the compiler's own macros choose the implementation below and nothing is
// dispatched at run time. A kernel is one loop with a masked tail:
//
//     for (std::int64_t i = 0; i < C; i += Vec::width) {
//         const std::int64_t n = C - i;  // lanes left; any number >= width means a full vector
//         Vec a = Vec::load(x + i, n);
//         (a * a).store(y + i, n);
//     }
//
// Every implementation provides, with the same meaning:
//
//   Vec::zero() set(s) load(p)       load(p, n) takes the first n lanes, fills the others with 0
//   load(p, n) load(p, n, rest)      or with `rest`, and never touches memory past p + n
//   store(p) store(p, n)             all lanes, or the first n
//   stream(p)                        non-temporal store, p aligned to a vector; other threads see
//                                    it after this thread has called stream_fence()
//   sum() max()                      over the lanes, by halves: always in the same order
//   + - * / unary -                  lane by lane
//   fma(a, b, c)                     a * b + c, with one rounding where the hardware has it
//   max min abs sqrt round           max(a, b) is a > b ? a : b, so it is b if a lane is NaN
//   < <= > >= == -> Mask             false if a lane is NaN
//   & | ! any(m) all(m)              of masks
//   select(m, a, b)                  a where m holds, else b
//   Mask::first(n)                   the first n lanes
//   Mask::load(const bool* p, n)     the first n of p, the rest false
//   below(const uint32_t* p, limit)  unsigned p[i] < limit: the mask of a dropout
//   scale2(x, n)                     x * 2^n, for vecmath.h; n >= -254, for which it is 0
//   power_of_2(t)                    2^n, where t = kRounder + n; 0 for n = -127, inf for n = 128
//   exponent(x) mantissa(x)          the parts of a normal positive x, for vecmath.h
//   round_bf16(x)                    to the nearest bfloat16, ties to even, still as floats
//   swap_neighbours(x)               lanes 1 0 3 2 5 4 ...
//   transpose(Vec (&)[width])        a square of width vectors, for packing
//   widen_first(x) widen_second(x)   the lower or upper half of each lane, a bfloat16, as a float
//   load_halves(const uint16_t* p)   width numbers of 16 bits (IEEE binary16)
//   store_bytes(x, int8_t* p)        x whole numbers of -127..127, p aligned to width bytes
//
// `Ints` has as many lanes of 32 bits, or four times as many bytes:
//
//   Ints::set(s) load(const void* p)
//   to_float(a)                      lane by lane, exact below 2^24
//   low_nibbles(a) high_nibbles(a)   the lower or upper four bits of each byte
//   dot_bytes(q, a, sum)             lane by lane sum + the four products of the unsigned bytes of
//                                    q, less 128 - kExcess each, with the signed bytes of a. It is
//                                    exact for a > -128: no part of it overflows or saturates
//   dot_nibbles(q, a, sum)           the same for bytes of q of at most 15, less nothing
//
// Where the processor multiplies bfloat16 itself (BYHAND_BF16_PAIRS is then defined), a vector may
// also hold pairs of bfloat16, the first of a pair in the lower half of each lane:
//
//   pairs_along(a, b)                the 2 * width neighbours a, b as pairs
//   pairs_across(even, odd)          lane i is the pair even[i], odd[i]
//   dot_pairs(a, b, sum)             lane by lane sum + a.first * b.first + a.second * b.second
// Where one instruction looks 16 floats up by their numbers (BYHAND_LOOKUP is then defined):
//
//   lookup(table, t)                 table[i], where i are the lowest four bits of t;
//                                    table is aligned to a vector
#pragma once

#include <cstdint>

#define BYHAND_INLINE inline __attribute__((always_inline))

// Before a loop over a local array of vectors: unless it is unrolled completely, the array is kept
// in memory and not in registers.
#if defined(__clang__)
#define BYHAND_UNROLL _Pragma("clang loop unroll(full)")
#else
#define BYHAND_UNROLL _Pragma("GCC unroll 16")
#endif

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include "simd/vec_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__)
#include "simd/vec_avx2.h"
#elif defined(__aarch64__) && defined(__ARM_NEON)
#include "simd/vec_neon.h"
#else
#include "simd/vec_plain.h"
#endif

namespace byhand {

BYHAND_INLINE Vec& operator+=(Vec& a, Vec b) { return a = a + b; }
BYHAND_INLINE Vec& operator-=(Vec& a, Vec b) { return a = a - b; }
BYHAND_INLINE Vec& operator*=(Vec& a, Vec b) { return a = a * b; }

}  // namespace byhand
