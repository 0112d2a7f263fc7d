#include "ops/optim/grad_norm.h"

#include <algorithm>
#include <cmath>

#include "core/rows.h"
#include "ops/optim/clip_factor.h"

namespace byhand {
namespace {

float sum_of_squares(const float* g, std::int64_t n) {
    return sum_words(n, [=](Vec sum, std::int64_t i, std::int64_t lanes) {
        const Vec a = Vec::load(g + i, lanes);
        return fma(a, a, sum);
    });
}

}  // namespace

void grad_norm(Out norm, Out work, In g, Stream) {
    const float* const gp = g.as<float>();
    float *const to = norm.as<float>(), *const sums = work.as<float>();
    const std::int64_t n = g.size(), shares = work.size();
    const std::int64_t share = share_of_norm(n, shares);
    for_rows(shares, share, [=](std::int64_t p) {
        double sum = 0.0;
        const std::int64_t end = std::min(n, (p + 1) * share);
        for (std::int64_t at = p * share; at < end; at += kNormBlock) {
            sum += sum_of_squares(gp + at, std::min(kNormBlock, end - at));
        }
        sums[p] = static_cast<float>(sum);
    });
    double sum = 0.0;
    for (std::int64_t p = 0; p < shares; ++p) sum += sums[p];
    *to = static_cast<float>(std::sqrt(sum));
}

void clip(Mut g, In norm, double max_norm, Stream) {
    float* const gp = g.as<float>();
    const float factor = clip_factor(*norm.as<float>(), max_norm);
    if (factor == 1.0f) return;
    parallel_for(g.size(), kGrain, [=](std::int64_t begin, std::int64_t end) {
        for_words(end - begin, [=](std::int64_t i, std::int64_t lanes) {
            float* const at = gp + begin + i;
            (Vec::load(at, lanes) * Vec::set(factor)).store(at, lanes);
        });
    });
}

}  // namespace byhand
