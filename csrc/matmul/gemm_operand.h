// What gemm.h's micro-kernel multiplies: words of four bytes.
//
// In float32 a word is a number. In bf16 precision the numbers are rounded to bfloat16 while they
// are packed, and summed in float32; where the processor has the instruction a word is a pair of
// them, neighbours along k, and elsewhere a rounded float: the same products at float32's speed.
#pragma once

#include <cstdint>

#include "simd/vec.h"

namespace byhand {

struct Float32 {
    static constexpr int depth = 1;         // numbers along k in a word
    static constexpr bool in_place = true;  // a matrix in memory consists of words already

    // Width words from `depth` rows, one after the other along k, of width neighbours each.
    static BYHAND_INLINE Vec across(const Vec (&rows)[1]) { return rows[0]; }
    // Width words from the first n of depth * width neighbours along k.
    static BYHAND_INLINE Vec along(const float* p, std::int64_t n) { return Vec::load(p, n); }
    static BYHAND_INLINE Vec multiply_add(Vec a, Vec b, Vec sum) { return fma(a, b, sum); }
};

struct Bfloat16 {
    static constexpr bool in_place = false;
#if defined(BYHAND_BF16_PAIRS)
    static constexpr int depth = 2;
    static BYHAND_INLINE Vec across(const Vec (&rows)[2]) { return pairs_across(rows[0], rows[1]); }
    static BYHAND_INLINE Vec along(const float* p, std::int64_t n) {
        if (n >= 2 * Vec::width) return pairs_along(Vec::load(p), Vec::load(p + Vec::width));
        return pairs_along(Vec::load(p, n), n > Vec::width
                                                ? Vec::load(p + Vec::width, n - Vec::width)
                                                : Vec::zero());
    }
    static BYHAND_INLINE Vec multiply_add(Vec a, Vec b, Vec sum) { return dot_pairs(a, b, sum); }
#else
    static constexpr int depth = 1;
    static BYHAND_INLINE Vec across(const Vec (&rows)[1]) { return round_bf16(rows[0]); }
    static BYHAND_INLINE Vec along(const float* p, std::int64_t n) {
        return round_bf16(Vec::load(p, n));
    }
    static BYHAND_INLINE Vec multiply_add(Vec a, Vec b, Vec sum) { return fma(a, b, sum); }
#endif
};

}  // namespace byhand
