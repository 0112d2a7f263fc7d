// The case of gemm.h with few rows, as in decoding token by token: C = A BT where both operands
// have K contiguous.
//
// Each element is a dot product along K, computed Vec::width lanes at a time, for a few rows and
// columns together so that a loaded vector is used more than once. B is not packed: each of its
// elements is used by these few rows only.
#pragma once

#include <algorithm>
#include <cstdint>

#include "matmul/gemm.h"
#include "matmul/gemm_operand.h"

namespace byhand {

inline constexpr int kDotRows = Vec::width == 16 ? 4 : 2, kDotCols = 4;

template <class Operand, int rows, int cols>
void dot_products(float (&sums)[kDotRows][kDotCols], const float* a, std::int64_t a_stride,
                  const float* b, std::int64_t b_stride, std::int64_t K) {
    Vec sum[rows][cols];
    BYHAND_UNROLL
    for (int i = 0; i < rows; ++i) {
        BYHAND_UNROLL
        for (int j = 0; j < cols; ++j) sum[i][j] = Vec::zero();
    }
    const auto step = [&](std::int64_t k, std::int64_t n) __attribute__((always_inline)) {
        Vec y[cols];
        BYHAND_UNROLL
        for (int j = 0; j < cols; ++j) y[j] = Operand::along(b + j * b_stride + k, n);
        BYHAND_UNROLL
        for (int i = 0; i < rows; ++i) {
            const Vec x = Operand::along(a + i * a_stride + k, n);
            BYHAND_UNROLL
            for (int j = 0; j < cols; ++j) sum[i][j] = Operand::multiply_add(x, y[j], sum[i][j]);
        }
    };
    constexpr int kStep = Operand::depth * Vec::width;
    std::int64_t k = 0;
    for (; k + kStep <= K; k += kStep) step(k, kStep);
    if (k < K) step(k, K - k);
    BYHAND_UNROLL
    for (int i = 0; i < rows; ++i) {
        BYHAND_UNROLL
        for (int j = 0; j < cols; ++j) sums[i][j] = sum[i][j].sum();
    }
}

template <class Operand, int cols, int rows = kDotRows>
void dot_products(int m, float (&sums)[kDotRows][kDotCols], const float* a, std::int64_t a_stride,
                  const float* b, std::int64_t b_stride, std::int64_t K) {
    if (m >= rows) return dot_products<Operand, rows, cols>(sums, a, a_stride, b, b_stride, K);
    if constexpr (rows > 1)
        dot_products<Operand, cols, rows - 1>(m, sums, a, a_stride, b, b_stride, K);
}

// Columns [begin, end) of all M rows of C (M,N), up to the activation.
template <class Operand>
void gemm_few_rows(float* c, Matrix a, Matrix b, std::int64_t M, std::int64_t N, std::int64_t K,
                   std::int64_t begin, std::int64_t end, const Epilogue& epilogue) {
    for (std::int64_t n = begin; n < end;) {
        const int cols = end - n >= kDotCols ? kDotCols : 1;
        for (std::int64_t m = 0; m < M; m += kDotRows) {
            const int rows = static_cast<int>(std::min<std::int64_t>(kDotRows, M - m));
            const float* x = a.data + m * a.row_stride;
            const float* y = b.data + n * b.col_stride;
            float sums[kDotRows][kDotCols];
            if (cols == 1) {
                dot_products<Operand, 1>(rows, sums, x, a.row_stride, y, b.col_stride, K);
            } else {
                dot_products<Operand, kDotCols>(rows, sums, x, a.row_stride, y, b.col_stride, K);
            }
            for (int i = 0; i < rows; ++i) {
                for (int j = 0; j < cols; ++j) {
                    const std::int64_t at = (m + i) * N + n + j;
                    float s = sums[i][j];
                    if (epilogue.bias) s += epilogue.bias[n + j];
                    if (epilogue.add) s += epilogue.add[at];
                    c[at] = s;
                }
            }
        }
        n += cols;
    }
}

}  // namespace byhand
