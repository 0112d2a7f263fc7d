#include "ops/optim/adamw.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "ops/optim/adamw_scalars.h"
#include "ops/optim/flat_groups.h"

namespace byhand {
namespace {

template <bool coupled>
void update(float* w, float* m, float* v, float* copy, const float* g, std::int64_t n,
            const AdamWScalars& step, const AdamWBetas& b) {
    if (std::isnan(step.clip)) {
        if (copy != nullptr) std::copy_n(w, n, copy);
        return;
    }
    const Vec clip = Vec::set(step.clip), eps = Vec::set(b.eps), keep = Vec::set(step.keep);
    const Vec beta1 = Vec::set(b.beta1), rest1 = Vec::set(b.rest1);
    const Vec beta2 = Vec::set(b.beta2), rest2 = Vec::set(b.rest2);
    const Vec rate = Vec::set(step.rate), root = Vec::set(step.root);
    for_words(n, [=](std::int64_t i, std::int64_t lanes) {
        const Vec old = Vec::load(w + i, lanes);
        Vec gradient = Vec::load(g + i, lanes) * clip;
        if constexpr (coupled) gradient = fma(keep, old, gradient);
        const Vec first = fma(beta1, Vec::load(m + i, lanes), rest1 * gradient);
        const Vec second = fma(beta2, Vec::load(v + i, lanes), rest2 * gradient * gradient);
        const Vec move = rate * first / fma(sqrt(second), root, eps);
        const Vec moved = coupled ? old - move : fma(old, keep, -move);
        first.store(m + i, lanes);
        second.store(v + i, lanes);
        moved.store(w + i, lanes);
        if (copy != nullptr) moved.store(copy + i, lanes);
    });
}

}  // namespace

void adamw_step(Mut w, Mut m, Mut v, Maybe<Out> copy, Mut t, Out work, In g, Maybe<In> norm, In lr,
                In weight_decay, In bounds, double beta1, double beta2, double eps, double max_norm,
                bool coupled, Stream) {
    float *const wp = w.as<float>(), *const mp = m.as<float>(), *const vp = v.as<float>();
    float* const cp = copy.as<float>();
    const float *const gp = g.as<float>(), *const lrp = lr.as<float>();
    const float* const decay = weight_decay.as<float>();
    const std::int64_t groups = lr.size();
    auto* const steps = reinterpret_cast<AdamWScalars*>(work.as<float>());

    const float clip = step_clip(norm.as<float>(), max_norm);
    const double done = count_step(t.as<std::int64_t>(), clip);
    const double share1 = adamw_share(beta1, done), share2 = adamw_share(beta2, done);
    for (std::int64_t i = 0; i < groups; ++i) {
        steps[i] = adamw_scalars(lrp[i], decay[i], share1, share2, clip, coupled);
    }
    const AdamWBetas betas(beta1, beta2, eps, coupled);
    const auto run = coupled ? update<true> : update<false>;
    for_groups(w.size(), bounds.as<std::int64_t>(), groups,
               [=](std::int64_t i, std::int64_t from, std::int64_t count) {
                   run(wp + from, mp + from, vp + from, at(cp, from), gp + from, count, steps[i],
                       betas);
               });
}

}  // namespace byhand
