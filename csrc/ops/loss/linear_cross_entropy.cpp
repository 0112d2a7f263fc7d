#include "ops/loss/linear_cross_entropy.h"

#include "core/ids.h"
#include "core/row_blocks.h"
#include "matmul/gemm.h"
#include "ops/loss/cross_entropy_rows.h"

namespace byhand {

void linear_cross_entropy_forward(Out loss, Out count, Maybe<Out> dx, Acc dw, Out work, In x, In w,
                                  In dloss, In targets, std::int64_t ignore_index, double smoothing,
                                  bool mean, bool bf16, Stream) {
    const std::int64_t R = x.rows(), K = x.cols(), V = w.rows(), most = work.rows();
    require_ids(targets, V, ignore_index);
    // The factor of every gradient depends on the number of kept targets.
    const std::int64_t* const ids = targets.as<std::int64_t>();
    const std::int64_t kept = kept_rows(ids, R, ignore_index);
    const RowGradient gradient(*dloss.as<float>(), static_cast<float>(kept), V, smoothing, mean);
    float* const logits = work.as<float>();
    float* const losses = scratch(static_cast<std::size_t>(2 * most), 1);  // gemm has slot 0
    const Matrix weight = row_major(w.as<float>(), K);

    double sum = 0.0;
    for_row_blocks(R, work, [&](std::int64_t begin, std::int64_t rows) {
        const float* const xb = x.as<float>() + begin * K;
        gemm(logits, row_major(xb, K), weight.transposed(), rows, V, K, {}, bf16);
        differentiate_rows({logits, ids + begin, rows, V}, losses, losses + most, ignore_index,
                           smoothing, dx || dw ? &gradient : nullptr);
        for (std::int64_t r = 0; r < rows; ++r) sum += losses[r];
        if (dx) {
            gemm(dx.as<float>() + begin * K, row_major(logits, V), weight, rows, K, V, {}, bf16);
        }
        add_linear_gradients(dw.as<float>(), nullptr, logits, xb, rows, V, K, bf16);
    });
    *count.as<float>() = static_cast<float>(kept);
    *loss.as<float>() = total_loss(sum, kept, mean);
}

}  // namespace byhand
