#include "core/gemm.cuh"
#include "core/row_blocks.h"
#include "ops/linear/linear_gradients.cuh"
#include "ops/loss/cross_entropy_blocks.h"
#include "ops/loss/linear_cross_entropy.h"

namespace byhand {

void linear_cross_entropy_forward(Out loss, Out count, Maybe<Out> dx, Acc dw, Out work, In x, In w,
                                  In dloss, In targets, int64_t ignore_index, double smoothing,
                                  bool mean, bool round, Stream stream) {
    const char* name = "linear_cross_entropy_forward";
    const int64_t R = x.rows(), K = x.cols(), V = w.rows();
    float *const to_loss = loss.as<float>(), *const to_count = count.as<float>();
    float* const to_w = dw.as<float>();
    const CrossEntropyCall call = {name, targets.as<int64_t>(), R,     V, ignore_index, smoothing,
                                   mean, dloss.as<float>(),     stream};
    for_factors(x, round, [&](auto factor) {
        using F = decltype(factor);
        using T = Stored<F>;
        const T* const in = x.as<T>();
        const Matrix<T> weight = {w.as<T>(), V, K};
        T *const logits = work.as<T>(), *const to_x = dx.as<T>();
        Epilogue<T> forward, backward;
        forward.c = logits;
        CrossEntropyBlocks blocks(call);
        for_row_blocks(R, work, [&](int64_t r, int64_t rows) {
            const T* const xr = in + r * K;
            gemm<F>(name, {xr, rows, K}, weight.t(), forward, stream);
            blocks.differentiate(logits, nullptr, r, rows);
            if (dx) {
                backward.c = to_x + r * K;
                gemm<F>(name, {logits, rows, V}, weight, backward, stream);
            }
            add_linear_gradients<F>(name, to_w, nullptr, static_cast<const T*>(logits), xr, rows, V,
                                    K, stream);
        });
        blocks.finish(to_loss, to_count);
    });
}

}  // namespace byhand
