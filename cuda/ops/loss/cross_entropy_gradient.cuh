// Loss and gradient in one kernel: logits are read once and written once.
#pragma once

#include "ops/loss/cross_entropy.cuh"

namespace byhand {
namespace {

// The divisor of the mean must be known before the first gradient, so kept targets are counted by a
// kernel of their own: each warp stores the count of its part, and each block that needs the total
// adds the counts of the warps.
constexpr int kCounters = 128;
__device__ int64_t kept_targets[kSlots][kCounters];

__global__ void __launch_bounds__(kWarp, 1)
    cross_entropy_count(const int64_t* targets, int64_t ignore_index, int slot, int64_t rows) {
    int64_t kept = 0;
    const int64_t stride = static_cast<int64_t>(gridDim.x) * kWarp;
#pragma unroll 8
    for (int64_t r = static_cast<int64_t>(blockIdx.x) * kWarp + threadIdx.x; r < rows; r += stride)
        kept += targets[r] != ignore_index;
    kept = reduce_warp(kept, Add{});
    if (threadIdx.x == 0) kept_targets[slot][blockIdx.x] = kept;
}

template <class T>
struct Gradient {
    T* logits;
    float* lse;  // or null
    const float* dloss;
    const int64_t* targets;
    Options options;
    int slot, counters;
    int partials_before;  // partial losses of earlier rows, which are added to
    int64_t rows, cols;

    // The factor of the gradients; all threads of a block must call it together.
    BYHAND_DEVICE float scale() const {
        if (!options.mean) return *dloss;
        int64_t kept = 0;
        const auto lane = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x) % kWarp;
        for (int i = lane; i < counters; i += kWarp) kept += kept_targets[slot][i];
        return *dloss / static_cast<float>(reduce_warp(kept, Add{}));
    }
    // Stores the loss of a team; called by one of its threads.
    BYHAND_DEVICE void leave(Partial mine, int64_t index) const {
        if (index >= kPartials) return;
        Partial& to = partials[slot][index];
        if (index < partials_before) mine.loss += to.loss, mine.count += to.count;
        to = mine;
    }
};

// dx = factor exp(x - top) - spread, minus `peak` at the target.
struct RowGradient {
    float factor, spread, peak;
    int target;  // relative to `first`, as the columns passed to `cut`

    template <class T>
    BYHAND_DEVICE RowGradient(const Gradient<T>& a, float scale, float sum, int64_t target_,
                              int first)
        : factor(scale / sum),
          spread(scale * a.options.smoothing / static_cast<float>(a.cols)),
          peak(scale * (1.0f - a.options.smoothing)),
          target(static_cast<int>(target_) - first) {
        if (target_ < 0 || target_ >= a.cols) factor = not_a_number();
    }
    BYHAND_DEVICE float of(float exponential) const { return fmaf(exponential, factor, -spread); }

    // Subtracts the peak at the target; v[0] is the element of this column.
    template <int N>
    BYHAND_DEVICE void cut(float (&v)[N], int column) const {
        const int at = target - column;
        if (static_cast<unsigned>(at) >= N) return;
#pragma unroll
        for (int j = 0; j < N; ++j) v[j] -= j == at ? peak : 0.0f;
    }
};

// Short rows: a warp keeps the exponentials of a row in registers.
template <class T, class P>
__global__ void __launch_bounds__(P::Team::kThreads, 1) cross_entropy_gradient_rows(Gradient<T> a) {
    typename P::Team team;
    const float scale = a.scale();
    Partial mine = {0.0, 0};
    for_rows(team, a.rows, [&](int64_t row, bool here) {
        const int64_t target = here ? a.targets[row] : a.options.ignore_index;
        const bool kept = target != a.options.ignore_index;
        T* x = a.logits + row * a.cols;
        const int64_t end = kept ? a.cols : 0;
        const float at_target = kept ? logit_at(x, target, a.cols) : 0.0f;
        Tile<P> z;
        Exponentials<T> all;
        z.load(team, x, 0, end, -infinity());
        float total = a.options.smoothing > 0.0f ? sum_of(z, team, 0, end) : 0.0f;
        z.each([&](float v, int, int) { all.top = fmaxf(all.top, v); });
        all.top = team.max(all.top);
        const float base = all.base();
        z.each([&](float& v, int, int) {
            v = exp_for<T>(v - base);
            all.sum += v;
        });
        team.sum(all.sum, total);
        if (here && team.rank() == 0) {
            float* lse = a.lse == nullptr ? nullptr : a.lse + row;
            if (kept) {
                add_row(mine, lse, all, total, at_target, a.options.smoothing, a.cols);
            } else if (lse != nullptr) {
                *lse = infinity();
            }
        }
        if (kept) {
            const RowGradient gradient(a, scale, all.sum, target, 0);
            z.each([&](float& v, int, int) { v = gradient.of(v); });
#pragma unroll
            for (int k = 0; k < P::K; ++k)
                gradient.cut(z.v[k], static_cast<int>(Tile<P>::column(team, 0, k)));
        }  // the others are exp(-inf) = 0
        sync_warp();  // every lane has read the target's logit
        z.store(team, x, 0, here ? a.cols : 0);
    });
    const int64_t index = static_cast<int64_t>(blockIdx.x) * P::Team::kTeams + team.place();
    if (team.rank() == 0) a.leave(mine, index);
}

// A long row at any address: its body can be read 16 bytes at a time, and each of the few elements
// before and after the body is processed by one thread.
template <class T>
struct LongRow {
    T* body;          // body[0 .. end)
    int before, end;  // the row begins at body[-before]

    BYHAND_DEVICE LongRow(T* x, int cols) {
        const auto past = static_cast<int>(reinterpret_cast<std::uintptr_t>(x) % 16 / sizeof(T));
        before = min(cols, (kPack<T> - past) % kPack<T>);
        end = (cols - before) / kPack<T> * kPack<T>;
        body = x + before;
    }
    // The index, relative to body, of the element outside it that this thread processes, if any.
    BYHAND_DEVICE int edge(int rank) const {
        return rank < before ? rank - before : rank - before + end;
    }
};

// Long rows: one block per row, with the logits in shared memory. Every thread uses only what it
// has copied itself, so that it can start to load its part of the next row as soon as it has
// written its part of this one. Elements beyond `held`, which do not fit, are read twice, the
// second time usually from the cache.
template <class T, class P>
__global__ void __launch_bounds__(P::Team::kThreads, 1024 / P::Team::kThreads)
    cross_entropy_gradient_long(Gradient<T> a, int held) {
    using Team = typename P::Team;
    constexpr int V = P::V, K = P::K, kStep = Team::kThreads * V, kTile = K * kStep;
    Team team;
    const int rank = team.rank(), cols = static_cast<int>(a.cols);
    BYHAND_DYNAMIC_SHARED(memory);
    T* const stage = reinterpret_cast<T*>(memory) + rank * V;
    const float scale = a.scale(), smoothing = a.options.smoothing;
    Partial mine = {0.0, 0};
    Tile<P> z;

    // Calls f(start, whole) for each tile of [begin, end); `whole`: no pack is past the end.
    const auto tiles = [](int begin, int end, auto&& f) {
        int start = begin;
        for (; start + kTile <= end; start += kTile) f(start, std::true_type{});
        if (start < end) f(start, std::false_type{});
    };
    // Calls f(k, offset) for the packs of this thread in a tile, k counted from its first in the
    // row.
    const auto packs = [&](int start, int end, auto whole, auto&& f) {
#pragma unroll
        for (int k = 0; k < K; ++k) {
            const int offset = start + k * kStep;
            f(k, offset, decltype(whole)::value || offset + rank * V < end);
        }
    };
    const auto is_kept = [&](int64_t r) {
        return r < a.rows && a.targets[r] != a.options.ignore_index;
    };
    const auto fetch_all = [&](int64_t r) {
        if (!is_kept(r)) return;
        const LongRow<T> row(a.logits + r * a.cols, cols);
        const T* const x = row.body + rank * V;
        const int end = min(held, row.end);
        tiles(0, end, [&](int start, auto whole) {
            packs(start, end, whole, [&](int, int offset, bool inside) {
                if (inside) copy_async16(stage + offset, x + offset);
            });
        });
        copy_async_commit();
    };
    fetch_all(blockIdx.x);
    for (int64_t r = blockIdx.x; r < a.rows; r += gridDim.x) {
        const LongRow<T> row(a.logits + r * a.cols, cols);
        T* const x = row.body + rank * V;
        const int64_t target = a.targets[r];
        const int edge = row.edge(rank);
        const bool has_edge = edge < cols - row.before;
        if (target == a.options.ignore_index) {
            z.each([](float& v, int, int) { v = 0.0f; });
            tiles(0, row.end, [&](int start, auto whole) {
                packs(start, row.end, whole, [&](int k, int offset, bool inside) {
                    if (inside) store(x + offset, z.v[k]);
                });
            });
            if (has_edge) row.body[edge] = from_float<T>(0.0f);
            if (a.lse != nullptr && rank == 0) a.lse[r] = infinity();
            fetch_all(r + gridDim.x);
            continue;
        }
        const float at_target = rank == 0 ? logit_at(row.body - row.before, target, a.cols) : 0.0f;
        const float at_edge = has_edge ? to_float(row.body[edge]) : -infinity();

        const auto read = [&](const T* from, int start, int end, auto whole) {
            packs(start, end, whole, [&](int k, int offset, bool inside) {
                if (inside) {
                    load(z.v[k], from + offset);
                } else {
#pragma unroll
                    for (int j = 0; j < V; ++j) z.v[k][j] = -infinity();
                }
            });
        };
        Exponentials<T> all;
        float total = smoothing > 0.0f && has_edge ? at_edge : 0.0f;
        const int here = min(held, row.end);
        const auto take_in = [&](const T* from, int begin, int end) {
            tiles(begin, end, [&](int start, auto whole) {
                read(from, start, end, whole);
                all.add(z);
                if (smoothing > 0.0f) total += sum_of(z, team, start, end);
            });
        };
        take_in(x, here, row.end);
        copy_async_wait<0>();
        take_in(stage, 0, here);
        all.raise(fmaxf(all.top, at_edge));
        all.sum += exp_for<T>(at_edge - all.base());
        all.join(team, total);
        if (rank == 0) {
            float* lse = a.lse == nullptr ? nullptr : a.lse + r;
            add_row(mine, lse, all, total, at_target, smoothing, a.cols);
        }

        const RowGradient gradient(a, scale, all.sum, target, row.before);
        const float base = all.base();
        const auto give_out = [&](const T* from, int start, int end, auto whole) {
            read(from, start, end, whole);
            z.each([&](float& v, int, int) { v = gradient.of(exp_for<T>(v - base)); });
            packs(start, end, whole, [&](int k, int offset, bool inside) {
                gradient.cut(z.v[k], offset + rank * V);
                if (inside) store(x + offset, z.v[k]);
            });
        };
        tiles(here, row.end, [&](int start, auto whole) { give_out(x, start, row.end, whole); });
        const int64_t next = r + gridDim.x;
        const bool more = is_kept(next);
        const LongRow<T> following(a.logits + (more ? next : r) * a.cols, cols);
        const T* const next_x = following.body + rank * V;
        const int next_end = more ? min(held, following.end) : 0;
        tiles(0, here, [&](int start, auto whole) {
            give_out(stage, start, here, whole);
            packs(start, next_end, std::false_type{}, [&](int, int offset, bool inside) {
                if (inside) copy_async16(stage + offset, next_x + offset);
            });
        });
        // The next row may have one pack more, in a tile that this row does not have.
        if (here % kTile == 0 && here + rank * V < next_end)
            copy_async16(stage + here, next_x + here);
        copy_async_commit();
        if (has_edge) {
            float v[1] = {gradient.of(exp_for<T>(at_edge - base))};
            gradient.cut(v, edge);
            store(row.body + edge, v);
        }
    }
    if (rank == 0) a.leave(mine, blockIdx.x);
}

// As many blocks as the device runs at the same time.
template <class T, int kThreads>
int launch_long(const char* name, const Gradient<T>& a, Stream stream) {
    constexpr int V = kPack<T>;
    using P = Plan<V, 16 / V, BlockTeam<kThreads>, true>;
    const auto kernel = cross_entropy_gradient_long<T, P>;
    const int64_t room = most_shared_bytes() - kTeamShared;
    const int64_t held = std::min<int64_t>(a.cols / V, room / 16) * V;
    const int bytes = static_cast<int>(held * static_cast<int64_t>(sizeof(T)));
    const int64_t resident = resident_blocks(name, kernel, dim3(kThreads), bytes);
    const int teams = static_cast<int>(std::min({a.rows, resident, int64_t{kPartials}}));
    launch_shared(name, kernel, dim3(static_cast<unsigned>(teams)), dim3(kThreads), bytes, stream,
                  a, static_cast<int>(held));
    return teams;
}

// Returns how many teams have stored a partial loss.
template <class T>
int launch_gradient(const char* name, const Gradient<T>& a, Stream stream) {
    if (a.cols > 1024) {
        const bool few = a.cols * static_cast<int64_t>(sizeof(T)) <= 16 * 1024;
        return few ? launch_long<T, 128>(name, a, stream) : launch_long<T, 512>(name, a, stream);
    }
    int teams = 0;
    const auto run = [&](auto plan) {
        using P = decltype(plan);
        teams = static_cast<int>(plan.grid.x) * P::Team::kTeams;
        launch(name, cross_entropy_gradient_rows<T, P>, plan.grid, plan.block, stream, a);
    };
    const int64_t rows = std::min<int64_t>(a.rows, kPartials);
    const bool packed = packable<T>(a.cols, a.logits);
    plan_short<T>(rows, a.cols, packed, run) || plan_lanes<1, 32>(rows, a.cols, run);
    return teams;
}

}  // namespace
}  // namespace byhand
