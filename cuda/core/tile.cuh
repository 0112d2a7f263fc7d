// A tile is a piece of a row in the registers of a team: K packs of V consecutive elements per
// thread, with neighbouring packs in neighbouring threads. Also the choice of team and tile for a
// row length.
#pragma once

#include "core/pack.cuh"
#include "core/team.cuh"

namespace byhand {

// How the rows of a launch are distributed. One tile holds the whole row unless kLong: then the
// kernel processes a row in several tiles and, if it needs the row again, keeps it in dynamic
// shared memory (kShared) or reads it again from global memory.
template <int V_, int K_, class Team_, bool kLong_, bool kShared_ = false>
struct Plan {
    static constexpr int V = V_;
    static constexpr int K = K_;
    static constexpr bool kLong = kLong_, kShared = kShared_;
    using Team = Team_;
    dim3 grid, block;
    int shared = 0;  // bytes of dynamic shared memory
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

    // All loads are issued before the first value is used, so that many are in flight.
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

    // Adds a row to the tile and rounds the sum to the storage type.
    template <class T>
    BYHAND_DEVICE void add(const Team& team, const T* row, int64_t start, int64_t end);

    template <class T>
    BYHAND_DEVICE void store(const Team& team, T* row, int64_t start, int64_t end) const {
#pragma unroll
        for (int k = 0; k < K; ++k) {
            const int64_t column = Tile::column(team, start, k);
            if (column < end) byhand::store(row + column, v[k]);
        }
    }

    // Stores to a shared_row.
    template <class T>
    BYHAND_DEVICE void keep(const Team& team, T* row, int64_t start, int64_t end) const {
#pragma unroll
        for (int k = 0; k < K; ++k) {
            const int64_t column = Tile::column(team, start, k);
            if (column < end) store_shared(row + column, v[k]);
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

// A tile in its storage type. With bfloat16 it takes half the registers of a Tile, and is converted
// to float where it is used.
template <class T, class P>
struct Words {
    using Team = typename P::Team;
    Word<T, P::V> word[P::K];

    BYHAND_DEVICE void load(const Team& team, const T* row, int64_t start, int64_t end) {
#pragma unroll
        for (int k = 0; k < P::K; ++k) {
            const int64_t column = Tile<P>::column(team, start, k);
            word[k] = column < end ? read_word<P::V>(row + column) : Word<T, P::V>{};
        }
    }
    BYHAND_DEVICE void get(float (&v)[P::V], int k) const { unpack<T>(v, word[k]); }

    // Makes the compiler convert values again instead of keeping them as floats.
    BYHAND_DEVICE void forget_values() {
        if constexpr (sizeof(T) < sizeof(float) && P::V > 1) {
#pragma unroll
            for (Word<T, P::V>& w : word) forget(w.x), forget(w.y), forget(w.z), forget(w.w);
        }
    }
};

template <class P>
template <class T>
BYHAND_DEVICE void Tile<P>::add(const Team& team, const T* row, int64_t start, int64_t end) {
    Words<T, P> other;
    other.load(team, row, start, end);
#pragma unroll
    for (int k = 0; k < K; ++k) {
        float more[V];
        other.get(more, k);
#pragma unroll
        for (int j = 0; j < V; ++j) v[k][j] = to_float(from_float<T>(v[k][j] + more[j]));
    }
}

// The row that a plan with kShared keeps in shared memory. Each thread accesses only its own packs,
// so no barrier is needed.
template <class P, class T>
BYHAND_DEVICE T* shared_row() {
    if constexpr (P::kShared) {
        BYHAND_DYNAMIC_SHARED(bytes);
        return reinterpret_cast<T*>(bytes);
    } else {
        return nullptr;
    }
}

// Calls f(start) for each tile of a row of `cols` elements; once if one tile holds the row.
template <class P, class F>
BYHAND_DEVICE void for_tiles(const typename P::Team& team, int64_t cols, F&& f) {
    if constexpr (P::kLong) {
        for (int64_t start = 0; start < cols; start += Tile<P>::width(team)) f(start);
    } else {
        f(int64_t{0});
    }
}

// Plans for rows that fit in the registers of a warp or a part of a warp: calls f(plan) and returns
// true, or returns false for longer rows.
template <int V, int K, int kLanes = kWarp, class F>
bool plan_lanes(int64_t rows, int64_t cols, F&& f) {
    if (cols > static_cast<int64_t>(kLanes) * V * K) return false;
    using Team = LaneTeam<kLanes>;
    f(Plan<V, K, Team, false>{dim3(blocks_for(rows, Team::kTeams)), dim3(kLanes, Team::kTeams)});
    return true;
}

template <class T, class F>
bool plan_short(int64_t rows, int64_t cols, bool packed, F&& f) {
    constexpr int V = kPack<T>;
    if (!packed) {
        return plan_lanes<1, 4, 4>(rows, cols, f) || plan_lanes<1, 2>(rows, cols, f) ||
               plan_lanes<1, 8>(rows, cols, f);
    }
    if (plan_lanes<V, 1, 4>(rows, cols, f) || plan_lanes<V, 1, 16>(rows, cols, f) ||
        plan_lanes<V, 1>(rows, cols, f) || plan_lanes<V, 2>(rows, cols, f) ||
        plan_lanes<V, 3>(rows, cols, f) || plan_lanes<V, 4>(rows, cols, f)) {
        return true;
    }
    if constexpr (V == 4) return plan_lanes<V, 6>(rows, cols, f) || plan_lanes<V, 8>(rows, cols, f);
    return false;
}

// The same for rows that fit in the registers of a block, which has as few threads as possible.
template <int V, int K, int kThreads, bool kShared = false, class F>
bool plan_block(int64_t rows, int64_t cols, F&& f) {
    if (cols > static_cast<int64_t>(kThreads) * V * K) return false;
    const int64_t threads = (cols + V * K - 1) / (V * K);
    const auto rounded = static_cast<unsigned>((threads + kWarp - 1) / kWarp * kWarp);
    f(Plan<V, K, BlockTeam<kThreads>, false, kShared>{dim3(blocks_for(rows, 1)), dim3(rounded)});
    return true;
}

// Plans for rows of any length, which are read from memory each time they are used.
template <int V, int K, class F>
bool plan_memory(int64_t rows, F&& f) {
    f(Plan<V, K, BlockTeam<512>, true>{dim3(blocks_for(rows, 1)), dim3(512)});
    return true;
}

// Plans for rows that are read in tiles: a warp for a row of a few tiles, else a block; at most
// max_teams of them.
template <int V, int K, class F>
void plan_tiles(int64_t rows, int64_t cols, F&& f, int64_t max_teams = INT64_MAX) {
    constexpr int kThreads = 256;
    const int64_t teams = std::min(rows, max_teams);
    if (cols <= 1024) {
        f(Plan<V, K, WarpTeam, true>{dim3(blocks_for(teams, WarpTeam::kTeams)),
                                     dim3(kWarp, WarpTeam::kTeams)});
    } else {
        f(Plan<V, K, BlockTeam<kThreads>, true>{dim3(blocks_for(teams, 1)), dim3(kThreads)});
    }
}

// Plans for rows of which `kept` bytes are stored in shared memory, if they fit. If a
// multiprocessor has room for one block only, the block is twice as wide.
template <int V, int K, class F>
bool plan_shared(int64_t rows, int64_t kept, F&& f) {
    const int64_t room = most_shared_bytes() - kTeamShared;
    if (kept > room) return false;
    const dim3 block(2 * kept <= room ? 512 : 1024);
    f(Plan<V, K, BlockTeam<1024>, true, true>{dim3(blocks_for(rows, 1)), block,
                                              static_cast<int>(kept)});
    return true;
}

// Chooses the plan for kernels that use a row more than once: a part of a warp, a warp or a block
// per row, with the row in registers, else `kept` bytes of it in shared memory. Longer rows are
// read again. Without packs every element needs an address in registers, so those tiles are half as
// wide.
template <class T, class F>
void plan_rows(int64_t rows, int64_t cols, bool packed, int64_t kept, F&& f) {
    constexpr int V = kPack<T>;
    if (plan_short<T>(rows, cols, packed, f)) return;
    if (packed) {
        plan_block<V, 16 / V, 512>(rows, cols, f) || plan_shared<V, 16 / V>(rows, kept, f) ||
            plan_memory<V, 16 / V>(rows, f);
    } else {
        plan_block<1, 4, 1024>(rows, cols, f) || plan_shared<1, 4>(rows, kept, f) ||
            plan_memory<1, 4>(rows, f);
    }
}

}  // namespace byhand
