#include "ops/optim/rmsprop.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "ops/optim/flat_groups.h"
#include "ops/optim/step_scalars.h"

namespace byhand {
namespace {

struct Factors {
    float alpha, rest, eps, momentum;  // rest = 1 - alpha
};

void update(float* w, float* v, float* mean, float* m, float* copy, const float* g, std::int64_t n,
            const StepScalars& step, const Factors& f) {
    if (std::isnan(step.clip)) {
        if (copy != nullptr) std::copy_n(w, n, copy);
        return;
    }
    const Vec clip = Vec::set(step.clip), decay = Vec::set(step.decay);
    const Vec rate = Vec::set(-step.rate), eps = Vec::set(f.eps);
    const Vec alpha = Vec::set(f.alpha), rest = Vec::set(f.rest), momentum = Vec::set(f.momentum);
    for_words(n, [=](std::int64_t i, std::int64_t lanes) {
        const Vec old = Vec::load(w + i, lanes);
        const Vec gradient = fma(decay, old, Vec::load(g + i, lanes) * clip);
        const Vec second = fma(alpha, Vec::load(v + i, lanes), rest * gradient * gradient);
        second.store(v + i, lanes);
        Vec spread = second;
        if (mean != nullptr) {
            const Vec first = fma(alpha, Vec::load(mean + i, lanes), rest * gradient);
            first.store(mean + i, lanes);
            spread = second - min(first * first, second);
        }
        Vec move = gradient / (sqrt(spread) + eps);
        if (m != nullptr) {
            move = fma(momentum, Vec::load(m + i, lanes), move);
            move.store(m + i, lanes);
        }
        const Vec moved = fma(rate, move, old);
        moved.store(w + i, lanes);
        if (copy != nullptr) moved.store(copy + i, lanes);
    });
}

}  // namespace

void rmsprop_step(Mut w, Mut v, Maybe<Mut> mean, Maybe<Mut> m, Maybe<Out> copy, Mut t, Out work,
                  In g, Maybe<In> norm, In lr, In weight_decay, In bounds, double alpha, double eps,
                  double momentum, double max_norm, Stream) {
    float *const wp = w.as<float>(), *const vp = v.as<float>(), *const up = mean.as<float>();
    float *const mp = m.as<float>(), *const cp = copy.as<float>();
    const float *const gp = g.as<float>(), *const lrp = lr.as<float>();
    const float* const decay = weight_decay.as<float>();
    const std::int64_t groups = lr.size();
    auto* const steps = reinterpret_cast<StepScalars*>(work.as<float>());

    const float clip = step_clip(norm.as<float>(), max_norm);
    count_step(t.as<std::int64_t>(), clip);
    for (std::int64_t i = 0; i < groups; ++i) steps[i] = {decay[i], lrp[i], clip};
    const Factors factors{static_cast<float>(alpha), static_cast<float>(1.0 - alpha),
                          static_cast<float>(eps), static_cast<float>(momentum)};
    for_groups(w.size(), bounds.as<std::int64_t>(), groups,
               [=](std::int64_t i, std::int64_t from, std::int64_t count) {
                   update(wp + from, vp + from, at(up, from), at(mp, from), at(cp, from), gp + from,
                          count, steps[i], factors);
               });
}

}  // namespace byhand
