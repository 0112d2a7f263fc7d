#include "ops/optim/flat_update.cuh"
#include "ops/optim/sgd.h"
#include "ops/optim/step_scalars.h"

namespace byhand {
namespace {

// One warp: increments the step count and computes the scalars of each group.
__global__ void __launch_bounds__(kWarp, 1)
    sgd_prepare(SgdScalars* work, int64_t* t, const float* norm, const float* lr,
                const float* weight_decay, const float* l1, const float* l2, int64_t groups,
                double max_norm) {
    const float clip = step_clip(norm, max_norm);
    count_step(t, clip);
    for (int64_t i = threadIdx.x; i < groups; i += kWarp) {
        work[i] = sgd_scalars(lr[i], weight_decay[i], l1[i], l2[i], clip);
    }
}

struct SgdRule {
    static constexpr int kSlots = 1;
    static constexpr bool kOptional = true;
    using Scalars = SgdScalars;
    float momentum;
    bool nesterov, has_m;

    BYHAND_DEVICE void update(float& w, float (&s)[kSlots], float g, const Scalars& step) const {
        if (std::isnan(step.clip)) return;
        auto& [m] = s;
        g = fmaf(step.decay, w, g * step.clip);
        float move = g;
        if (has_m) {
            m = fmaf(momentum, m, g);
            move = nesterov ? fmaf(momentum, m, g) : m;
        }
        const float moved = fmaf(-step.rate, move, w);
        w = (moved - fminf(fmaxf(moved, -step.threshold), step.threshold)) * step.shrink;
    }
};

template <int V, class G, class C>
__global__ void __launch_bounds__(kFlatThreads, 1)
    sgd_update(const __grid_constant__ FlatArrays<SgdRule::kSlots, G, C> a,
               FlatGroups<SgdScalars> groups, SgdRule rule) {
    update_flat<V>(a, groups, rule);
}

}  // namespace

void sgd_step(Mut w, Maybe<Mut> m, Maybe<Out> copy, Mut t, Out work, In g, Maybe<In> norm, In lr,
              In weight_decay, In l1, In l2, In bounds, double momentum, bool nesterov,
              double max_norm, Stream stream) {
    float *const wp = w.as<float>(), *const mp = m.as<float>();
    auto* const scalars = reinterpret_cast<SgdScalars*>(work.as<float>());
    const FlatGroups<SgdScalars> groups{scalars, bounds.as<int64_t>(), lr.size()};
    const SgdRule rule{static_cast<float>(momentum), nesterov, mp != nullptr};
    for_update_types(g, copy, [&](auto gradient, auto half) {
        using G = decltype(gradient);
        using C = decltype(half);
        const FlatArrays<1, G, C> a{wp, {mp}, copy.as<C>(), g.as<G>(), w.size()};
        launch("sgd_step", sgd_prepare, dim3(1), dim3(kWarp), stream, scalars, t.as<int64_t>(),
               norm.as<float>(), lr.as<float>(), weight_decay.as<float>(), l1.as<float>(),
               l2.as<float>(), groups.count, max_norm);
        launch_update("sgd_step", sgd_update<kFour, G, C>, sgd_update<1, G, C>, a, groups, rule,
                      stream);
    });
}

}  // namespace byhand
