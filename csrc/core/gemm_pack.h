// Packing for gemm.h: the order in memory becomes the order in which the micro-kernel reads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "gemm.h"
#include "gemm_kernel.h"

namespace byhand {

// `to` receives, for each of K rows of b, its `cols` columns (at most kPanel), padded with zeros to
// whole words.
inline void pack_panel(float* to, Matrix b, std::int64_t K, std::int64_t cols) {
    constexpr int W = Vec::width;
    if (b.col_stride == 1) {
        for (std::int64_t k = 0; k < K; ++k, to += kPanel) {
            const float* from = b.data + k * b.row_stride;
            for (std::int64_t j = 0; j < cols; j += W) Vec::load(from + j, cols - j).store(to + j);
        }
        return;
    }
    for (std::int64_t j = 0; j < cols; j += W) {
        const int filled = static_cast<int>(std::min<std::int64_t>(W, cols - j));
        for (std::int64_t k = 0; k < K; k += W) {
            const float* from = b.data + j * b.col_stride + k;
            Vec square[W];
            for (int i = 0; i < W; ++i) {
                square[i] = i < filled ? Vec::load(from + i * b.col_stride, K - k) : Vec::zero();
            }
            transpose(square);
            const int left = static_cast<int>(std::min<std::int64_t>(W, K - k));
            for (int i = 0; i < left; ++i) square[i].store(to + (k + i) * kPanel + j);
        }
    }
}

// `to` receives, for each k, the numbers of `rows` rows of a (at most kRows) whose rows are
// contiguous.
inline void pack_rows(float* to, Matrix a, std::int64_t K, std::int64_t rows) {
    for (std::int64_t k = 0; k < K; ++k, to += kRows) {
        const float* from = a.data + k * a.col_stride;
        for (std::int64_t i = 0; i < rows; i += Vec::width) {
            Vec::load(from + i, rows - i).store(to + i, rows - i);
        }
    }
}

}  // namespace byhand
