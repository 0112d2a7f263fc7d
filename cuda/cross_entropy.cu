#include "core/slots.h"
#include "core/tile.cuh"
#include "cross_entropy.h"

namespace byhand {
namespace {

// Each team adds up the losses of its rows in order; a second kernel adds up the teams in order.
constexpr int kPartials = 4096;

struct Partial {
    double loss;
    long long count;
};
__device__ Partial partials[kSlots][kPartials];

struct Options {
    int64_t ignore_index;
    float smoothing;
    bool mean;
};

// Rows of any length in one pass: a running maximum and the sum of exponentials below it
// (Milakov and Gimelshein 2018, "Online normalizer calculation for softmax", algorithm 3).
template <class T, class P, bool smooth>
__global__ void __launch_bounds__(P::Team::kThreads, 1)
    cross_entropy_forward_rows(float* lse, const T* logits, const int64_t* targets, Options options,
                               int slot, int64_t rows, int64_t cols) {
    typename P::Team team;
    Partial mine = {0.0, 0};
    for_rows(team, rows, [&](int64_t row, bool here) {
        const int64_t target = here ? targets[row] : options.ignore_index;
        const bool kept = here && target != options.ignore_index;
        const T* x = logits + row * cols;
        const int64_t end = kept ? cols : 0;

        Tile<P> z;
        float max = -infinity(), sum = 0.0f, total = 0.0f;
        for_tiles<P>(team, end, [&](int64_t start) {
            z.load(team, x, start, end, -infinity());
            float top = max;
            z.each([&](float v, int, int) { top = fmaxf(top, v); });
            const float base = top == -infinity() ? 0.0f : top;
            sum *= exp_for<T>(max - base);
            z.each([&](float v, int k, int) {
                sum += exp_for<T>(v - base);
                if constexpr (smooth) {
                    if (Tile<P>::column(team, start, k) < end) total += v;
                }
            });
            max = top;
        });
        const float top = team.max(max);
        sum *= exp_for<T>(max - (top == -infinity() ? 0.0f : top));
        if constexpr (smooth) {
            team.sum(sum, total);
        } else {
            sum = team.sum(sum);
        }
        if (!here || team.rank() != 0) return;
        if (!kept) {
            lse[row] = infinity();  // exp(x - lse) is 0
            return;
        }
        // Distances are taken from the largest logit: lse itself may be large, and then so is its
        // last bit. A target that is no class makes the loss NaN, and is never read through.
        const bool valid = target >= 0 && target < cols;
        const double at_target = valid ? to_float(x[target]) : not_a_number();
        const double e = options.smoothing, log_sum = logf(sum);
        double loss = log_sum + (1.0 - e) * (top - at_target);
        if constexpr (smooth) loss += e * (top - total / static_cast<double>(cols));
        lse[row] = static_cast<float>(top + log_sum);
        mine.loss += loss;
        mine.count += 1;
    });
    const int64_t index = static_cast<int64_t>(blockIdx.x) * P::Team::kTeams + team.place();
    if (team.rank() == 0 && index < kPartials) partials[slot][index] = mine;
}

constexpr int kFinish = 256;

__global__ void __launch_bounds__(kFinish, 1)
    cross_entropy_finish(float* loss, float* count, Options options, int slot, int teams) {
    BYHAND_SHARED(Partial[kFinish], shared);
    Partial mine = {0.0, 0};
    const int each = (teams + kFinish - 1) / kFinish, rank = static_cast<int>(threadIdx.x);
    for (int i = rank * each; i < min(teams, (rank + 1) * each); ++i) {
        mine.loss += partials[slot][i].loss;
        mine.count += partials[slot][i].count;
    }
    shared[rank] = mine;
    for (int half = kFinish / 2; half > 0; half /= 2) {
        sync_block();
        if (rank < half) {
            shared[rank].loss += shared[rank + half].loss;
            shared[rank].count += shared[rank + half].count;
        }
    }
    if (rank != 0) return;
    const double sum = shared[0].loss, kept = static_cast<double>(shared[0].count);
    *count = static_cast<float>(kept);
    *loss = static_cast<float>(options.mean && kept > 0.0 ? sum / kept : sum);
}

template <class T, class P>
__global__ void __launch_bounds__(P::Team::kThreads, 1)
    cross_entropy_backward_rows(T* dlogits, const float* dloss, const float* count,
                                const float* lse, const T* logits, const int64_t* targets,
                                Options options, int64_t rows, int64_t cols) {
    typename P::Team team;
    const float scale = options.mean ? *dloss / *count : *dloss;
    const float spread = options.smoothing / static_cast<float>(cols);
    const float peak = 1.0f - options.smoothing;
    for_rows(team, rows, [&](int64_t row, bool here) {
        if (!here) return;
        const int64_t target = targets[row];
        const bool kept = target != options.ignore_index;
        const float wrong = kept && (target < 0 || target >= cols) ? not_a_number() : 0.0f;
        const float shift = kept ? lse[row] : 0.0f;
        const T* x = logits + row * cols;
        Tile<P> z;
        for_tiles<P>(team, cols, [&](int64_t start) {
            if (kept) z.load(team, x, start, cols, 0.0f);
            z.each([&](float& v, int k, int j) {
                const float hit = Tile<P>::column(team, start, k) + j == target ? peak : 0.0f;
                v = kept ? (exp_for<T>(v - shift) - spread - hit) * scale + wrong : 0.0f;
            });
            z.store(team, dlogits + row * cols, start, cols);
        });
    });
}

// A warp a row when a few of its tiles hold the row, a block a row beyond.
template <class T, class F>
void plan_classes(int64_t rows, int64_t cols, bool packed, int64_t max_teams, F&& f) {
    constexpr int kThreads = 256, kV = kPack<T>;
    const auto choose = [&](auto v, auto k) {
        constexpr int V = decltype(v)::value, K = decltype(k)::value;
        if (cols <= 1024) {
            const auto blocks = blocks_for(std::min(rows, max_teams), WarpTeam::kTeams);
            f(Plan<V, K, WarpTeam, true>{dim3(blocks), dim3(kWarp, WarpTeam::kTeams)});
        } else {
            const auto blocks = blocks_for(std::min(rows, max_teams), 1);
            f(Plan<V, K, BlockTeam<kThreads>, true>{dim3(blocks), dim3(kThreads)});
        }
    };
    if (packed) {
        choose(std::integral_constant<int, kV>{}, std::integral_constant<int, 4>{});
    } else {
        choose(std::integral_constant<int, 1>{}, std::integral_constant<int, 8>{});
    }
}

Options options_of(int64_t ignore_index, double smoothing, bool mean) {
    return {ignore_index, static_cast<float>(smoothing), mean};
}

}  // namespace

void cross_entropy_forward(Out loss, Out count, Out lse, In logits, In targets,
                           int64_t ignore_index, double smoothing, bool mean, Stream stream) {
    const char* name = "cross_entropy_forward";
    const int64_t rows = logits.rows(), cols = logits.cols();
    const Options options = options_of(ignore_index, smoothing, mean);
    const int slot = slot_of(stream);
    float *loss_to = loss.as<float>(), *count_to = count.as<float>(), *lses = lse.as<float>();
    const int64_t* ids = targets.as<int64_t>();
    int teams = 0;
    if (rows > 0) {
        for_storage(name, logits, [&](auto zero) {
            using T = decltype(zero);
            const T* x = logits.as<T>();
            plan_classes<T>(rows, cols, packable<T>(cols, x), kPartials, [&](auto plan) {
                using P = decltype(plan);
                teams = static_cast<int>(plan.grid.x) * P::Team::kTeams;
                const auto kernel = smoothing > 0.0 ? cross_entropy_forward_rows<T, P, true>
                                                    : cross_entropy_forward_rows<T, P, false>;
                launch(name, kernel, plan.grid, plan.block, stream, lses, x, ids, options, slot,
                       rows, cols);
            });
        });
    }
    launch(name, cross_entropy_finish, dim3(1), dim3(kFinish), stream, loss_to, count_to, options,
           slot, teams);
}

void cross_entropy_backward(Out dlogits, In dloss, In count, In lse, In logits, In targets,
                            int64_t ignore_index, double smoothing, bool mean, Stream stream) {
    const char* name = "cross_entropy_backward";
    const int64_t rows = logits.rows(), cols = logits.cols();
    if (rows == 0 || cols == 0) return;
    const Options options = options_of(ignore_index, smoothing, mean);
    const float *d = dloss.as<float>(), *kept = count.as<float>(), *lses = lse.as<float>();
    const int64_t* ids = targets.as<int64_t>();
    for_storage(name, logits, [&](auto zero) {
        using T = decltype(zero);
        T* to = dlogits.as<T>();
        const T* x = logits.as<T>();
        plan_classes<T>(rows, cols, packable<T>(cols, to, x), kMaxGrid, [&](auto plan) {
            launch(name, cross_entropy_backward_rows<T, decltype(plan)>, plan.grid, plan.block,
                   stream, to, d, kept, lses, x, ids, options, rows, cols);
        });
    });
}

}  // namespace byhand
