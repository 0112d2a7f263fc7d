// Packing for gemm.h: the order in memory becomes the order in which the micro-kernel reads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "gemm.h"
#include "gemm_kernel.h"

namespace byhand {

// Panels are `width` columns wide; each holds its columns of K rows one row after the other, and
// starts panel_stride<width>(K) after the one before: packing stores whole words, which may run
// over.
template <int width>
constexpr std::int64_t panel_stride(std::int64_t K) {
    return K * width + (width % Vec::width == 0 ? 0 : Vec::width);
}

// From rows that are contiguous. `together` panels are filled side by side, since one panel's share
// of a row is short; the rows may be a page apart, where no hardware prefetcher follows. `readable`
// columns exist in memory, of which `cols` are wanted.
template <int width, int together>
void pack_contiguous(float* to, const float* from, std::int64_t stride, std::int64_t K,
                     std::int64_t cols, std::int64_t readable) {
    constexpr int W = Vec::width, kAhead = 16;
    constexpr std::int64_t kStep = together * width;
    for (std::int64_t begin = 0; begin < cols; begin += kStep) {
        const std::int64_t end = std::min(begin + kStep, cols);
        for (std::int64_t k = 0; k < K; ++k) {
            const float* row = from + k * stride;
            float* panel = to + begin / width * panel_stride<width>(K) + k * width;
            for (std::int64_t j = begin; j < end; j += width, panel += panel_stride<width>(K)) {
                for (int i = 0; i < width; i += W) {
                    __builtin_prefetch(row + kAhead * stride + j + i);
                    Vec::load(row + j + i, readable - j - i).store(panel + i);
                }
            }
        }
    }
}

// From columns that are contiguous: squares of words are transposed on the way.
inline void pack_transposed(float* to, const float* from, std::int64_t stride, std::int64_t K,
                            std::int64_t cols) {
    constexpr int W = Vec::width;
    for (std::int64_t j = 0; j < cols; j += W) {
        float* panel = to + j / kPanel * panel_stride<kPanel>(K) + j % kPanel;
        const int filled = static_cast<int>(std::min<std::int64_t>(W, cols - j));
        for (std::int64_t k = 0; k < K; k += W) {
            Vec square[W];
            BYHAND_UNROLL
            for (int i = 0; i < W; ++i) {
                square[i] =
                    i < filled ? Vec::load(from + (j + i) * stride + k, K - k) : Vec::zero();
            }
            transpose(square);
            const int left = static_cast<int>(std::min<std::int64_t>(W, K - k));
            BYHAND_UNROLL
            for (int i = 0; i < W; ++i) {
                if (i < left) square[i].store(panel + (k + i) * kPanel);
            }
        }
    }
}

// All panels of K rows and `cols` columns of b; what lies beside the last column is zero or unused.
inline void pack_panels(float* to, Matrix b, std::int64_t K, std::int64_t cols) {
    if (b.col_stride == 1) {
        pack_contiguous<kPanel, 4>(to, b.data, b.row_stride, K, cols, cols);
    } else {
        pack_transposed(to, b.data, b.col_stride, K, cols);
    }
}

// Rows of A packed at a time, in panels: a few whole cache lines of each of its columns.
inline constexpr int kRowPanels = 8;

// `rows` rows of a, whose columns are contiguous, in panels of kRows; `readable` rows exist from
// here.
inline void pack_rows(float* to, Matrix a, std::int64_t K, std::int64_t rows,
                      std::int64_t readable) {
    pack_contiguous<kRows, kRowPanels>(to, a.data, a.col_stride, K, rows, readable);
}

}  // namespace byhand
