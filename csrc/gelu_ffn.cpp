#include "gelu_ffn.h"

#include "core/gemm.h"

namespace byhand {

void gelu_ffn_forward(Out y, Out pre, Out h, In x, In w1, Maybe<In> b1, In w2, Maybe<In> b2,
                      Maybe<In> add, bool tanh, bool bf16, Stream) {
    const std::int64_t R = x.rows(), C = x.cols(), F = w1.rows();
    Epilogue up;
    up.bias = b1.as<float>();
    up.activation = Epilogue::Activation::gelu;
    up.tanh = tanh;
    up.activated = h.as<float>();
    gemm(pre.as<float>(), row_major(x.as<float>(), C), row_major(w1.as<float>(), C).transposed(), R,
         F, C, up, bf16);

    Epilogue down;
    down.bias = b2.as<float>();
    down.add = add.as<float>();
    gemm(y.as<float>(), row_major(h.as<float>(), F), row_major(w2.as<float>(), F).transposed(), R,
         C, F, down, bf16);
}

void gelu_ffn_backward(Out dx, Out dpre, Acc dw1, Acc db1, Acc dw2, Acc db2, In dy, In x, In pre,
                       In h, In w1, In w2, bool tanh, bool bf16, Stream) {
    const std::int64_t R = x.rows(), C = x.cols(), F = w1.rows();

    // Down-projection, read from the bottom up.
    add_linear_gradients(dw2.as<float>(), db2.as<float>(), dy.as<float>(), h.as<float>(), R, C, F,
                         bf16);
    Epilogue through_gelu;
    through_gelu.activation = Epilogue::Activation::gelu_backward;
    through_gelu.tanh = tanh;
    through_gelu.saved = pre.as<float>();
    gemm(dpre.as<float>(), row_major(dy.as<float>(), C), row_major(w2.as<float>(), F), R, F, C,
         through_gelu, bf16);

    // Up-projection.
    add_linear_gradients(dw1.as<float>(), db1.as<float>(), dpre.as<float>(), x.as<float>(), R, F, C,
                         bf16);
    gemm(dx.as<float>(), row_major(dpre.as<float>(), F), row_major(w1.as<float>(), C), R, C, F, {},
         bf16);
}

}  // namespace byhand
