// The vector word: one type, `Vec`, holding as many floats as a register of this module's
// instruction set.
//
// Each back end (_cpu_base, _cpu_avx2, _cpu_avx512, _cpu_neon) is this same source compiled with
// other flags, so the compiler's own macros choose the word below and nothing dispatches at run
// time. A kernel is one loop with a masked tail:
//
//     for (std::int64_t i = 0; i < C; i += Vec::width) {
//         const std::int64_t n = C - i;  // lanes left; anything >= width means a whole word
//         Vec a = Vec::load(x + i, n);
//         (a * a).store(y + i, n);
//     }
//
// What every word provides, with the same meaning:
//
//   Vec::zero() set(s) load(p) load(p, n) load(p, n, rest)     load(p, n) takes the first n lanes,
//   fills the others with 0 store(p) store(p, n)                                       (or rest),
//   and never touches memory past p + n sum() max() folded by halves: always the same order
//   + - * / unary- fma(a, b, c) = a * b + c                    one rounding wherever the hardware
//   has it max min abs sqrt round                                     max(a, b) is a > b ? a : b,
//   so it returns b if a lane is NaN < <= > >= == -> Mask, & | !, select(mask, a, b) comparisons
//   with NaN are false Mask::first(n) Mask::load(const bool*, n)                  any(mask)
//   all(mask) below(const uint32_t* p, limit) -> Mask                    unsigned p[i] < limit:
//   what a dropout mask needs scale2(x, n) = x * 2^n, exponent(x), mantissa(x)           the
//   floating-point format, for vecmath.h transpose(Vec (&)[width]) the square of width words, for
//   packing
#pragma once

#include <cstdint>

#define BYHAND_INLINE inline __attribute__((always_inline))

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#include "vec_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__)
#include "vec_avx2.h"
#elif defined(__aarch64__) && defined(__ARM_NEON)
#include "vec_neon.h"
#else
#include "vec_plain.h"
#endif

namespace byhand {

BYHAND_INLINE Vec& operator+=(Vec& a, Vec b) { return a = a + b; }
BYHAND_INLINE Vec& operator-=(Vec& a, Vec b) { return a = a - b; }
BYHAND_INLINE Vec& operator*=(Vec& a, Vec b) { return a = a * b; }

}  // namespace byhand
