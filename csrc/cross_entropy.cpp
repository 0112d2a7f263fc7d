#include "cross_entropy.h"

#include <algorithm>
#include <cmath>

#include "core/ids.h"
#include "core/rows.h"
#include "core/vecmath.h"

namespace byhand {
namespace {

// Logits are read from memory once: a block this long stays in the first-level cache between the
// search for its largest and the sum of its exponentials.
constexpr std::int64_t kBlock = 2048;

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
            return sum + exp(Vec::load(x + i, lanes, -kInfinity) - Vec::set(shift));
        });
    }
};

struct RowLoss {
    float loss, lse;
};

// Distances are taken from the largest logit: lse itself may be large, and then its last bit is
// large too.
RowLoss row_loss(const float* x, std::int64_t n, std::int64_t target, double smoothing) {
    LogSumExp all;
    double sum = 0.0;
    for (std::int64_t i = 0; i < n; i += kBlock) {
        const std::int64_t length = std::min(kBlock, n - i);
        all.add(x + i, length);
        if (smoothing > 0.0) sum += sum_row(x + i, length);
    }
    const double top = all.top, log_total = std::log(all.total);
    double loss = log_total + (1.0 - smoothing) * (top - x[target]);
    if (smoothing > 0.0) loss += smoothing * (top - sum / static_cast<double>(n));
    return {static_cast<float>(loss), static_cast<float>(top + log_total)};
}

void backward_row(float* dx, const float* x, float lse, std::int64_t n, float scale, float floor) {
    for_words(n, [=](std::int64_t i, std::int64_t lanes) {
        const Vec p = exp(Vec::load(x + i, lanes) - Vec::set(lse));
        ((p - Vec::set(floor)) * Vec::set(scale)).store(dx + i, lanes);
    });
}

}  // namespace

void cross_entropy_forward(Out loss, Out count, Out lse, In logits, In targets,
                           std::int64_t ignore_index, double smoothing, bool mean, Stream) {
    const float* const x = logits.as<float>();
    const std::int64_t* const ids = targets.as<std::int64_t>();
    float* const lses = lse.as<float>();
    const std::int64_t rows = logits.rows(), classes = logits.cols();
    require_ids(targets, classes, ignore_index);
    float* const losses = scratch(static_cast<std::size_t>(rows));
    for_rows(rows, classes, [=](std::int64_t r) {
        RowLoss row{0.0f, kInfinity};  // of a row that is not kept
        if (ids[r] != ignore_index) row = row_loss(x + r * classes, classes, ids[r], smoothing);
        losses[r] = row.loss;
        lses[r] = row.lse;
    });
    double sum = 0.0;
    for (std::int64_t r = 0; r < rows; ++r) sum += losses[r];
    const std::int64_t kept = rows - std::count(ids, ids + rows, ignore_index);
    *count.as<float>() = static_cast<float>(kept);
    *loss.as<float>() =
        static_cast<float>(mean && kept > 0 ? sum / static_cast<double>(kept) : sum);
}

void cross_entropy_backward(Out dlogits, In dloss, In count, In lse, In logits, In targets,
                            std::int64_t ignore_index, double smoothing, bool mean, Stream) {
    const float *const x = logits.as<float>(), *const lses = lse.as<float>();
    const std::int64_t* const ids = targets.as<std::int64_t>();
    float* const dx = dlogits.as<float>();
    const std::int64_t rows = logits.rows(), classes = logits.cols();
    require_ids(targets, classes, ignore_index);
    const float scale = mean ? *dloss.as<float>() / *count.as<float>() : *dloss.as<float>();
    const float floor = static_cast<float>(smoothing / static_cast<double>(classes));
    const float peak = static_cast<float>(1.0 - smoothing);
    for_rows(rows, classes, [=](std::int64_t r) {
        float* const dxr = dx + r * classes;
        if (ids[r] == ignore_index) {
            std::fill_n(dxr, classes, 0.0f);
            return;
        }
        backward_row(dxr, x + r * classes, lses[r], classes, scale, floor);
        dxr[ids[r]] -= scale * peak;
    });
}

}  // namespace byhand
