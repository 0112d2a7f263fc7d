#include "grad_norm.h"

#include <algorithm>
#include <cmath>

#include "core/clip_factor.h"
#include "core/rows.h"

namespace byhand {
namespace {

constexpr std::int64_t kBlock = 4096;

float sum_of_squares(const float* g, std::int64_t n) {
    return sum_words(n, [=](Vec sum, std::int64_t i, std::int64_t lanes) {
        const Vec a = Vec::load(g + i, lanes);
        return fma(a, a, sum);
    });
}

}  // namespace

void grad_norm(Out norm, In g, Stream) {
    const float* const gp = g.as<float>();
    const std::int64_t n = g.size(), blocks = (n + kBlock - 1) / kBlock;
    float* const partials = scratch(static_cast<std::size_t>(blocks));
    for_rows(blocks, kBlock, [=](std::int64_t block) {
        const std::int64_t at = block * kBlock;
        partials[block] = sum_of_squares(gp + at, std::min(kBlock, n - at));
    });
    double sum = 0.0;
    for (std::int64_t block = 0; block < blocks; ++block) sum += partials[block];
    *norm.as<float>() = static_cast<float>(std::sqrt(sum));
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
