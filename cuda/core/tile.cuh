// A tile is a piece of a row held in the registers of a team: K packs of V consecutive elements a
// thread, neighbouring threads holding neighbouring packs. And the choice of team and tile for a
// row length.
#pragma once

#include "core/pack.cuh"
#include "core/team.cuh"

namespace byhand {

// How the rows of one launch are shared out. If kLong, a row is longer than one tile and the kernel
// walks it in several; otherwise one tile holds the whole row.
template <int V_, int K_, class Team_, bool kLong_>
struct Plan {
    static constexpr int V = V_;
    static constexpr int K = K_;
    static constexpr bool kLong = kLong_;
    using Team = Team_;
    dim3 grid, block;
};

template <class P>
struct Tile {
    static constexpr int V = P::V, K = P::K;
    using Team = typename P::Team;
    float v[K][V];

    static BYHAND_DEVICE int64_t column(const Team& team, int64_t start, int k) {
        return start + static_cast<int64_t>(k * team.size() + team.rank()) * V;
    }
    static BYHAND_DEVICE int64_t width(const Team& team) {
        return static_cast<int64_t>(K * V) * team.size();
    }

    // All loads are issued before the first value is used: that is what keeps the memory busy.
    template <class T>
    BYHAND_DEVICE void load(const Team& team, const T* row, int64_t start, int64_t end,
                            float rest) {
#pragma unroll
        for (int k = 0; k < K; ++k) {
            const int64_t column = Tile::column(team, start, k);
            if (column < end) {
                byhand::load(v[k], row + column);
            } else {
#pragma unroll
                for (int j = 0; j < V; ++j) v[k][j] = rest;
            }
        }
    }

    template <class T>
    BYHAND_DEVICE void store(const Team& team, T* row, int64_t start, int64_t end) const {
#pragma unroll
        for (int k = 0; k < K; ++k) {
            const int64_t column = Tile::column(team, start, k);
            if (column < end) byhand::store(row + column, v[k]);
        }
    }

    // f(value, k, j) for every element, in order.
    template <class F>
    BYHAND_DEVICE void each(F&& f) {
#pragma unroll
        for (int k = 0; k < K; ++k) {
#pragma unroll
            for (int j = 0; j < V; ++j) f(v[k][j], k, j);
        }
    }
};

// Runs f(start) for each tile of a row of `cols` elements: once when the tile holds the row.
template <class P, class F>
BYHAND_DEVICE void for_tiles(const typename P::Team& team, int64_t cols, F&& f) {
    if constexpr (P::kLong) {
        for (int64_t start = 0; start < cols; start += Tile<P>::width(team)) f(start);
    } else {
        f(int64_t{0});
    }
}

namespace detail {

template <int V, int K, int... Rest, class F>
void plan_warp(int64_t rows, int64_t cols, F&& f) {
    if (cols <= static_cast<int64_t>(kWarp) * V * K || sizeof...(Rest) == 0) {
        f(Plan<V, K, WarpTeam, false>{dim3(blocks_for(rows, WarpTeam::kTeams)),
                                      dim3(kWarp, WarpTeam::kTeams)});
    } else if constexpr (sizeof...(Rest) > 0) {
        plan_warp<V, Rest...>(rows, cols, f);
    }
}

// A block just wide enough that its tile holds the row.
template <int V, int K, int kThreads, class F>
void plan_block(int64_t rows, int64_t cols, F&& f) {
    const int64_t threads = (cols + V * K - 1) / (V * K);
    const auto rounded = static_cast<unsigned>((threads + kWarp - 1) / kWarp * kWarp);
    f(Plan<V, K, BlockTeam<kThreads>, false>{dim3(blocks_for(rows, 1)), dim3(rounded)});
}

template <int V, int K, class F>
void plan_long(int64_t rows, F&& f) {
    constexpr int kThreads = 512;
    f(Plan<V, K, BlockTeam<kThreads>, true>{dim3(blocks_for(rows, 1)), dim3(kThreads)});
}

}  // namespace detail

// Picks the plan for kernels that keep a row in registers: a warp a row up to 1024 columns, a block
// a row up to 1024 * kPerThread, several tiles beyond. kPerThread is what a thread of a full block
// can hold within its 64 registers. Element by element each address takes registers too, so those
// blocks are half as wide.
template <class T, int kPerThread = 16, class F>
void plan_rows(int64_t rows, int64_t cols, bool packed, F&& f) {
    constexpr int kFull = 1024, kV = kPack<T>;
    if (packed) {
        if (cols <= 1024) {
            if constexpr (kV == 4) {
                detail::plan_warp<4, 1, 2, 3, 4, 6, 8>(rows, cols, f);
            } else {
                detail::plan_warp<8, 1, 2, 3, 4>(rows, cols, f);
            }
        } else if (cols <= static_cast<int64_t>(kFull) * kPerThread) {
            detail::plan_block<kV, kPerThread / kV, kFull>(rows, cols, f);
        } else {
            detail::plan_long<kV, 16 / kV>(rows, f);
        }
    } else if (cols <= 1024) {
        detail::plan_warp<1, 2, 8, 32>(rows, cols, f);
    } else if (cols <= static_cast<int64_t>(kFull / 2) * kPerThread) {
        detail::plan_block<1, kPerThread, kFull / 2>(rows, cols, f);
    } else {
        detail::plan_long<1, 4>(rows, f);
    }
}

}  // namespace byhand
