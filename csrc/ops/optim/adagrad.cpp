#include "ops/optim/adagrad.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "ops/optim/flat_groups.h"
#include "ops/optim/step_scalars.h"

namespace byhand {
namespace {

void update(float* w, float* v, float* copy, const float* g, std::int64_t n,
            const StepScalars& step, float eps_) {
    if (std::isnan(step.clip)) {
        if (copy != nullptr) std::copy_n(w, n, copy);
        return;
    }
    const Vec clip = Vec::set(step.clip), decay = Vec::set(step.decay);
    const Vec rate = Vec::set(-step.rate), eps = Vec::set(eps_);
    for_words(n, [=](std::int64_t i, std::int64_t lanes) {
        const Vec old = Vec::load(w + i, lanes);
        const Vec gradient = fma(decay, old, Vec::load(g + i, lanes) * clip);
        const Vec sum = fma(gradient, gradient, Vec::load(v + i, lanes));
        sum.store(v + i, lanes);
        const Vec moved = fma(rate, gradient / (sqrt(sum) + eps), old);
        moved.store(w + i, lanes);
        if (copy != nullptr) moved.store(copy + i, lanes);
    });
}

}  // namespace

void adagrad_step(Mut w, Mut v, Maybe<Out> copy, Mut t, Out work, In g, Maybe<In> norm, In lr,
                  In weight_decay, In bounds, double lr_decay, double eps, double max_norm,
                  Stream) {
    float *const wp = w.as<float>(), *const vp = v.as<float>(), *const cp = copy.as<float>();
    const float *const gp = g.as<float>(), *const lrp = lr.as<float>();
    const float* const decay = weight_decay.as<float>();
    const std::int64_t groups = lr.size();
    auto* const steps = reinterpret_cast<StepScalars*>(work.as<float>());

    const float clip = step_clip(norm.as<float>(), max_norm);
    const double done = count_step(t.as<std::int64_t>(), clip);
    for (std::int64_t i = 0; i < groups; ++i) {
        steps[i] = {decay[i], adagrad_rate(lrp[i], lr_decay, done), clip};
    }
    for_groups(w.size(), bounds.as<std::int64_t>(), groups,
               [=](std::int64_t i, std::int64_t from, std::int64_t count) {
                   update(wp + from, vp + from, at(cp, from), gp + from, count, steps[i],
                          static_cast<float>(eps));
               });
}

}  // namespace byhand
