// The micro-kernel of gemm.h on the tile registers of AMX, for products in bf16 precision.
//
// A tile is 16 rows of 64 bytes. tdpbf16ps multiplies a tile of 16 rows of A, 32 numbers along k in
// each, by a tile of 16 words along k and 16 columns of B, and adds the product to a tile of 16 x 16
// float32 sums: 8192 multiply-adds, in as many cycles as dot_pairs needs for 512. The kernel keeps
// 2 x 2 tiles of sums. The words are those of Bfloat16; only the number of words along k is rounded
// up to whole tiles, with zeros.
//
// Subnormal numbers count as zero, in operands and in sums, and all is rounded to nearest, as in
// vdpbf16ps. The sums of a tile have another order than those of vdpbf16ps.
//
// The compiler must not use these registers elsewhere: the system saves and restores their 8 KB at
// each context switch, unless they were released. So no flag of the compiler names AMX, and each
// thread configures the registers at the begin of its part of a product and releases them at the
// end. The system must have allowed them: has_feature asks for that.
#pragma once

#include "matmul/gemm_kernel.h"
#include "matmul/gemm_operand.h"

#if defined(BYHAND_BF16_PAIRS) && defined(__x86_64__) && defined(__linux__) && \
    (defined(__clang__) || __GNUC__ >= 11)
#define BYHAND_AMX

#include <immintrin.h>

#include <atomic>
#include <cstdint>

#include "host/processor.h"

#define BYHAND_AMX_FUNCTION __attribute__((target("amx-tile,amx-bf16")))

namespace byhand {

inline constexpr int kTileRows = 16, kTileBytes = 64;
inline constexpr int kTileWords = kTileBytes / 4;  // words along k, and columns of B and C

inline bool has_tiles() {
    static const bool found = has_feature("amx_bf16");
    return found;
}

// A configuration of the tile registers: all eight in full size.
struct alignas(64) TileConfig {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t bytes[16] = {kTileBytes, kTileBytes, kTileBytes, kTileBytes,
                               kTileBytes, kTileBytes, kTileBytes, kTileBytes};
    std::uint8_t rows[16] = {kTileRows, kTileRows, kTileRows, kTileRows,
                             kTileRows, kTileRows, kTileRows, kTileRows};
};
inline constexpr TileConfig kTileConfig{};

// The tile registers of this thread, in use while this object exists.
class Tiles {
  public:
    BYHAND_AMX_FUNCTION Tiles() { _tile_loadconfig(&kTileConfig); }
    BYHAND_AMX_FUNCTION ~Tiles() { _tile_release(); }
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;
};

// As Bfloat16, with its words in whole tiles.
struct TiledBfloat16 : Bfloat16 {
    static constexpr int rows = 2 * kTileRows, step_unit = kTileWords;
    static constexpr bool packed_along = true;
    static constexpr int packed_rows = 128, chunk_rows = 512;
    static constexpr int packing = 256, reading = 64, reading_transposed = 128;
    using Registers = Tiles;
};

// Sums of up to 2 tiles of rows, each of kTileRows rows, and up to 2 tiles of columns. t.a holds
// rows along k, and both operands as many rows and columns as fill the tiles; what lies beyond those
// of C is multiplied and not stored. The rows are prefetched one after the other: all at once would
// keep the tiles of B, which come from the second-level cache, waiting.
template <int row_tiles, int col_tiles, class Prefetch>
BYHAND_AMX_FUNCTION void tile_kernel(const MicroTile& t, int rows, Prefetch prefetch) {
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
    constexpr int stride = col_tiles * kTileWords;
    alignas(64) float sums[row_tiles * kTileRows * stride];
    _tile_stored(0, sums, 4 * stride);
    if constexpr (right) _tile_stored(1, sums + kTileWords, 4 * stride);
    if constexpr (low) _tile_stored(2, sums + kTileRows * stride, 4 * stride);
    if constexpr (low && right) {
        _tile_stored(3, sums + kTileRows * stride + kTileWords, 4 * stride);
    }
    store_masked(t, sums, rows, stride);
}

template <class Prefetch>
void multiply_tile(TiledBfloat16, const MicroTile& t, int rows, Prefetch prefetch) {
    if (rows > kTileRows) {
        t.cols > kTileWords ? tile_kernel<2, 2>(t, rows, prefetch) : tile_kernel<2, 1>(t, rows, prefetch);
    } else {
        t.cols > kTileWords ? tile_kernel<1, 2>(t, rows, prefetch) : tile_kernel<1, 1>(t, rows, prefetch);
    }
}

}  // namespace byhand
#endif
