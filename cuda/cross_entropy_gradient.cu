// Loss and gradient in one go: one read and one write of the logits.
#include "cross_entropy.cuh"

namespace byhand {
namespace {

// The mean's divisor must be known before the first gradient, so kept targets are counted ahead:
// each warp adds up its share, and whoever needs the number adds up the warps.
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
    int64_t rows, cols;

    // What the gradients are multiplied by; all threads of the block ask together.
    BYHAND_DEVICE float scale() const {
        if (!options.mean) return *dloss;
        int64_t kept = 0;
        for (int i = static_cast<int>(threadIdx.x) % kWarp; i < counters; i += kWarp)
            kept += kept_targets[slot][i];
        return *dloss / static_cast<float>(reduce_warp(kept, Add{}));
    }
};

// dx = factor exp(x - top) - spread, and less by `peak` at the target.
struct RowGradient {
    float factor, spread, peak;
    int64_t target;

    template <class T>
    BYHAND_DEVICE RowGradient(const Gradient<T>& a, float scale, float sum, int64_t target_)
        : factor(scale / sum),
          spread(scale * a.options.smoothing / static_cast<float>(a.cols)),
          peak(scale * (1.0f - a.options.smoothing)),
          target(target_) {
        if (target < 0 || target >= a.cols) factor = not_a_number();
    }
    BYHAND_DEVICE float of(float exponential) const { return fmaf(exponential, factor, -spread); }

    // Takes the peak off where the target is; v[0] belongs to this column.
    template <int N>
    BYHAND_DEVICE void cut(float (&v)[N], int64_t column) const {
        const int64_t at = target - column;
        if (at < 0 || at >= N) return;
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
            const RowGradient gradient(a, scale, all.sum, target);
            z.each([&](float& v, int, int) { v = gradient.of(v); });
#pragma unroll
            for (int k = 0; k < P::K; ++k) gradient.cut(z.v[k], Tile<P>::column(team, 0, k));
        }  // the others are 0, as exp(-inf) is
        z.store(team, x, 0, here ? a.cols : 0);
    });
    const int64_t index = static_cast<int64_t>(blockIdx.x) * P::Team::kTeams + team.place();
    if (team.rank() == 0 && index < kPartials) partials[a.slot][index] = mine;
}

// A long row wherever it begins: its body can be read 16 bytes at a time, and each of the few
// elements before and after the body is the business of one thread.
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
    // Where in body the element lies that this thread cares for outside it, if there is one.
    BYHAND_DEVICE int edge(int rank) const {
        return rank < before ? rank - before : rank - before + end;
    }
};

// Long rows: a block a row, the logits in shared memory. Every thread uses only what it has copied
// there itself, so that its part of the next row can be on its way as soon as it has written its
// part of this one. What does not fit, beyond `held`, is read once more, from the cache with luck.
template <class T, class P>
__global__ void __launch_bounds__(P::Team::kThreads, 2)
    cross_entropy_gradient_long(Gradient<T> a, int held) {
    typename P::Team team;
    const int rank = team.rank(), width = P::K * P::V * team.size();
    const int cols = static_cast<int>(a.cols);
    BYHAND_DYNAMIC_SHARED(memory);
    T* const stage = reinterpret_cast<T*>(memory);
    const float scale = a.scale(), smoothing = a.options.smoothing;
    Partial mine = {0.0, 0};

    const auto is_kept = [&](int64_t r) {
        return r < a.rows && a.targets[r] != a.options.ignore_index;
    };
    const auto fetch = [&](const LongRow<T>& row, int start) {
        const int end = min(held, row.end);
#pragma unroll
        for (int k = 0; k < P::K; ++k) {
            const int at = start + (k * team.size() + rank) * P::V;
            if (at < end) copy_async16(stage + at, row.body + at);
        }
    };
    const auto fetch_all = [&](int64_t r) {
        if (!is_kept(r)) return;
        const LongRow<T> row(a.logits + r * a.cols, cols);
        for (int start = 0; start < held; start += width) fetch(row, start);
        copy_async_commit();
    };
    fetch_all(blockIdx.x);
    for (int64_t r = blockIdx.x; r < a.rows; r += gridDim.x) {
        const LongRow<T> row(a.logits + r * a.cols, cols);
        const int64_t target = a.targets[r];
        const int edge = row.edge(rank);
        const bool has_edge = edge < cols - row.before;
        Tile<P> z;
        if (target == a.options.ignore_index) {
            z.each([](float& v, int, int) { v = 0.0f; });
            for (int start = 0; start < row.end; start += width)
                z.store(team, row.body, start, row.end);
            if (has_edge) row.body[edge] = from_float<T>(0.0f);
            if (a.lse != nullptr && rank == 0) a.lse[r] = infinity();
            fetch_all(r + gridDim.x);
            continue;
        }
        const float at_target = rank == 0 ? logit_at(row.body - row.before, target, a.cols) : 0.0f;
        const float at_edge = has_edge ? to_float(row.body[edge]) : -infinity();

        Exponentials<T> all;
        float total = smoothing > 0.0f && has_edge ? at_edge : 0.0f;
        const int here = min(held, row.end);
        const auto take_in = [&](const T* from, int start, int end) {
            z.load(team, from, start, end, -infinity());
            all.add(z);
            if (smoothing > 0.0f) total += sum_of(z, team, start, end);
        };
        for (int start = here; start < row.end; start += width) take_in(row.body, start, row.end);
        copy_async_wait<0>();
        for (int start = 0; start < here; start += width) take_in(stage, start, here);
        all.raise(fmaxf(all.top, at_edge));
        all.sum += exp_for<T>(at_edge - all.base());
        all.join(team, total);
        if (rank == 0) {
            float* lse = a.lse == nullptr ? nullptr : a.lse + r;
            add_row(mine, lse, all, total, at_target, smoothing, a.cols);
        }

        const RowGradient gradient(a, scale, all.sum, target);
        const float base = all.base();
        const auto give_out = [&](const T* from, int start, int end) {
            z.load(team, from, start, end, -infinity());
            z.each([&](float& v, int, int) { v = gradient.of(exp_for<T>(v - base)); });
#pragma unroll
            for (int k = 0; k < P::K; ++k)
                gradient.cut(z.v[k], row.before + Tile<P>::column(team, start, k));
            z.store(team, row.body, start, end);
        };
        for (int start = here; start < row.end; start += width) give_out(row.body, start, row.end);
        const int64_t next = r + gridDim.x;
        const bool more = is_kept(next);
        const LongRow<T> following(a.logits + (more ? next : r) * a.cols, cols);
        for (int start = 0; start < held; start += width) {
            give_out(stage, start, here);
            if (more) fetch(following, start);
        }
        copy_async_commit();
        if (has_edge) {
            float v[1] = {gradient.of(exp_for<T>(at_edge - base))};
            gradient.cut(v, row.before + edge);
            store(row.body + edge, v);
        }
    }
    if (rank == 0 && blockIdx.x < kPartials) partials[a.slot][blockIdx.x] = mine;
}

// Returns how many teams have left a partial loss.
template <class T>
int launch_gradient(const char* name, const Gradient<T>& a, Stream stream) {
    constexpr int V = kPack<T>, kThreads = 512;
    if (a.cols <= 1024) {
        int teams = 0;
        plan_rows<T>(std::min<int64_t>(a.rows, kPartials), a.cols, packable<T>(a.cols, a.logits),
                     [&](auto plan) {
                         using P = decltype(plan);
                         if constexpr (P::Team::kTeams > 1) {
                             teams = static_cast<int>(plan.grid.x) * P::Team::kTeams;
                             launch(name, cross_entropy_gradient_rows<T, P>, plan.grid, plan.block,
                                    stream, a);
                         }
                     });
        return teams;
    }
    using P = Plan<V, 16 / V, BlockTeam<kThreads>, true>;
    const auto kernel = cross_entropy_gradient_long<T, P>;
    const int64_t packs = a.cols / V;
    const dim3 block(static_cast<unsigned>(
        std::min<int64_t>(kThreads, (packs / 4 + kWarp - 1) / kWarp * kWarp)));
    // The team's own shared memory is a few hundred bytes.
    const int64_t held = std::min<int64_t>(packs, (most_shared_bytes() - 1024) / 16) * V;
    const int bytes = static_cast<int>(held * static_cast<int64_t>(sizeof(T)));
    const int64_t resident = resident_blocks(name, kernel, block, bytes);
    const int teams = static_cast<int>(std::min({a.rows, resident, int64_t{kPartials}}));
    launch_shared(name, kernel, dim3(static_cast<unsigned>(teams)), block, bytes, stream, a,
                  static_cast<int>(held));
    return teams;
}

}  // namespace

void cross_entropy_gradient(Out loss, Out count, Maybe<Out> lse, Mut logits, In dloss, In targets,
                            int64_t ignore_index, double smoothing, bool mean, Stream stream) {
    const char* name = "cross_entropy_gradient";
    const int64_t rows = logits.rows(), cols = logits.cols();
    const Options options = options_of(ignore_index, smoothing, mean);
    const int slot = slot_of(stream);
    if (cols > 1 << 30) {
        throw std::invalid_argument("cross_entropy_gradient: more than 2^30 classes");
    }
    float *loss_to = loss.as<float>(), *count_to = count.as<float>(), *lses = lse.as<float>();
    const float* d = dloss.as<float>();
    const int64_t* ids = targets.as<int64_t>();
    int teams = 0;
    if (rows > 0) {
        const dim3 counters(static_cast<unsigned>(std::min<int64_t>(kCounters, rows)));
        launch(name, cross_entropy_count, counters, dim3(kWarp), stream, ids, ignore_index, slot,
               rows);
        for_storage(name, logits, [&](auto zero) {
            using T = decltype(zero);
            const Gradient<T> a = {
                logits.as<T>(), lses, d, ids, options, slot, static_cast<int>(counters.x),
                rows,           cols};
            teams = launch_gradient(name, a, stream);
        });
    }
    launch(name, cross_entropy_finish, dim3(1), dim3(kFinish), stream, loss_to, count_to, options,
           slot, teams);
}

}  // namespace byhand
