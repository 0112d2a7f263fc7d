#include "ops/optim/sgd.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "ops/optim/flat_groups.h"
#include "ops/optim/step_scalars.h"

namespace byhand {
namespace {

void update(float* w, float* m, float* copy, const float* g, std::int64_t n, const SgdScalars& step,
            float momentum_, bool nesterov) {
    if (std::isnan(step.clip)) {
        if (copy != nullptr) std::copy_n(w, n, copy);
        return;
    }
    const Vec clip = Vec::set(step.clip), decay = Vec::set(step.decay);
    const Vec rate = Vec::set(-step.rate), momentum = Vec::set(momentum_);
    const Vec high = Vec::set(step.threshold), low = -high, shrink = Vec::set(step.shrink);
    for_words(n, [=](std::int64_t i, std::int64_t lanes) {
        const Vec old = Vec::load(w + i, lanes);
        const Vec gradient = fma(decay, old, Vec::load(g + i, lanes) * clip);
        Vec move = gradient;
        if (m != nullptr) {
            const Vec buffer = fma(momentum, Vec::load(m + i, lanes), gradient);
            buffer.store(m + i, lanes);
            move = nesterov ? fma(momentum, buffer, gradient) : buffer;
        }
        const Vec moved = fma(rate, move, old);
        const Vec kept = (moved - min(max(moved, low), high)) * shrink;
        kept.store(w + i, lanes);
        if (copy != nullptr) kept.store(copy + i, lanes);
    });
}

}  // namespace

void sgd_step(Mut w, Maybe<Mut> m, Maybe<Out> copy, Mut t, Out work, In g, Maybe<In> norm, In lr,
              In weight_decay, In l1, In l2, In bounds, double momentum, bool nesterov,
              double max_norm, Stream) {
    float *const wp = w.as<float>(), *const mp = m.as<float>(), *const cp = copy.as<float>();
    const float *const gp = g.as<float>(), *const lrp = lr.as<float>();
    const float* const decay = weight_decay.as<float>();
    const float *const l1p = l1.as<float>(), *const l2p = l2.as<float>();
    const std::int64_t groups = lr.size();
    auto* const steps = reinterpret_cast<SgdScalars*>(work.as<float>());

    const float clip = step_clip(norm.as<float>(), max_norm);
    count_step(t.as<std::int64_t>(), clip);
    for (std::int64_t i = 0; i < groups; ++i) {
        steps[i] = sgd_scalars(lrp[i], decay[i], l1p[i], l2p[i], clip);
    }
    for_groups(w.size(), bounds.as<std::int64_t>(), groups,
               [=](std::int64_t i, std::int64_t from, std::int64_t count) {
                   update(wp + from, at(mp, from), at(cp, from), gp + from, count, steps[i],
                          static_cast<float>(momentum), nesterov);
               });
}

}  // namespace byhand
