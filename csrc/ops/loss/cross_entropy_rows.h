// Cross entropy of rows of logits, shared by cross_entropy and linear_cross_entropy.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/rows.h"
#include "simd/vecmath.h"

namespace byhand {

// Logits are read from memory once: a block of this length stays in the first-level cache between
// the search for its maximum and the sum of its exponentials, during which the next block is
// prefetched.
inline constexpr std::int64_t kLogitBlock = 1024;

// log(sum of exp) of the logits added so far: top is their maximum, total the sum of exp(x - top)
// (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018, algorithm 3).
struct LogSumExp {
    float top = -kInfinity;
    float total = 0.0f;

    void add(const float* x, std::int64_t n) {
        const float before = top;
        top = max_words(n, top, [=](std::int64_t i, std::int64_t lanes) {
            return Vec::load(x + i, lanes, -kInfinity);
        });
        // While every logit is -inf, the shift is 0, because -inf - -inf is NaN.
        const float shift = top == -kInfinity ? 0.0f : top;
        if (total > 0.0f && before < top) total *= std::exp(before - shift);
        total += sum_words(n, [=](Vec sum, std::int64_t i, std::int64_t lanes) {
            __builtin_prefetch(x + i + kLogitBlock);
            // Lanes past the end are masked afterwards: exp(-inf) would pass through subnormal
            // numbers, which take a processor a hundred cycles.
            const Vec e = exp_score(Vec::load(x + i, lanes, shift) - Vec::set(shift));
            return sum + keep_first(e, lanes, 0.0f);
        });
    }
};

struct RowLoss {
    float loss, lse;
};

// A row that is not kept: its loss is 0, and so is exp(x - lse).
inline constexpr RowLoss kIgnoredRow{0.0f, kInfinity};

// Logits are subtracted from the maximum and not from lse, whose rounding error is large when lse
// is large.
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

// How many rows are kept.
inline std::int64_t kept_rows(const std::int64_t* ids, std::int64_t rows,
                              std::int64_t ignore_index) {
    return rows - std::count(ids, ids + rows, ignore_index);
}

// The loss from the sum over its rows, of which `kept` are kept.
inline float total_loss(double sum, std::int64_t kept, bool mean) {
    return static_cast<float>(mean && kept > 0 ? sum / static_cast<double>(kept) : sum);
}

// dx = scale (exp(x - lse) - floor), minus scale * peak at the target.
struct RowGradient {
    float scale, floor, peak;

    RowGradient(float dloss, float kept, std::int64_t classes, double smoothing, bool mean)
        : scale(mean ? dloss / kept : dloss),
          floor(static_cast<float>(smoothing / static_cast<double>(classes))),
          peak(static_cast<float>(1.0 - smoothing)) {}

    // dx may be x.
    void write(float* dx, const float* x, float lse, std::int64_t n, std::int64_t target,
               Into place = Into::caches) const {
        const auto word = [=, scale = scale, floor = floor](std::int64_t i, std::int64_t lanes) {
            const Vec p = exp_score(Vec::load(x + i, lanes) - Vec::set(lse));
            return (p - Vec::set(floor)) * Vec::set(scale);
        };
        const Vec at_target = word(target, 1) - Vec::set(scale * peak);
        write_words(dx, n, place, word,
                    [=](std::int64_t i) { __builtin_prefetch(x + i + kLogitBlock); });
        at_target.store(dx + target, 1);
    }
};

struct LogitRows {
    float* logits;  // (rows, classes)
    const std::int64_t* targets;
    std::int64_t rows, classes;
};

// Logits are read twice, for the loss and for the gradient, in groups of rows of about this many
// elements, which stay in the second-level cache. Processed one at a time, each short row would
// wait for the one before it.
inline constexpr std::int64_t kLogitGroup = 32 * 1024;

// Writes the loss of each row and, unless `gradient` is null, replaces its logits by their
// gradient.
inline void differentiate_rows(const LogitRows& block, float* losses, float* lses,
                               std::int64_t ignore_index, double smoothing,
                               const RowGradient* gradient) {
    const std::int64_t V = block.classes;
    const std::int64_t group =
        std::max<std::int64_t>(1, kLogitGroup / std::max<std::int64_t>(1, V));
    parallel_for(block.rows, grain_of(V), [=, &block](std::int64_t begin, std::int64_t end) {
        for (std::int64_t from = begin; from < end; from += group) {
            const std::int64_t to = std::min(from + group, end);
            for (std::int64_t r = from; r < to; ++r) {
                const std::int64_t target = block.targets[r];
                const RowLoss row = target == ignore_index
                                        ? kIgnoredRow
                                        : row_loss(block.logits + r * V, V, target, smoothing);
                losses[r] = row.loss;
                lses[r] = row.lse;
            }
            if (gradient == nullptr) continue;
            for (std::int64_t r = from; r < to; ++r) {
                float* const row = block.logits + r * V;
                if (block.targets[r] == ignore_index) {
                    std::fill_n(row, V, 0.0f);
                } else {
                    gradient->write(row, row, lses[r], V, block.targets[r]);
                }
            }
        }
    });
}

}  // namespace byhand
