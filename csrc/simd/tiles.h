// The tile registers of AMX, where the compiler knows them: BYHAND_TILES is then defined, and
// has_tiles() says whether this processor and system let this process use them.
//
// A tile is 16 rows of 64 bytes. tdpbf16ps multiplies a tile of 16 rows of A, each of 32 bfloat16
// along k, by a tile of 16 rows of B, each of 16 columns with two neighbours along k, and adds the
// product to a tile of 16 x 16 float32: 8192 multiply-adds, in as many cycles as dot_pairs of vec.h
// needs for 512.
//
// The compiler must not use these registers by itself: the system saves and restores their 8 KB at
// each context switch unless they were released. So no flag of the compiler names AMX, functions
// that use it are marked BYHAND_TILE_FUNCTION, and a thread holds the registers during its part of
// one kernel only.
#pragma once

#include "simd/vec.h"

#if defined(BYHAND_BF16_PAIRS) && defined(__x86_64__) && defined(__linux__) && \
    (defined(__clang__) || __GNUC__ >= 11)
#define BYHAND_TILES

#include <cstdint>

#include "host/processor.h"

#define BYHAND_TILE_FUNCTION __attribute__((target("amx-tile,amx-bf16")))

namespace byhand {

inline constexpr int kTileRows = 16, kTileBytes = 64;
inline constexpr int kTileWords = kTileBytes / 4;

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
    BYHAND_TILE_FUNCTION Tiles() { _tile_loadconfig(&kTileConfig); }
    BYHAND_TILE_FUNCTION ~Tiles() { _tile_release(); }
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;
};

}  // namespace byhand
#endif
