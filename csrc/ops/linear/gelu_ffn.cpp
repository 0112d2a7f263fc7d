#include "ops/linear/gelu_ffn.h"

#include <cstdint>

#include "core/row_blocks.h"
#include "matmul/gemm.h"

namespace byhand {

void gelu_ffn_forward(Out y, Out pre, Out h, In x, In w1, Maybe<In> b1, In w2, Maybe<In> b2,
                      Maybe<In> add, bool tanh, bool bf16, Stream) {
    const std::int64_t C = x.cols(), F = w1.rows();
    const Matrix up_weight = row_major(w1.as<float>(), C).transposed();
    const Matrix down_weight = row_major(w2.as<float>(), F).transposed();
    Epilogue up;
    up.bias = b1.as<float>();
    up.activation = Epilogue::Activation::forward;
    up.function = tanh ? Epilogue::Function::gelu_tanh : Epilogue::Function::gelu;
    up.activated = h.as<float>();
    Epilogue down;
    down.bias = b2.as<float>();
    for_row_blocks(x.rows(), h, [&](std::int64_t r, std::int64_t rows) {
        gemm(pre.as<float>() + r * F, row_major(x.as<float>() + r * C, C), up_weight, rows, F, C,
             up, bf16);
        down.add = add ? add.as<float>() + r * C : nullptr;
        gemm(y.as<float>() + r * C, row_major(h.as<float>(), F), down_weight, rows, C, F, down,
             bf16);
    });
}

void gelu_ffn_backward(Out dx, Out h, Out dpre, Acc dw1, Acc db1, Acc dw2, Acc db2, In dy, In x,
                       In pre, In w1, In w2, bool tanh, bool bf16, Stream) {
    const std::int64_t C = x.cols(), F = w1.rows();
    float* const d = dpre.as<float>();
    Epilogue through_gelu;
    through_gelu.activation = Epilogue::Activation::backward;
    through_gelu.function = tanh ? Epilogue::Function::gelu_tanh : Epilogue::Function::gelu;
    through_gelu.activated = h.as<float>();
    for_row_blocks(x.rows(), h, [&](std::int64_t r, std::int64_t rows) {
        const float *const dyr = dy.as<float>() + r * C, *const xr = x.as<float>() + r * C;
        // Backward through the down-projection and GELU.
        through_gelu.saved = pre.as<float>() + r * F;
        gemm(d, row_major(dyr, C), row_major(w2.as<float>(), F), rows, F, C, through_gelu, bf16);
        add_linear_gradients(dw2.as<float>(), db2.as<float>(), dyr, h.as<float>(), rows, C, F,
                             bf16);
        // Backward through the up-projection.
        add_linear_gradients(dw1.as<float>(), db1.as<float>(), d, xr, rows, F, C, bf16);
        gemm(dx.as<float>() + r * C, row_major(d, F), row_major(w1.as<float>(), C), rows, C, F, {},
             bf16);
    });
}

}  // namespace byhand
