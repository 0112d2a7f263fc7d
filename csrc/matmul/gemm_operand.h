// The operands of gemm.h's micro-kernel: words of four bytes.
//
// In float32 a word is one number. In bf16 precision the numbers are rounded to bfloat16 while they
// are packed, and products are summed in float32. Where the processor has the instruction, a word
// is a pair of bfloat16 numbers, neighbours along k; elsewhere it is a rounded float32, which gives
// the same products at the speed of float32.
#pragma once

#include <cstdint>

#include "matmul/gemm_kernel.h"
#include "simd/vec.h"

namespace byhand {

// What all operands have unless they define it otherwise.
struct AnyOperand {
    static constexpr int rows = kRows;           // of A, in one tile of C
    static constexpr int step_unit = 1;          // the number of words along k is a multiple of it
    static constexpr bool packed_along = false;  // packed rows of A are contiguous along k always
    static constexpr int packed_rows = 8 * kRows;  // of a transposed A, at a time
    static constexpr int chunk_rows = 8 * kRows;   // the fewest rows of a chunk
    static constexpr int few_rows = 16;  // packing B costs as much as multiplying it by so many
    static constexpr int packing = 16;   // multiply-adds in the time of packing one element of B,
    static constexpr int reading = 2;    // and of reading one of A, or one of a transposed A
    static constexpr int reading_transposed = 8;
    struct Registers {};  // what a thread prepares before it multiplies
};

struct Float32 : AnyOperand {
    static constexpr int depth = 1;         // numbers along k in one word
    static constexpr bool in_place = true;  // a matrix in memory consists of words already

    // One vector of words from `depth` consecutive rows along k, Vec::width neighbours of each.
    static BYHAND_INLINE Vec across(const Vec (&rows)[1]) { return rows[0]; }
    // One vector of words from the first n of depth * Vec::width neighbours along k.
    static BYHAND_INLINE Vec along(const float* p, std::int64_t n) { return Vec::load(p, n); }
    static BYHAND_INLINE Vec multiply_add(Vec a, Vec b, Vec sum) { return fma(a, b, sum); }
};

struct Bfloat16 : AnyOperand {
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

// The words of K numbers along k.
template <class Operand>
constexpr std::int64_t steps_of(std::int64_t K) {
    constexpr std::int64_t numbers = Operand::depth * Operand::step_unit;
    return (K + numbers - 1) / numbers * Operand::step_unit;
}

}  // namespace byhand
