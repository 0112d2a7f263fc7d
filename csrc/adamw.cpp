#include "adamw.h"

#include <algorithm>
#include <cmath>

#include "core/clip_factor.h"
#include "core/rows.h"

namespace byhand {
namespace {

// One step's scalars, worked out in double and rounded once.
struct Step {
    float clip, beta1, rest1, beta2, rest2;  // rest = 1 - beta
    float rate;                              // lr / (1 - beta1^t)
    float root;                              // 1 / sqrt(1 - beta2^t)
    float eps, decay;
};

void update(float* w, float* m, float* v, const float* g, std::int64_t n, const Step& step) {
    const Vec clip = Vec::set(step.clip), eps = Vec::set(step.eps), decay = Vec::set(step.decay);
    const Vec beta1 = Vec::set(step.beta1), rest1 = Vec::set(step.rest1);
    const Vec beta2 = Vec::set(step.beta2), rest2 = Vec::set(step.rest2);
    const Vec rate = Vec::set(step.rate), root = Vec::set(step.root);
    for_words(n, [=](std::int64_t i, std::int64_t lanes) {
        const Vec gradient = Vec::load(g + i, lanes) * clip;
        const Vec first = fma(beta1, Vec::load(m + i, lanes), rest1 * gradient);
        const Vec second = fma(beta2, Vec::load(v + i, lanes), rest2 * gradient * gradient);
        const Vec move = rate * first / fma(sqrt(second), root, eps);
        first.store(m + i, lanes);
        second.store(v + i, lanes);
        fma(Vec::load(w + i, lanes), decay, -move).store(w + i, lanes);
    });
}

}  // namespace

void adamw_step(Mut w, Mut m, Mut v, In g, Maybe<In> norm, std::int64_t decayed, double lr,
                double beta1, double beta2, double eps, double weight_decay, std::int64_t t,
                double max_norm, Stream) {
    float *const wp = w.as<float>(), *const mp = m.as<float>(), *const vp = v.as<float>();
    const float* const gp = g.as<float>();
    const double steps = static_cast<double>(t);
    const auto rounded = [](double value) { return static_cast<float>(value); };
    const Step plain{norm ? clip_factor(*norm.as<float>(), max_norm) : 1.0f,
                     rounded(beta1),
                     rounded(1.0 - beta1),
                     rounded(beta2),
                     rounded(1.0 - beta2),
                     rounded(lr / (1.0 - std::pow(beta1, steps))),
                     rounded(1.0 / std::sqrt(1.0 - std::pow(beta2, steps))),
                     rounded(eps),
                     1.0f};
    Step decaying = plain;
    decaying.decay = rounded(1.0 - lr * weight_decay);
    parallel_for(w.size(), kGrain, [=](std::int64_t begin, std::int64_t end) {
        const std::int64_t border = std::clamp(decayed, begin, end);
        update(wp + begin, mp + begin, vp + begin, gp + begin, border - begin, decaying);
        update(wp + border, mp + border, vp + border, gp + border, end - border, plain);
    });
}

}  // namespace byhand
