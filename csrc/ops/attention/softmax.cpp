#include "ops/attention/softmax.h"

#include <algorithm>
#include <cmath>

#include "core/rows.h"
#include "simd/vecmath.h"

namespace byhand {
namespace {

// The number of keys, from the first on, that query i may see under causality.
std::int64_t causal_keys(std::int64_t i, std::int64_t queries, std::int64_t keys) {
    return std::clamp<std::int64_t>(i + 1 + keys - queries, 0, keys);
}

// Row r of a mask that is broadcast to the shape of x.
const bool* mask_row(const Maybe<StridedIn>& mask, const In& x, std::int64_t r) {
    const bool* row = mask.as<bool>();
    for (int d = x.ndim - 2; d >= 0; --d) {
        row += (r % x.shape[d]) * mask.stride[d];
        r /= x.shape[d];
    }
    return row;
}

const bool* contiguous(const bool* seen, std::int64_t stride, std::int64_t n) {
    if (stride == 1) return seen;
    bool* copy = reinterpret_cast<bool*>(scratch(static_cast<std::size_t>(n) / sizeof(float) + 1));
    for (std::int64_t j = 0; j < n; ++j) copy[j] = seen[j * stride];
    return copy;
}

void masked_logits(float* y, const float* x, const bool* seen, float scale, std::int64_t n) {
    for_words(n, [=](std::int64_t i, std::int64_t lanes) {
        const Vec logits = Vec::load(x + i, lanes) * Vec::set(scale);
        select(Mask::load(seen + i, lanes), logits, Vec::set(-kInfinity)).store(y + i, lanes);
    });
}

float max_logit(const float* x, float scale, std::int64_t n) {
    return max_words(n, -kInfinity, [=](std::int64_t i, std::int64_t lanes) {
        return keep_first(Vec::load(x + i, lanes) * Vec::set(scale), lanes, -kInfinity);
    });
}

// y = softmax(scale * x); y may be x. With Into::memory the exponentials are kept in scratch memory
// until the sum is known. While a row is in the cache, the next one is prefetched.
void softmax_row(float* y, const float* x, float scale, std::int64_t n, Into place) {
    float* const e = place == Into::caches ? y : scratch(static_cast<std::size_t>(n), 1);
    const float top = max_logit(x, scale, n);
    // If every logit is -inf, the shift is 0, because -inf - -inf is NaN.
    const float shift = top == -kInfinity ? 0.0f : top;
    const float total = sum_words(n, [=](Vec sum, std::int64_t i, std::int64_t lanes) {
        __builtin_prefetch(x + n + i);
        const Vec word = exp_score(Vec::load(x + i, lanes) * Vec::set(scale) - Vec::set(shift));
        word.store(e + i, lanes);
        return sum + keep_first(word, lanes, 0.0f);
    });
    const float share = total == 0.0f ? 0.0f : 1.0f / total;
    write_words(y, n, place, [=](std::int64_t i, std::int64_t lanes) {
        return Vec::load(e + i, lanes) * Vec::set(share);
    });
}

void softmax_backward_row(float* dx, const float* dy, const float* y, float scale, std::int64_t n,
                          Into place) {
    const float dot = sum_words(n, [=](Vec sum, std::int64_t i, std::int64_t lanes) {
        return fma(Vec::load(dy + i, lanes), Vec::load(y + i, lanes), sum);
    });
    const auto word = [=](std::int64_t i, std::int64_t lanes) {
        const Vec centred = Vec::load(dy + i, lanes) - Vec::set(dot);
        return Vec::set(scale) * Vec::load(y + i, lanes) * centred;
    };
    write_words(dx, n, place, word, [=](std::int64_t i) {
        __builtin_prefetch(dy + n + i);  // the next row
        __builtin_prefetch(y + n + i);
    });
}

void log_softmax_row(float* y, const float* x, std::int64_t n, Into place) {
    const float top = max_logit(x, 1.0f, n);
    const float total = sum_words(n, [=](Vec sum, std::int64_t i, std::int64_t lanes) {
        __builtin_prefetch(x + n + i);
        return sum + keep_first(exp_score(Vec::load(x + i, lanes) - Vec::set(top)), lanes, 0.0f);
    });
    const float log_total = std::log(total);
    write_words(y, n, place, [=](std::int64_t i, std::int64_t lanes) {
        return Vec::load(x + i, lanes) - Vec::set(top) - Vec::set(log_total);
    });
}

void log_softmax_backward_row(float* dx, const float* dy, const float* y, std::int64_t n,
                              Into place) {
    const float total = sum_row(dy, n);
    write_words(dx, n, place, [=](std::int64_t i, std::int64_t lanes) {
        __builtin_prefetch(dy + n + i);
        const Vec p = exp_score(Vec::load(y + i, lanes));
        return fma(-p, Vec::set(total), Vec::load(dy + i, lanes));
    });
}

}  // namespace

void softmax_forward(Out y, In x, Maybe<StridedIn> mask, double scale, bool causal, Stream) {
    const float* const logits = x.as<float>();
    float* const out = y.as<float>();
    const std::int64_t keys = x.cols(), queries = x.ndim >= 2 ? x.shape[x.ndim - 2] : 1;
    const float factor = static_cast<float>(scale);
    const Into place = place_for(out, y.size(), {logits});
    for_rows(x.rows(), keys, [&](std::int64_t r) {
        const float* const xr = logits + r * keys;
        float* const yr = out + r * keys;
        const std::int64_t n = causal ? causal_keys(r % queries, queries, keys) : keys;
        if (mask) {
            const bool* row = mask_row(mask, x, r);
            masked_logits(yr, xr, contiguous(row, mask.stride[x.ndim - 1], n), factor, n);
            softmax_row(yr, yr, 1.0f, n, Into::caches);
        } else {
            softmax_row(yr, xr, factor, n, place);
        }
        std::fill_n(yr + n, keys - n, 0.0f);
    });
}

void softmax_backward(Out dx, In dy, In y, double scale, Stream) {
    const float *const dyp = dy.as<float>(), *const yp = y.as<float>();
    float* const dxp = dx.as<float>();
    const std::int64_t cols = y.cols();
    const Into place = place_for(dxp, dx.size(), {dyp, yp});
    for_rows(y.rows(), cols, [=](std::int64_t r) {
        const std::int64_t at = r * cols;
        softmax_backward_row(dxp + at, dyp + at, yp + at, static_cast<float>(scale), cols, place);
    });
}

void log_softmax_forward(Out y, In x, Stream) {
    const float* const xp = x.as<float>();
    float* const yp = y.as<float>();
    const std::int64_t cols = x.cols();
    const Into place = place_for(yp, y.size(), {xp});
    for_rows(x.rows(), cols,
             [=](std::int64_t r) { log_softmax_row(yp + r * cols, xp + r * cols, cols, place); });
}

void log_softmax_backward(Out dx, In dy, In y, Stream) {
    const float *const dyp = dy.as<float>(), *const yp = y.as<float>();
    float* const dxp = dx.as<float>();
    const std::int64_t cols = y.cols();
    const Into place = place_for(dxp, dx.size(), {dyp, yp});
    for_rows(y.rows(), cols, [=](std::int64_t r) {
        const std::int64_t at = r * cols;
        log_softmax_backward_row(dxp + at, dyp + at, yp + at, cols, place);
    });
}

}  // namespace byhand
