// Cross entropy of one row of logits: what cross_entropy and linear_cross_entropy share.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/rows.h"
#include "core/vecmath.h"

namespace byhand {

// Logits are read from memory once: a block this long stays in the first-level cache between the
// search for its largest and the sum of its exponentials, and the next one comes while they are
// computed.
inline constexpr std::int64_t kLogitBlock = 1024;

// log(sum of exp) of a growing list of logits: top is their largest, total the sum of exp(x - top)
// (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018, algorithm 3).
struct LogSumExp {
    float top = -kInfinity;
    float total = 0.0f;

    void add(const float* x, std::int64_t n) {
        const float before = top;
        top = max_words(n, top, [=](std::int64_t i, std::int64_t lanes) {
            return Vec::load(x + i, lanes, -kInfinity);
        });
        // While every logit is -inf, so would be the shift, and -inf - -inf is NaN.
        const float shift = top == -kInfinity ? 0.0f : top;
        if (total > 0.0f && before < top) total *= std::exp(before - shift);
        total += sum_words(n, [=](Vec sum, std::int64_t i, std::int64_t lanes) {
            __builtin_prefetch(x + i + kLogitBlock);
            return sum + exp_score(Vec::load(x + i, lanes, -kInfinity) - Vec::set(shift));
        });
    }
};

struct RowLoss {
    float loss, lse;
};

// A row that is not kept: no loss, and exp(x - lse) is 0.
inline constexpr RowLoss kIgnoredRow{0.0f, kInfinity};

// Distances are taken from the largest logit: lse itself may be large, and then its last bit is
// large too.
inline RowLoss row_loss(const float* x, std::int64_t n, std::int64_t target, double smoothing) {
    LogSumExp all;
    double sum = 0.0;
    for (std::int64_t i = 0; i < n; i += kLogitBlock) {
        const std::int64_t length = std::min(kLogitBlock, n - i);
        all.add(x + i, length);
        if (smoothing > 0.0) sum += sum_row(x + i, length);
    }
    const double top = all.top, log_total = std::log(all.total);
    double loss = log_total + (1.0 - smoothing) * (top - x[target]);
    if (smoothing > 0.0) loss += smoothing * (top - sum / static_cast<double>(n));
    return {static_cast<float>(loss), static_cast<float>(top + log_total)};
}

// The loss from the sum of its rows, `kept` of which count.
inline float total_loss(double sum, std::int64_t kept, bool mean) {
    return static_cast<float>(mean && kept > 0 ? sum / static_cast<double>(kept) : sum);
}

// dx = scale (exp(x - lse) - floor), and scale * peak less at the target.
struct RowGradient {
    float scale, floor, peak;

    RowGradient(float dloss, float kept, std::int64_t classes, double smoothing, bool mean)
        : scale(mean ? dloss / kept : dloss),
          floor(static_cast<float>(smoothing / static_cast<double>(classes))),
          peak(static_cast<float>(1.0 - smoothing)) {}

    // dx may be x.
    void write(float* dx, const float* x, float lse, std::int64_t n, std::int64_t target) const {
        for_words(n, [=, scale = scale, floor = floor](std::int64_t i, std::int64_t lanes) {
            const Vec p = exp(Vec::load(x + i, lanes) - Vec::set(lse));
            ((p - Vec::set(floor)) * Vec::set(scale)).store(dx + i, lanes);
        });
        dx[target] -= scale * peak;
    }
};

}  // namespace byhand
