#include "ops/optim/adamw.h"
#include "ops/optim/adamw_scalars.h"
#include "ops/optim/flat_update.cuh"

namespace byhand {
namespace {

// One warp: increments the step count and computes the scalars of each group.
__global__ void __launch_bounds__(kWarp, 1)
    adamw_prepare(AdamWScalars* work, int64_t* t, const float* norm, const float* lr,
                  const float* weight_decay, int64_t groups, double beta1, double beta2,
                  double max_norm, bool coupled) {
    const float clip = step_clip(norm, max_norm);
    const double count = count_step(t, clip);
    const double share1 = adamw_share(beta1, count), share2 = adamw_share(beta2, count);
    for (int64_t i = threadIdx.x; i < groups; i += kWarp) {
        work[i] = adamw_scalars(lr[i], weight_decay[i], share1, share2, clip, coupled);
    }
}

struct AdamWRule {
    static constexpr int kSlots = 2;
    static constexpr bool kOptional = false;
    using Scalars = AdamWScalars;
    AdamWBetas b;

    BYHAND_DEVICE void update(float& w, float (&s)[kSlots], float g, const Scalars& step) const {
        if (std::isnan(step.clip)) return;
        auto& [m, v] = s;
        g *= step.clip;
        if (b.coupled) g = fmaf(step.keep, w, g);
        m = fmaf(b.beta1, m, b.rest1 * g);
        v = fmaf(b.beta2, v, b.rest2 * g * g);
        const float keep = b.coupled ? 1.0f : step.keep;
        w = fmaf(w, keep, -(step.rate * m / fmaf(sqrtf(v), step.root, b.eps)));
    }
};

template <int V, class G, class C>
__global__ void __launch_bounds__(kFlatThreads, 1)
    adamw_update(const __grid_constant__ FlatArrays<AdamWRule::kSlots, G, C> a,
                 FlatGroups<AdamWScalars> groups, AdamWRule rule) {
    update_flat<V>(a, groups, rule);
}

}  // namespace

void adamw_step(Mut w, Mut m, Mut v, Maybe<Out> copy, Mut t, Out work, In g, Maybe<In> norm, In lr,
                In weight_decay, In bounds, double beta1, double beta2, double eps, double max_norm,
                bool coupled, Stream stream) {
    float *const wp = w.as<float>(), *const mp = m.as<float>(), *const vp = v.as<float>();
    auto* const scalars = reinterpret_cast<AdamWScalars*>(work.as<float>());
    const FlatGroups<AdamWScalars> groups{scalars, bounds.as<int64_t>(), lr.size()};
    const AdamWRule rule{AdamWBetas(beta1, beta2, eps, coupled)};
    for_update_types(g, copy, [&](auto gradient, auto half) {
        using G = decltype(gradient);
        using C = decltype(half);
        const FlatArrays<2, G, C> a{wp, {mp, vp}, copy.as<C>(), g.as<G>(), w.size()};
        launch("adamw_step", adamw_prepare, dim3(1), dim3(kWarp), stream, scalars, t.as<int64_t>(),
               norm.as<float>(), lr.as<float>(), weight_decay.as<float>(), groups.count, beta1,
               beta2, max_norm, coupled);
        launch_update("adamw_step", adamw_update<kFour, G, C>, adamw_update<1, G, C>, a, groups,
                      rule, stream);
    });
}

}  // namespace byhand
