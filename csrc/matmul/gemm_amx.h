// The micro-kernel of gemm.h on the tile registers of AMX (simd/tiles.h), for bf16 precision.
//
// It keeps 2 x 2 tiles of sums, for 32 rows of A and a panel of B. The words are those of Bfloat16,
// a word of B for each step and column and a word of A for each row and step; their number along k
// is rounded up to whole tiles, with zeros.
//
// Subnormal numbers count as zero, in operands and in sums, and sums are rounded to nearest, as in
// vdpbf16ps; their order differs from that of vdpbf16ps.
#pragma once

#include "matmul/gemm_kernel.h"
#include "matmul/gemm_operand.h"
#include "simd/tiles.h"

#if defined(BYHAND_TILES)

#include <atomic>
#include <cstdint>

namespace byhand {

// As Bfloat16, with its words in whole tiles.
struct TiledBfloat16 : Bfloat16 {
    static constexpr int rows = 2 * kTileRows, step_unit = kTileWords;
    static constexpr bool packed_along = true;
    static constexpr int packed_rows = 128, chunk_rows = 512, few_rows = 4;
    static constexpr int packing = 256, reading = 64, reading_transposed = 128;
    using Registers = Tiles;
};

// As store_masked for a tile of `width` columns, all of which are in C.
template <int width>
inline void store_whole(const MicroTile& t, const float* sums, int rows) {
    const float *const bias = t.bias, *add = t.add;
    float* c = t.c;
    for (int i = 0; i < rows; ++i, c += t.c_stride, sums += width) {
        BYHAND_UNROLL
        for (int j = 0; j < width; j += Vec::width) {
            Vec x = Vec::load(sums + j);
            if (bias) x += Vec::load(bias + j);
            if (add) x += Vec::load(add + j);
            x.store(c + j);
        }
        if (add) add += t.c_stride;
    }
}

// Sums of up to 2 tiles of rows, each of kTileRows rows, and up to 2 tiles of columns. t.a holds
// rows along k, and both operands as many rows and columns as fill the tiles; what lies beyond
// those of C is multiplied and not stored. The rows are prefetched one after the other: all at once
// would keep the tiles of B, which come from the second-level cache, waiting.
template <int row_tiles, int col_tiles, class Prefetch>
BYHAND_TILE_FUNCTION void tile_kernel(const MicroTile& t, int rows, const Prefetch& prefetch) {
    constexpr bool low = row_tiles == 2, right = col_tiles == 2;
    const std::int64_t a_bytes = 4 * t.a.row_stride, b_bytes = 4 * t.b_stride;
    const float *a = t.a.data, *b = t.b;
    const float* const a_low = a + kTileRows * t.a.row_stride;
    // The intrinsics of GCC do not say that they read memory.
    std::atomic_signal_fence(std::memory_order_seq_cst);
    _tile_zero(0);
    if constexpr (right) _tile_zero(1);
    if constexpr (low) _tile_zero(2);
    if constexpr (low && right) _tile_zero(3);
    int prefetched = 0;
    for (std::int64_t k = 0; k < t.steps; k += kTileWords) {
        for (; prefetched * t.steps < (k + kTileWords) * rows; ++prefetched) prefetch(prefetched);
        const float* const row = b + k * t.b_stride;
        _tile_loadd(4, a + k, a_bytes);
        _tile_loadd(6, row, b_bytes);
        _tile_dpbf16ps(0, 4, 6);
        if constexpr (right) {
            _tile_loadd(7, row + kTileWords, b_bytes);
            _tile_dpbf16ps(1, 4, 7);
        }
        if constexpr (low) {
            _tile_loadd(5, a_low + k, a_bytes);
            _tile_dpbf16ps(2, 5, 6);
        }
        if constexpr (low && right) _tile_dpbf16ps(3, 5, 7);
    }
    constexpr int width = col_tiles * kTileWords;
    alignas(64) float sums[row_tiles * kTileRows * width];
    const bool whole = t.cols == width;
    const bool direct = whole && rows == row_tiles * kTileRows && !t.bias && !t.add;
    float* const to = direct ? t.c : sums;
    const std::int64_t stride = direct ? t.c_stride : width;
    _tile_stored(0, to, 4 * stride);
    if constexpr (right) _tile_stored(1, to + kTileWords, 4 * stride);
    if constexpr (low) _tile_stored(2, to + kTileRows * stride, 4 * stride);
    if constexpr (low && right) {
        _tile_stored(3, to + kTileRows * stride + kTileWords, 4 * stride);
    }
    if (direct) return;
    whole ? store_whole<width>(t, sums, rows) : store_masked(t, sums, rows, width);
}

template <class Prefetch>
void multiply_tile(TiledBfloat16, const MicroTile& t, int rows, const Prefetch& prefetch) {
    if (rows > kTileRows) {
        t.cols > kTileWords ? tile_kernel<2, 2>(t, rows, prefetch)
                            : tile_kernel<2, 1>(t, rows, prefetch);
    } else {
        t.cols > kTileWords ? tile_kernel<1, 2>(t, rows, prefetch)
                            : tile_kernel<1, 1>(t, rows, prefetch);
    }
}

}  // namespace byhand
#endif
