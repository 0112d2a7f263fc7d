#include "ops/loss/cross_entropy.h"

#include <algorithm>

#include "core/ids.h"
#include "ops/loss/cross_entropy_rows.h"

namespace byhand {
namespace {

void finish(const Out& loss, const Out& count, const float* losses, std::int64_t rows,
            std::int64_t kept, bool mean) {
    double sum = 0.0;
    for (std::int64_t r = 0; r < rows; ++r) sum += losses[r];
    *count.as<float>() = static_cast<float>(kept);
    *loss.as<float>() = total_loss(sum, kept, mean);
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
        const RowLoss row = ids[r] == ignore_index
                                ? kIgnoredRow
                                : row_loss(x + r * classes, classes, ids[r], smoothing);
        losses[r] = row.loss;
        lses[r] = row.lse;
    });
    finish(loss, count, losses, rows, kept_rows(ids, rows, ignore_index), mean);
}

void cross_entropy_backward(Out dlogits, In dloss, In count, In lse, In logits, In targets,
                            std::int64_t ignore_index, double smoothing, bool mean, Stream) {
    const float *const x = logits.as<float>(), *const lses = lse.as<float>();
    const std::int64_t* const ids = targets.as<std::int64_t>();
    float* const dx = dlogits.as<float>();
    const std::int64_t rows = logits.rows(), classes = logits.cols();
    require_ids(targets, classes, ignore_index);
    const RowGradient gradient(*dloss.as<float>(), *count.as<float>(), classes, smoothing, mean);
    const Into place = place_for(dx, logits.size(), {x});
    for_rows(rows, classes, [=](std::int64_t r) {
        float* const dxr = dx + r * classes;
        if (ids[r] == ignore_index) {
            std::fill_n(dxr, classes, 0.0f);
            return;
        }
        gradient.write(dxr, x + r * classes, lses[r], classes, ids[r], place);
    });
}

void cross_entropy_gradient(Out loss, Out count, Maybe<Out> lse, Mut logits, In dloss, In targets,
                            std::int64_t ignore_index, double smoothing, bool mean, Stream) {
    const std::int64_t* const ids = targets.as<std::int64_t>();
    const std::int64_t rows = logits.rows(), classes = logits.cols();
    require_ids(targets, classes, ignore_index);
    // The factor of every gradient depends on the number of kept targets.
    const std::int64_t kept = kept_rows(ids, rows, ignore_index);
    const RowGradient gradient(*dloss.as<float>(), static_cast<float>(kept), classes, smoothing,
                               mean);
    float* const losses = scratch(static_cast<std::size_t>(2 * rows));
    differentiate_rows({logits.as<float>(), ids, rows, classes}, losses,
                       lse ? lse.as<float>() : losses + rows, ignore_index, smoothing, &gradient);
    finish(loss, count, losses, rows, kept, mean);
}

}  // namespace byhand
