#include "ops/loss/cross_entropy.cuh"
#include "ops/loss/cross_entropy_blocks.h"
#include "ops/loss/cross_entropy_gradient.cuh"

namespace byhand {
namespace {

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
        Exponentials<T> all;
        float total = 0.0f;
        for_tiles<P>(team, end, [&](int64_t start) {
            z.load(team, x, start, end, -infinity());
            all.add(z);
            if constexpr (smooth) total += sum_of(z, team, start, end);
        });
        all.join(team, total);
        if (!here || team.rank() != 0) return;
        if (kept) {
            add_row(mine, lse + row, all, total, logit_at(x, target, cols), options.smoothing,
                    cols);
        } else {
            lse[row] = infinity();  // exp(x - lse) is 0
        }
    });
    const int64_t index = static_cast<int64_t>(blockIdx.x) * P::Team::kTeams + team.place();
    if (team.rank() == 0 && index < kPartials) partials[slot][index] = mine;
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

template <class T, class F>
void plan_classes(int64_t rows, int64_t cols, bool packed, int64_t max_teams, F&& f) {
    if (packed) {
        plan_tiles<kPack<T>, 4>(rows, cols, f, max_teams);
    } else {
        plan_tiles<1, 8>(rows, cols, f, max_teams);
    }
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
        for_storage(logits, [&](auto zero) {
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
    for_storage(logits, [&](auto zero) {
        using T = decltype(zero);
        T* to = dlogits.as<T>();
        const T* x = logits.as<T>();
        plan_classes<T>(rows, cols, packable<T>(cols, to, x), kMaxGrid, [&](auto plan) {
            launch(name, cross_entropy_backward_rows<T, decltype(plan)>, plan.grid, plan.block,
                   stream, to, d, kept, lses, x, ids, options, rows, cols);
        });
    });
}

CrossEntropyBlocks::CrossEntropyBlocks(const CrossEntropyCall& call)
    : call_(call), slot_(slot_of(call.stream)) {
    checked(call.name, "classes", call.classes);
    if (call.rows == 0) return;
    counters_ = static_cast<int>(std::min<int64_t>(kCounters, call.rows));
    launch(call.name, cross_entropy_count, dim3(static_cast<unsigned>(counters_)), dim3(kWarp),
           call.stream, call.targets, call.ignore_index, slot_, call.rows);
}

template <class T>
void CrossEntropyBlocks::differentiate(T* logits, float* lse, int64_t begin, int64_t rows) {
    if (rows == 0) return;
    const Options options = options_of(call_.ignore_index, call_.smoothing, call_.mean);
    const Gradient<T> a = {logits,    lse,    call_.dloss, call_.targets + begin, options, slot_,
                           counters_, teams_, rows,        call_.classes};
    teams_ = std::max(teams_, launch_gradient(call_.name, a, call_.stream));
}
template void CrossEntropyBlocks::differentiate(float*, float*, int64_t, int64_t);
template void CrossEntropyBlocks::differentiate(bf16*, float*, int64_t, int64_t);

void CrossEntropyBlocks::finish(float* loss, float* count) {
    launch(call_.name, cross_entropy_finish, dim3(1), dim3(kFinish), call_.stream, loss, count,
           options_of(call_.ignore_index, call_.smoothing, call_.mean), slot_, teams_);
}

void cross_entropy_gradient(Out loss, Out count, Maybe<Out> lse, Mut logits, In dloss, In targets,
                            int64_t ignore_index, double smoothing, bool mean, Stream stream) {
    float *loss_to = loss.as<float>(), *count_to = count.as<float>(), *lses = lse.as<float>();
    const CrossEntropyCall call = {"cross_entropy_gradient",
                                   targets.as<int64_t>(),
                                   logits.rows(),
                                   logits.cols(),
                                   ignore_index,
                                   smoothing,
                                   mean,
                                   dloss.as<float>(),
                                   stream};
    for_storage(logits, [&](auto zero) {
        auto* const x = logits.as<decltype(zero)>();
        CrossEntropyBlocks blocks(call);
        blocks.differentiate(x, lses, 0, call.rows);
        blocks.finish(loss_to, count_to);
    });
}

}  // namespace byhand
