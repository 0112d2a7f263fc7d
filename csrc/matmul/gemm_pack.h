// Packing for gemm.h: copies operands into the order in which the micro-kernel reads them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/cache.h"
#include "matmul/gemm.h"
#include "matmul/gemm_kernel.h"
#include "matmul/gemm_operand.h"

namespace byhand {

// Steps are words along k. A panel is `width` columns wide and holds one step after the other; the
// next panel starts panel_stride<width>(steps) later. Packing stores whole vectors, which may
// extend past the end of a panel.
template <int width>
constexpr std::int64_t panel_stride(std::int64_t steps) {
    return steps * width + (width % Vec::width == 0 ? 0 : Vec::width);
}

// Packs contiguous rows. `together` panels are filled at the same time, because one panel's part of
// a row is short, and rows may be a page apart, which hardware prefetchers do not cross. `readable`
// columns exist in memory, of which `cols` are packed.
template <class Operand, int width, int together>
void pack_contiguous(float* to, const float* from, std::int64_t stride, std::int64_t K,
                     std::int64_t cols, std::int64_t readable) {
    constexpr int W = Vec::width, kAhead = 16, depth = Operand::depth;
    constexpr std::int64_t kTogether = together * width;
    const std::int64_t steps = steps_of<Operand>(K);
    for (std::int64_t begin = 0; begin < cols; begin += kTogether) {
        const std::int64_t end = std::min(begin + kTogether, cols);
        for (std::int64_t s = 0; s < steps; ++s) {
            const float* row = from + s * depth * stride;
            for (std::int64_t j = begin; j < end; j += kLineFloats) {
                BYHAND_UNROLL
                for (int d = 0; d < depth; ++d) {
                    __builtin_prefetch(row + (kAhead + d) * stride + j);
                }
            }
            float* panel = to + begin / width * panel_stride<width>(steps) + s * width;
            for (std::int64_t j = begin; j < end; j += width, panel += panel_stride<width>(steps)) {
                for (int i = 0; i < width; i += W) {
                    Vec rows[depth];
                    BYHAND_UNROLL
                    for (int d = 0; d < depth; ++d) {
                        rows[d] = s * depth + d < K
                                      ? Vec::load(row + d * stride + j + i, readable - j - i)
                                      : Vec::zero();
                    }
                    Operand::across(rows).store(panel + i);
                }
            }
        }
    }
}

// The square of words at step `s` of up to Vec::width contiguous columns, transposed: vector i is
// step s + i of these columns.
template <class Operand>
BYHAND_INLINE void transposed_words(Vec (&square)[Vec::width], const float* from,
                                    std::int64_t stride, std::int64_t n, int columns) {
    constexpr int W = Vec::width;
    if (columns == W && n >= W * Operand::depth) {
        BYHAND_UNROLL
        for (int i = 0; i < W; ++i) {
            square[i] = Operand::along(from + i * stride, W * Operand::depth);
        }
    } else {
        BYHAND_UNROLL
        for (int i = 0; i < W; ++i) {
            square[i] = i < columns ? Operand::along(from + i * stride, n) : Vec::zero();
        }
    }
    transpose(square);
}

// Packs contiguous columns, by transposing squares of words.
template <class Operand>
void pack_transposed(float* to, const float* from, std::int64_t stride, std::int64_t K,
                     std::int64_t cols) {
    constexpr int W = Vec::width, depth = Operand::depth;
    const std::int64_t steps = steps_of<Operand>(K);
    for (std::int64_t j = 0; j < cols; j += W) {
        float* panel = to + j / kPanel * panel_stride<kPanel>(steps) + j % kPanel;
        const int filled = static_cast<int>(std::min<std::int64_t>(W, cols - j));
        for (std::int64_t s = 0; s < steps; s += W) {
            const std::int64_t k = s * depth;
            Vec square[W];
            transposed_words<Operand>(square, from + j * stride + k, stride, K - k, filled);
            const int left = static_cast<int>(std::min<std::int64_t>(W, steps - s));
            if (left == W) {
                BYHAND_UNROLL
                for (int i = 0; i < W; ++i) square[i].store(panel + (s + i) * kPanel);
                continue;
            }
            BYHAND_UNROLL
            for (int i = 0; i < W; ++i) {
                if (i < left) square[i].store(panel + (s + i) * kPanel);
            }
        }
    }
}

// Packs all panels of K rows and `cols` columns of b. Elements past the last column are zero or
// unused.
template <class Operand>
void pack_panels(float* to, Matrix b, std::int64_t K, std::int64_t cols) {
    if (b.col_stride == 1) {
        pack_contiguous<Operand, kPanel, 4>(to, b.data, b.row_stride, K, cols, cols);
    } else {
        pack_transposed<Operand>(to, b.data, b.col_stride, K, cols);
    }
}

// Packs `rows` rows of a, whose columns are contiguous, into panels of kRows. `readable` rows exist
// from here.
template <class Operand>
void pack_rows(float* to, Matrix a, std::int64_t K, std::int64_t rows, std::int64_t readable) {
    constexpr int together = Operand::packed_rows / kRows;  // a few whole cache lines of a column
    pack_contiguous<Operand, kRows, together>(to, a.data, a.col_stride, K, rows, readable);
}

// The distance between packed rows. One extra vector keeps rows whose length is a power of two from
// mapping to the same few sets of the cache.
constexpr std::int64_t row_stride(std::int64_t steps) {
    return ((steps + Vec::width - 1) / Vec::width | 1) * Vec::width;
}

// Packs `rows` contiguous rows of a, each into words of its own.
template <class Operand>
void pack_rows_along(float* to, Matrix a, std::int64_t K, std::int64_t rows) {
    constexpr int W = Vec::width, depth = Operand::depth;
    const std::int64_t steps = steps_of<Operand>(K);
    for (std::int64_t i = 0; i < rows; ++i) {
        const float* x = a.data + i * a.row_stride;
        float* words = to + i * row_stride(steps);
        for (std::int64_t s = 0; s < steps; s += W) {
            Operand::along(x + s * depth, K - s * depth).store(words + s);
        }
    }
}

// The same for rows of a whose columns are contiguous, by transposing squares of words.
template <class Operand>
void pack_rows_across(float* to, Matrix a, std::int64_t K, std::int64_t rows) {
    constexpr int W = Vec::width, depth = Operand::depth;
    const std::int64_t steps = steps_of<Operand>(K);
    for (std::int64_t s = 0; s < steps; s += W) {
        for (std::int64_t i = 0; i < rows; i += W) {
            Vec square[W];
            BYHAND_UNROLL
            for (int j = 0; j < W; ++j) {
                Vec columns[depth];
                BYHAND_UNROLL
                for (int d = 0; d < depth; ++d) {
                    const std::int64_t k = (s + j) * depth + d;
                    columns[d] =
                        k < K ? Vec::load(a.data + k * a.col_stride + i, rows - i) : Vec::zero();
                }
                square[j] = Operand::across(columns);
            }
            transpose(square);
            float* const words = to + i * row_stride(steps) + s;
            BYHAND_UNROLL
            for (int j = 0; j < W; ++j) square[j].store(words + j * row_stride(steps));
        }
    }
}

}  // namespace byhand
