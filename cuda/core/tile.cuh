// A tile is a piece of a row held in the registers of a team: K packs of V consecutive elements a
// thread, neighbouring threads holding neighbouring packs. And the choice of team and tile for a
// row length.
#pragma once

#include "core/pack.cuh"
#include "core/team.cuh"

namespace byhand {

// How the rows of one launch are shared out. One tile holds the whole row unless kLong: then the
// kernel walks it in several tiles and, if it needs it again, keeps it in the shared memory of the
// launch (kShared) or reads it once more.
template <int V_, int K_, class Team_, bool kLong_, bool kShared_ = false>
struct Plan {
    static constexpr int V = V_;
    static constexpr int K = K_;
    static constexpr bool kLong = kLong_, kShared = kShared_;
    using Team = Team_;
    dim3 grid, block;
    int shared = 0;  // bytes
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

    // Adds a row in and rounds the sum to storage.
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

    // To a shared_row.
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

// A tile as it is stored: of bfloat16 it takes half the registers that a Tile does, and is unpacked
// wherever it is used.
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

    // From here on values are unpacked again rather than kept as floats.
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

// Where a plan with kShared keeps its row: every thread its own packs, so that none waits for
// another.
template <class P, class T>
BYHAND_DEVICE T* shared_row() {
    if constexpr (P::kShared) {
        BYHAND_DYNAMIC_SHARED(bytes);
        return reinterpret_cast<T*>(bytes);
    } else {
        return nullptr;
    }
}

// Runs f(start) for each tile of a row of `cols` elements: once when the tile holds the row.
template <class P, class F>
BYHAND_DEVICE void for_tiles(const typename P::Team& team, int64_t cols, F&& f) {
    if constexpr (P::kLong) {
        for (int64_t start = 0; start < cols; start += Tile<P>::width(team)) f(start);
    } else {
        f(int64_t{0});
    }
}

// Plans for rows that a warp, or a part of one, holds: f(plan) is called and true comes back, or
// false for longer rows.
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

// The same for a block just wide enough that its tile holds the row.
template <int V, int K, int kThreads, bool kShared = false, class F>
bool plan_block(int64_t rows, int64_t cols, F&& f) {
    if (cols > static_cast<int64_t>(kThreads) * V * K) return false;
    const int64_t threads = (cols + V * K - 1) / (V * K);
    const auto rounded = static_cast<unsigned>((threads + kWarp - 1) / kWarp * kWarp);
    f(Plan<V, K, BlockTeam<kThreads>, false, kShared>{dim3(blocks_for(rows, 1)), dim3(rounded)});
    return true;
}

// Rows of any length, read from memory as often as they are used.
template <int V, int K, class F>
bool plan_memory(int64_t rows, F&& f) {
    f(Plan<V, K, BlockTeam<512>, true>{dim3(blocks_for(rows, 1)), dim3(512)});
    return true;
}

// Rows of which `kept` bytes stay in shared memory, if there is the room. Two blocks of a
// multiprocessor take turns at waiting, so one alone is twice as wide.
template <int V, int K, class F>
bool plan_shared(int64_t rows, int64_t kept, F&& f) {
    const int64_t room = most_shared_bytes() - kTeamShared;
    if (kept > room) return false;
    const dim3 block(2 * kept <= room ? 512 : 1024);
    f(Plan<V, K, BlockTeam<1024>, true, true>{dim3(blocks_for(rows, 1)), block,
                                              static_cast<int>(kept)});
    return true;
}

// Picks the plan for kernels that use a row more than once and read it once: a part of a warp, a
// warp or a block a row, in registers; then in shared memory, `kept` bytes of it. Longer rows are
// read again. Element by element each address takes registers too: those tiles are half as wide.
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
