// The micro-kernel of gemm.h: up to kRows x kPanel sums in registers.
#pragma once

#include <cstdint>

#include "matmul/gemm.h"
#include "simd/vec.h"

namespace byhand {

// As many sums as fit in the registers beside one row of the panel and one broadcast number: 14 x 2
// of 32 registers with AVX-512, 6 x 2 of 16 with AVX2, 8 x 3 of 32 on Arm.
#if defined(__aarch64__)
inline constexpr int kRows = 8, kPanelVecs = 3;
#else
inline constexpr int kRows = Vec::width == 16 ? 14 : 6, kPanelVecs = 2;
#endif
inline constexpr int kPanel = kPanelVecs * Vec::width;

struct MicroTile {
    Matrix a;  // of words; one of its strides is 1, which one is a template argument
    const float* b;
    std::int64_t b_stride;  // between consecutive steps
    std::int64_t steps;     // words along k
    float* c;
    std::int64_t c_stride;
    std::int64_t cols;  // columns of C, at most vecs * width
    const float* bias;  // or null
    const float* add;   // as c, or null
};

// Stores narrow tiles, at the right edge of C: the same arithmetic with masked stores.
inline void store_masked(const MicroTile& t, const float* sums, int rows, int stride) {
    for (int i = 0; i < rows; ++i) {
        for (std::int64_t j = 0; j < t.cols; j += Vec::width) {
            const std::int64_t n = t.cols - j, at = i * t.c_stride + j;
            Vec x = Vec::load(sums + i * stride + j);
            if (t.bias) x = x + Vec::load(t.bias + j, n);
            if (t.add) x = x + Vec::load(t.add + at, n);
            x.store(t.c + at, n);
        }
    }
}

// rows_adjacent: in `a` the rows are adjacent (packed, or A transposed); otherwise the columns are,
// which run over k.
template <class Operand, bool rows_adjacent, int rows, int vecs>
void micro_kernel(const MicroTile& t) {
    constexpr int W = Vec::width;
    Vec sum[rows][vecs];
    BYHAND_UNROLL
    for (int i = 0; i < rows; ++i) {
        BYHAND_UNROLL
        for (int v = 0; v < vecs; ++v) sum[i][v] = Vec::zero();
    }
    const float* a = t.a.data;
    const float* b = t.b;
    const std::int64_t row_stride = rows_adjacent ? 1 : t.a.row_stride;
    const std::int64_t step = rows_adjacent ? t.a.col_stride : 1, b_stride = t.b_stride;
    for (std::int64_t k = t.steps; k > 0; --k) {
        Vec row[vecs];
        BYHAND_UNROLL
        for (int v = 0; v < vecs; ++v) row[v] = Vec::load(b + v * W);
        BYHAND_UNROLL
        for (int i = 0; i < rows; ++i) {
            const Vec x = Vec::set(a[i * row_stride]);
            BYHAND_UNROLL
            for (int v = 0; v < vecs; ++v) sum[i][v] = Operand::multiply_add(x, row[v], sum[i][v]);
        }
        a += step;
        b += b_stride;
    }
    if (t.cols < vecs * W) {
        float sums[rows * vecs * W];
        BYHAND_UNROLL
        for (int i = 0; i < rows; ++i) {
            BYHAND_UNROLL
            for (int v = 0; v < vecs; ++v) sum[i][v].store(sums + (i * vecs + v) * W);
        }
        return store_masked(t, sums, rows, vecs * W);
    }
    if (t.bias) {
        BYHAND_UNROLL
        for (int i = 0; i < rows; ++i) {
            BYHAND_UNROLL
            for (int v = 0; v < vecs; ++v) sum[i][v] += Vec::load(t.bias + v * W);
        }
    }
    if (t.add) {
        BYHAND_UNROLL
        for (int i = 0; i < rows; ++i) {
            BYHAND_UNROLL
            for (int v = 0; v < vecs; ++v) sum[i][v] += Vec::load(t.add + i * t.c_stride + v * W);
        }
    }
    BYHAND_UNROLL
    for (int i = 0; i < rows; ++i) {
        BYHAND_UNROLL
        for (int v = 0; v < vecs; ++v) sum[i][v].store(t.c + i * t.c_stride + v * W);
    }
}

}  // namespace byhand
