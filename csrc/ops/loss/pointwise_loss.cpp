#include "ops/loss/pointwise_loss.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "core/rows.h"
#include "simd/vecmath.h"

namespace byhand {
namespace {

constexpr std::int64_t kLossBlock = 4096;  // elements whose losses are summed in float32

struct Squared {
    Vec a, twice;
    explicit Squared(float a_) : a(Vec::set(a_)), twice(Vec::set(2.0f * a_)) {}
    BYHAND_INLINE Vec loss(Vec x, Vec t) const { return a * ((x - t) * (x - t)); }
    BYHAND_INLINE Vec slope(Vec x, Vec t) const { return twice * (x - t); }
};

struct Huber {
    Vec a, half;
    explicit Huber(float a_) : a(Vec::set(a_)), half(Vec::set(0.5f)) {}
    BYHAND_INLINE Vec loss(Vec x, Vec t) const {
        const Vec d = abs(x - t);
        return select(d > a, a * (d - half * a), half * d * d);
    }
    BYHAND_INLINE Vec slope(Vec x, Vec t) const { return max(-a, min(a, x - t)); }
};

struct Bce {
    Vec a, one;
    explicit Bce(float a_) : a(Vec::set(a_)), one(Vec::set(1.0f)) {}
    // log(1 + exp(-x)) = log(1 + exp(x)) - x, without the cancellation.
    BYHAND_INLINE Vec loss(Vec x, Vec t) const {
        const Vec curve = softplus(-abs(x));
        return (one - t) * (max(Vec::zero(), x) + curve) + a * t * (max(Vec::zero(), -x) + curve);
    }
    BYHAND_INLINE Vec slope(Vec x, Vec t) const {
        const Vec e = exp_normal(-abs(x)), high = one / (one + e), low = e * high;
        const Mask negative = x < Vec::zero();
        return (one - t) * select(negative, low, high) - a * t * select(negative, high, low);
    }
};

// Calls f with the function of this number.
template <class F>
void with_function(const char* kernel, std::int64_t function, double a, F&& f) {
    const auto constant = static_cast<float>(a);
    switch (static_cast<PointwiseLoss>(function)) {
        case PointwiseLoss::squared:
            return f(Squared(constant));
        case PointwiseLoss::huber:
            return f(Huber(constant));
        case PointwiseLoss::bce:
            return f(Bce(constant));
    }
    throw std::invalid_argument(std::string(kernel) + ": there is no such function");
}

}  // namespace

void pointwise_loss_forward(Maybe<Out> loss, Maybe<Out> losses, In prediction, In target,
                            std::int64_t function, double a, bool mean, Stream) {
    const float *const xs = prediction.as<float>(), *const ts = target.as<float>();
    float *const to = losses.as<float>(), *const total = loss.as<float>();
    const std::int64_t n = prediction.size(), blocks = (n + kLossBlock - 1) / kLossBlock;
    float* const sums = scratch(static_cast<std::size_t>(blocks));
    with_function("pointwise_loss_forward", function, a, [=](auto f) {
        for_rows(blocks, kLossBlock, [=](std::int64_t p) {
            const std::int64_t begin = p * kLossBlock;
            const std::int64_t length = std::min(kLossBlock, n - begin);
            const auto word = [=](std::int64_t i, std::int64_t lanes) {
                return f.loss(Vec::load(xs + begin + i, lanes), Vec::load(ts + begin + i, lanes));
            };
            sums[p] = sum_words(length, [=](Vec sum, std::int64_t i, std::int64_t lanes) {
                const Vec l = word(i, lanes);
                if (to != nullptr) l.store(to + begin + i, lanes);
                return sum + keep_first(l, lanes, 0.0f);
            });
        });
    });
    if (total == nullptr) return;
    double sum = 0.0;
    for (std::int64_t p = 0; p < blocks; ++p) sum += sums[p];
    *total = static_cast<float>(mean && n > 0 ? sum / static_cast<double>(n) : sum);
}

void pointwise_loss_backward(Out dx, Maybe<In> dloss, Maybe<In> dlosses, In prediction, In target,
                             std::int64_t function, double a, bool mean, Stream) {
    const float *const xs = prediction.as<float>(), *const ts = target.as<float>();
    const float *const each = dlosses.as<float>(), *const all = dloss.as<float>();
    float* const to = dx.as<float>();
    const std::int64_t n = prediction.size();
    const float k = all == nullptr ? 0.0f : mean ? *all / static_cast<float>(n) : *all;
    const Into place = place_for(to, n, {xs, ts, each});
    with_function("pointwise_loss_backward", function, a, [=](auto f) {
        parallel_for(n, kGrain, [=](std::int64_t begin, std::int64_t end) {
            const float *const xb = xs + begin, *const tb = ts + begin;
            const auto write = [=](auto upstream) {
                write_words(to + begin, end - begin, place,
                            [=](std::int64_t i, std::int64_t lanes) {
                                return upstream(i, lanes) *
                                       f.slope(Vec::load(xb + i, lanes), Vec::load(tb + i, lanes));
                            });
            };
            const Vec same = Vec::set(k);
            if (each == nullptr) {
                write([=](std::int64_t, std::int64_t) { return same; });
            } else {
                write([=](std::int64_t i, std::int64_t lanes) {
                    return same + Vec::load(each + begin + i, lanes);
                });
            }
            stream_fence();
        });
    });
}

}  // namespace byhand
