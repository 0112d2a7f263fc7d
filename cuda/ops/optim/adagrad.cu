#include "ops/optim/adagrad.h"
#include "ops/optim/flat_update.cuh"
#include "ops/optim/step_scalars.h"

namespace byhand {
namespace {

// One warp: increments the step count and computes the scalars of each group.
__global__ void __launch_bounds__(kWarp, 1)
    adagrad_prepare(StepScalars* work, int64_t* t, const float* norm, const float* lr,
                    const float* weight_decay, int64_t groups, double lr_decay, double max_norm) {
    const float clip = step_clip(norm, max_norm);
    const double count = count_step(t, clip);
    for (int64_t i = threadIdx.x; i < groups; i += kWarp) {
        work[i] = {weight_decay[i], adagrad_rate(lr[i], lr_decay, count), clip};
    }
}

struct AdagradRule {
    static constexpr int kSlots = 1;
    static constexpr bool kOptional = false;
    using Scalars = StepScalars;
    float eps;

    BYHAND_DEVICE void update(float& w, float (&s)[kSlots], float g, const Scalars& step) const {
        if (std::isnan(step.clip)) return;
        auto& [v] = s;
        g = fmaf(step.decay, w, g * step.clip);
        v = fmaf(g, g, v);
        w = fmaf(-step.rate, g / (sqrtf(v) + eps), w);
    }
};

template <int V, class G, class C>
__global__ void __launch_bounds__(kFlatThreads, 1)
    adagrad_update(const __grid_constant__ FlatArrays<AdagradRule::kSlots, G, C> a,
                   FlatGroups<StepScalars> groups, AdagradRule rule) {
    update_flat<V>(a, groups, rule);
}

}  // namespace

void adagrad_step(Mut w, Mut v, Maybe<Out> copy, Mut t, Out work, In g, Maybe<In> norm, In lr,
                  In weight_decay, In bounds, double lr_decay, double eps, double max_norm,
                  Stream stream) {
    float *const wp = w.as<float>(), *const vp = v.as<float>();
    auto* const scalars = reinterpret_cast<StepScalars*>(work.as<float>());
    const FlatGroups<StepScalars> groups{scalars, bounds.as<int64_t>(), lr.size()};
    const AdagradRule rule{static_cast<float>(eps)};
    for_update_types(g, copy, [&](auto gradient, auto half) {
        using G = decltype(gradient);
        using C = decltype(half);
        const FlatArrays<1, G, C> a{wp, {vp}, copy.as<C>(), g.as<G>(), w.size()};
        launch("adagrad_step", adagrad_prepare, dim3(1), dim3(kWarp), stream, scalars,
               t.as<int64_t>(), norm.as<float>(), lr.as<float>(), weight_decay.as<float>(),
               groups.count, lr_decay, max_norm);
        launch_update("adagrad_step", adagrad_update<kFour, G, C>, adagrad_update<1, G, C>, a,
                      groups, rule, stream);
    });
}

}  // namespace byhand
