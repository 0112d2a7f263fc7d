#include "ops/optim/flat_update.cuh"
#include "ops/optim/rmsprop.h"
#include "ops/optim/step_scalars.h"

namespace byhand {
namespace {

// One warp: increments the step count and computes the scalars of each group.
__global__ void __launch_bounds__(kWarp, 1)
    rmsprop_prepare(StepScalars* work, int64_t* t, const float* norm, const float* lr,
                    const float* weight_decay, int64_t groups, double max_norm) {
    const float clip = step_clip(norm, max_norm);
    count_step(t, clip);
    for (int64_t i = threadIdx.x; i < groups; i += kWarp) work[i] = {weight_decay[i], lr[i], clip};
}

struct RmspropRule {
    static constexpr int kSlots = 3;
    static constexpr bool kOptional = true;
    using Scalars = StepScalars;
    float alpha, rest, eps, momentum;  // rest = 1 - alpha
    bool has_mean, has_m;

    BYHAND_DEVICE void update(float& w, float (&s)[kSlots], float g, const Scalars& step) const {
        if (std::isnan(step.clip)) return;
        auto& [v, mean, m] = s;
        g = fmaf(step.decay, w, g * step.clip);
        v = fmaf(alpha, v, rest * g * g);
        float spread = v;
        if (has_mean) {
            mean = fmaf(alpha, mean, rest * g);
            spread = v - fminf(mean * mean, v);
        }
        float move = g / (sqrtf(spread) + eps);
        if (has_m) move = m = fmaf(momentum, m, move);
        w = fmaf(-step.rate, move, w);
    }
};

template <int V, class G, class C>
__global__ void __launch_bounds__(kFlatThreads, 1)
    rmsprop_update(const __grid_constant__ FlatArrays<RmspropRule::kSlots, G, C> a,
                   FlatGroups<StepScalars> groups, RmspropRule rule) {
    update_flat<V>(a, groups, rule);
}

}  // namespace

void rmsprop_step(Mut w, Mut v, Maybe<Mut> mean, Maybe<Mut> m, Maybe<Out> copy, Mut t, Out work,
                  In g, Maybe<In> norm, In lr, In weight_decay, In bounds, double alpha, double eps,
                  double momentum, double max_norm, Stream stream) {
    float *const wp = w.as<float>(), *const vp = v.as<float>();
    float *const up = mean.as<float>(), *const mp = m.as<float>();
    auto* const scalars = reinterpret_cast<StepScalars*>(work.as<float>());
    const FlatGroups<StepScalars> groups{scalars, bounds.as<int64_t>(), lr.size()};
    const RmspropRule rule{static_cast<float>(alpha),
                           static_cast<float>(1.0 - alpha),
                           static_cast<float>(eps),
                           static_cast<float>(momentum),
                           up != nullptr,
                           mp != nullptr};
    for_update_types(g, copy, [&](auto gradient, auto half) {
        using G = decltype(gradient);
        using C = decltype(half);
        const FlatArrays<3, G, C> a{wp, {vp, up, mp}, copy.as<C>(), g.as<G>(), w.size()};
        launch("rmsprop_step", rmsprop_prepare, dim3(1), dim3(kWarp), stream, scalars,
               t.as<int64_t>(), norm.as<float>(), lr.as<float>(), weight_decay.as<float>(),
               groups.count, max_norm);
        launch_update("rmsprop_step", rmsprop_update<kFour, G, C>, rmsprop_update<1, G, C>, a,
                      groups, rule, stream);
    });
}

}  // namespace byhand
