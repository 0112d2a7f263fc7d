// The kernels of layernorm and rmsnorm. `centred` is true for layernorm, which subtracts the mean
// of a row and adds a bias; rmsnorm has neither a mean nor a bias.
#pragma once

#include "core/tile.cuh"
#include "ops/norm/norm.h"

namespace byhand {

template <class T, class P, bool centred>
__global__ void __launch_bounds__(P::Team::kThreads, P::Team::kBlocks)
    norm_forward_rows(const __grid_constant__ NormForward<T> a) {
    typename P::Team team;
    for_rows(team, a.rows, [&](int64_t row, bool here) {
        const int64_t offset = row * a.cols, end = here ? a.cols : 0;
        T* const kept = shared_row<P, T>();
        const T* const again = P::kShared ? kept : (a.s != nullptr ? a.s : a.x) + offset;

        Tile<P> v;
        const auto read = [&](int64_t start) {
            v.load(team, a.x + offset, start, end, 0.0f);
            if (a.s != nullptr) {
                v.add(team, a.add + offset, start, end);
                v.store(team, a.s + offset, start, end);
            }
            if constexpr (P::kShared) v.keep(team, kept, start, end);
        };
        const auto read_again = [&](int64_t start) {
            if constexpr (P::kLong) v.load(team, again, start, end, 0.0f);
        };

        float mu = 0.0f, square = 0.0f;
        for_tiles<P>(team, a.cols, [&](int64_t start) {
            read(start);
            v.each([&](float e, int, int) {
                if constexpr (centred) {
                    mu += e;
                } else {
                    square = fmaf(e, e, square);
                }
            });
        });
        if constexpr (centred) {
            mu = team.sum(mu) * a.share;
            for_tiles<P>(team, a.cols, [&](int64_t start) {
                read_again(start);
                v.each([&](float e, int k, int) {
                    const float d = Tile<P>::column(team, start, k) < end ? e - mu : 0.0f;
                    square = fmaf(d, d, square);
                });
            });
        }
        const float scale = 1.0f / sqrtf(fmaf(team.sum(square), a.share, a.eps));
        if (here && team.rank() == 0) {
            if constexpr (centred) a.mean[row] = mu;
            a.rstd[row] = scale;
        }
        for_tiles<P>(team, a.cols, [&](int64_t start) {
            read_again(start);
#pragma unroll
            for (int k = 0; k < P::K; ++k) {
                const int64_t column = Tile<P>::column(team, start, k);
                if (column >= end) continue;
                float weight[P::V], bias[P::V] = {};
                load(weight, a.w + column);
                if (centred && a.b != nullptr) load(bias, a.b + column);
#pragma unroll
                for (int j = 0; j < P::V; ++j) {
                    weight[j] = fmaf((v.v[k][j] - mu) * scale, weight[j], bias[j]);
                }
                store(a.y + offset + column, weight);
            }
        });
    });
}

// A row in the backward pass, in its storage type.
template <class T, class P, bool centred>
struct BackwardRow {
    using Team = typename P::Team;
    Words<T, P> x, dy;
    int64_t offset;
    bool here;
    float mean, rstd;

    BYHAND_DEVICE void read(const Team& team, const NormBackward<T>& a, int64_t row, bool here_,
                            int64_t start = 0) {
        offset = row * a.cols;
        here = here_;
        const int64_t end = here ? a.cols : 0;
        x.load(team, a.x + offset, start, end);
        dy.load(team, a.dy + offset, start, end);
        mean = centred && here ? a.mean[row] : 0.0f;
        rstd = here ? a.rstd[row] : 0.0f;
    }

    // A pack of the row: its normalised values, dy, and g = w dy.
    struct Pack {
        float xhat[P::V], dy[P::V], g[P::V];
    };
    BYHAND_DEVICE Pack pack(const float (&w)[P::V], int k) const {
        Pack p;
        x.get(p.xhat, k);
        dy.get(p.dy, k);
#pragma unroll
        for (int j = 0; j < P::V; ++j) {
            p.xhat[j] = (p.xhat[j] - mean) * rstd;
            p.g[j] = p.dy[j] * w[j];
        }
        return p;
    }

    BYHAND_DEVICE void write(const NormBackward<T>& a, const Pack& p, int64_t column, float mean_g,
                             float mean_gx) const {
        float d[P::V] = {};
        if (a.ds != nullptr) load(d, a.ds + offset + column);
#pragma unroll
        for (int j = 0; j < P::V; ++j) {
            const float through = fmaf(p.xhat[j], mean_gx, mean_g);
            d[j] = fmaf(p.g[j] - through, rstd, d[j]);
        }
        store(a.dx + offset + column, d);
    }
};

// The sums over rows of a thread's own columns, in registers or, if kShared, in shared memory,
// where neighbouring threads have neighbouring elements.
template <class P, bool centred>
struct ColumnSums {
    static constexpr int kValues = P::V * P::K, kParts = centred ? 2 : 1;
    static constexpr int kSharedBytes = kParts * kValues * P::Team::kThreads * sizeof(float);
    float values[P::kShared ? 1 : kParts][P::kShared ? 1 : kValues];
    float* places;

    BYHAND_DEVICE explicit ColumnSums(const typename P::Team& team) {
        if constexpr (P::kShared) places = shared_row<P, float>() + team.rank();
#pragma unroll
        for (int i = 0; i < kParts * kValues; ++i) at(i / kValues, i % kValues) = 0.0f;
    }
    BYHAND_DEVICE float& at(int part, int i) {
        if constexpr (P::kShared) {
            return places[(part * kValues + i) * P::Team::kThreads];
        } else {
            return values[part][i];
        }
    }
};

// Whether the next row is loaded ahead, whether the weights are kept in registers, and how many
// blocks a multiprocessor should hold, all limited by the number of registers.
template <class T, class P, bool centred>
struct BackwardPlan {
    static constexpr bool kWarps = P::Team::kTeams > 1;
    static constexpr int kValues = P::K * P::V, kBytes = sizeof(T) * kValues;
    static constexpr bool kAhead = kBytes <= (kWarps ? 48 : 16), kHold = kAhead && kBytes <= 32;
    static constexpr int kRegisters = (centred ? 2 : 1) * kValues + (kAhead ? 4 : 2) * kBytes / 4;
    static constexpr int kBlocks = P::V == 1          ? 1
                                   : !kWarps          ? P::Team::kBlocks
                                   : kRegisters <= 80 ? 4
                                   : kRegisters <= 96 ? 3
                                                      : 2;
};

// Block g processes the rows of group g. A tile holds a row, and the column sums stay in registers
// or shared memory from the first row to the last. While a row is reduced, the next one is loaded,
// if there are registers for it.
template <class T, class P, bool centred>
__global__ void __launch_bounds__(P::Team::kThreads, BackwardPlan<T, P, centred>::kBlocks)
    norm_backward_rows(const __grid_constant__ NormBackward<T> a) {
    using Team = typename P::Team;
    constexpr bool kAhead = BackwardPlan<T, P, centred>::kAhead;
    constexpr bool kHold = BackwardPlan<T, P, centred>::kHold;
    Team team;
    ColumnSums<P, centred> sums(team);
    const int64_t begin = blockIdx.x * a.group_rows, end = min(a.rows, begin + a.group_rows);

    Words<T, P> held;  // the weights
    if constexpr (kHold) held.load(team, a.w, 0, a.cols);
    const auto weights = [&](float (&w)[P::V], int k, int64_t column) {
        if constexpr (kHold) {
            held.get(w, k);
        } else {
            if (column < a.cols) load(w, a.w + column);
        }
    };

    BackwardRow<T, P, centred> row, next;
    const auto read = [&](BackwardRow<T, P, centred>& r, int64_t first) {
        const int64_t at = first + team.place();
        r.read(team, a, at, (Team::kTeams == 1 && !kAhead) || at < end);
    };
    if constexpr (kAhead) read(next, begin);
    for (int64_t first = begin; first < end; first += Team::kTeams) {
        if constexpr (kAhead) {
            row = next;
            read(next, first + Team::kTeams);
        } else {
            read(row, first);
        }
        float sum_g = 0.0f, sum_gx = 0.0f;
#pragma unroll
        for (int k = 0; k < P::K; ++k) {
            float w[P::V] = {};
            weights(w, k, Tile<P>::column(team, 0, k));
            const auto p = row.pack(w, k);
#pragma unroll
            for (int j = 0; j < P::V; ++j) {
                float& dw = sums.at(0, k * P::V + j);
                dw = fmaf(p.dy[j], p.xhat[j], dw);
                if constexpr (centred) {
                    sums.at(1, k * P::V + j) += p.dy[j];
                    sum_g += p.g[j];
                }
                sum_gx = fmaf(p.g[j], p.xhat[j], sum_gx);
            }
        }
        if constexpr (centred) {
            team.sum(sum_g, sum_gx);
        } else {
            sum_gx = team.sum(sum_gx);
        }
        row.x.forget_values();
        row.dy.forget_values();
#pragma unroll
        for (int k = 0; k < P::K; ++k) {
            const int64_t column = Tile<P>::column(team, 0, k);
            if (!row.here || column >= a.cols) continue;
            float w[P::V];
            weights(w, k, column);
            row.write(a, row.pack(w, k), column, sum_g * a.share, sum_gx * a.share);
        }
    }

    if constexpr (Team::kTeams > 1) {  // add the sums of the teams in order
        constexpr int kValues = P::V * P::K;
        BYHAND_SHARED(float[centred ? 2 : 1][kValues][Team::kThreads / Team::kTeams], total);
        for (int turn = 0; turn < Team::kTeams; ++turn) {
            if (team.place() == turn) {
#pragma unroll
                for (int i = 0; i < (centred ? 2 : 1) * kValues; ++i) {
                    float& mine = sums.at(i / kValues, i % kValues);
                    float& all = total[i / kValues][i % kValues][team.rank()];
                    if (turn > 0) mine += all;
                    all = mine;
                }
            }
            sync_block();
        }
        if (team.place() != Team::kTeams - 1) return;
    }
    float* const work = a.work + blockIdx.x * (centred ? 2 : 1) * a.cols;
#pragma unroll
    for (int k = 0; k < P::K; ++k) {
        const int64_t column = Tile<P>::column(team, 0, k);
        if (column >= a.cols) continue;
#pragma unroll
        for (int j = 0; j < P::V; ++j) {
            work[column + j] = sums.at(0, k * P::V + j);
            if constexpr (centred) work[a.cols + column + j] = sums.at(1, k * P::V + j);
        }
    }
}

// Longer rows: each thread keeps the sums of its own columns in `work`, which stays in the cache,
// and reads x and dy twice.
template <class T, class P, bool centred>
__global__ void __launch_bounds__(P::Team::kThreads, P::Team::kBlocks)
    norm_backward_long(const __grid_constant__ NormBackward<T> a) {
    typename P::Team team;
    BackwardRow<T, P, centred> row;
    const int64_t begin = blockIdx.x * a.group_rows, end = min(a.rows, begin + a.group_rows);
    float* const dw = a.work + blockIdx.x * (centred ? 2 : 1) * a.cols;
    float* const db = dw + a.cols;
    const auto each_pack = [&](int64_t start, auto&& f) {
#pragma unroll
        for (int k = 0; k < P::K; ++k) {
            const int64_t column = Tile<P>::column(team, start, k);
            if (column < a.cols) f(column, k);
        }
    };
    for_tiles<P>(team, a.cols, [&](int64_t start) {
        each_pack(start, [&](int64_t column, int) {
#pragma unroll
            for (int j = 0; j < P::V; ++j) {
                dw[column + j] = 0.0f;
                if constexpr (centred) db[column + j] = 0.0f;
            }
        });
    });
    for (int64_t r = begin; r < end; ++r) {
        float sum_g = 0.0f, sum_gx = 0.0f;
        for_tiles<P>(team, a.cols, [&](int64_t start) {
            row.read(team, a, r, true, start);
            each_pack(start, [&](int64_t column, int k) {
                float w[P::V];
                load(w, a.w + column);
                const auto p = row.pack(w, k);
#pragma unroll
                for (int j = 0; j < P::V; ++j) {
                    dw[column + j] = fmaf(p.dy[j], p.xhat[j], dw[column + j]);
                    if constexpr (centred) db[column + j] += p.dy[j];
                    sum_g += p.g[j];
                    sum_gx = fmaf(p.g[j], p.xhat[j], sum_gx);
                }
            });
        });
        team.sum(sum_g, sum_gx);
        const float mean_g = centred ? sum_g * a.share : 0.0f;
        for_tiles<P>(team, a.cols, [&](int64_t start) {
            row.read(team, a, r, true, start);
            each_pack(start, [&](int64_t column, int k) {
                float w[P::V];
                load(w, a.w + column);
                row.write(a, row.pack(w, k), column, mean_g, sum_gx * a.share);
            });
        });
    }
}

// dw[c] += sum of work[g][0][c] over the groups, db[c] of work[g][1][c].
constexpr int kSlices = 32;

template <int kParts>
__global__ void __launch_bounds__(kWarp* kSlices)
    norm_add_partials(float* dw, float* db, const float* work, int64_t groups, int64_t cols) {
    float* to = blockIdx.y == 0 ? dw : db;
    if (to == nullptr) return;
    const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarp + threadIdx.x;
    const float sum = sum_in_slices<kSlices>(0, column < cols ? groups : 0, [&](int64_t g) {
        return work[(kParts * g + blockIdx.y) * cols + column];
    });
    if (threadIdx.y == 0 && column < cols) to[column] += sum;
}

template <bool centred, class T>
void norm_forward(const char* name, const NormForward<T>& a, Stream stream) {
    if (a.rows == 0) return;
    const bool packed = packable<T>(a.cols, a.y, a.s, a.x, a.w, a.b, a.add);
    const auto kept = a.cols * static_cast<int64_t>(sizeof(T));
    plan_rows<T>(a.rows, a.cols, packed, kept, [&](const auto& plan) {
        using P = std::decay_t<decltype(plan)>;
        launch_shared(name, norm_forward_rows<T, P, centred>, plan.grid, plan.block, plan.shared,
                      stream, a);
    });
}

template <bool centred, class T>
void norm_backward(const char* name, const NormBackward<T>& a, Stream stream) {
    constexpr int V = kPack<T>, kParts = centred ? 2 : 1;
    if (a.groups > kMaxGrid) throw std::invalid_argument(std::string(name) + ": too many groups");
    if (a.cols == 0) return;
    const bool packed = packable<T>(a.cols, a.dx, a.dy, a.x, a.w, a.ds);
    const auto run = [&](const auto& plan) {
        using P = std::decay_t<decltype(plan)>;
        const dim3 grid(static_cast<unsigned>(a.groups));
        if constexpr (P::kLong) {
            launch(name, norm_backward_long<T, P, centred>, grid, plan.block, stream, a);
        } else {
            constexpr int shared = P::kShared ? ColumnSums<P, centred>::kSharedBytes : 0;
            launch_shared(name, norm_backward_rows<T, P, centred>, grid, plan.block, shared, stream,
                          a);
        }
    };
    // A thread of a full block has registers for 8 columns and their sums, or 16 columns without
    // sums.
    const int64_t blocks = a.groups, cols = a.cols;
    if (packed) {
        plan_short<T>(blocks, cols, packed, run) || plan_block<V, 8 / V, 1024>(blocks, cols, run) ||
            plan_block<V, 16 / V, 1024, true>(blocks, cols, run) ||
            plan_memory<V, 16 / V>(blocks, run);
    } else {
        plan_short<T>(blocks, cols, packed, run) || plan_block<1, 8, 512>(blocks, cols, run) ||
            plan_memory<1, 4>(blocks, run);
    }
    if (a.dw != nullptr || a.db != nullptr) {
        const dim3 grid(blocks_for(a.cols, kWarp), kParts);
        launch(name, norm_add_partials<kParts>, grid, dim3(kWarp, kSlices), stream, a.dw, a.db,
               a.work, a.groups, a.cols);
    }
}

}  // namespace byhand
