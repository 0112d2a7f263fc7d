#include "core/gemm.cuh"
#include "core/row_blocks.h"
#include "ops/linear/gelu_ffn.h"
#include "ops/linear/linear_gradients.cuh"

namespace byhand {

void gelu_ffn_forward(Out y, Out pre, Out h, In x, In w1, Maybe<In> b1, In w2, Maybe<In> b2,
                      Maybe<In> add, bool tanh, bool round, Stream stream) {
    const char* name = "gelu_ffn_forward";
    const int64_t C = x.cols(), F = w1.rows();
    for_factors(x, round, [&](auto factor) {
        using Factors = decltype(factor);
        using T = Stored<Factors>;
        const Matrix<T> up_weight = {w1.as<T>(), F, C, true},
                        down_weight = {w2.as<T>(), C, F, true};
        const T *const in = x.as<T>(), *const residual = add.as<T>();
        T *const out = y.as<T>(), *const saved = pre.as<T>();
        Epilogue<T> up, down;
        up.bias = b1.as<T>();
        up.activation = Epilogue<T>::Activation::forward;
        up.function = tanh ? Epilogue<T>::Function::gelu_tanh : Epilogue<T>::Function::gelu;
        up.activated = h.as<T>();
        down.bias = b2.as<T>();
        for_row_blocks(x.rows(), h, [&](int64_t r, int64_t rows) {
            up.c = saved + r * F;
            gemm<Factors>(name, {in + r * C, rows, C}, up_weight, up, stream);
            down.c = out + r * C;
            down.add = residual == nullptr ? nullptr : residual + r * C;
            gemm<Factors>(name, {up.activated, rows, F}, down_weight, down, stream);
        });
    });
}

void gelu_ffn_backward(Out dx, Out h, Out dpre, Acc dw1, Acc db1, Acc dw2, Acc db2, In dy, In x,
                       In pre, In w1, In w2, bool tanh, bool round, Stream stream) {
    const char* name = "gelu_ffn_backward";
    const int64_t C = x.cols(), F = w1.rows();
    for_factors(x, round, [&](auto factor) {
        using Factors = decltype(factor);
        using T = Stored<Factors>;
        const Matrix<T> up_weight = {w1.as<T>(), F, C}, down_weight = {w2.as<T>(), C, F};
        const T *const in = x.as<T>(), *const out = dy.as<T>(), *const saved = pre.as<T>();
        float *const to_w1 = dw1.as<float>(), *const to_b1 = db1.as<float>();
        float *const to_w2 = dw2.as<float>(), *const to_b2 = db2.as<float>();
        T* const to_x = dx.as<T>();
        Epilogue<T> through_gelu, plain;
        through_gelu.c = dpre.as<T>();
        through_gelu.activation = Epilogue<T>::Activation::backward;
        through_gelu.function =
            tanh ? Epilogue<T>::Function::gelu_tanh : Epilogue<T>::Function::gelu;
        through_gelu.activated = h.as<T>();
        for_row_blocks(x.rows(), h, [&](int64_t r, int64_t rows) {
            const T *const xr = in + r * C, *const dyr = out + r * C;
            // Backward through the down-projection and GELU.
            through_gelu.saved = saved + r * F;
            gemm<Factors>(name, {dyr, rows, C}, down_weight, through_gelu, stream);
            const T *const hidden = through_gelu.activated, *const d = through_gelu.c;
            add_linear_gradients<Factors>(name, to_w2, to_b2, dyr, hidden, rows, C, F, stream);
            // Backward through the up-projection.
            add_linear_gradients<Factors>(name, to_w1, to_b1, d, xr, rows, F, C, stream);
            plain.c = to_x + r * C;
            gemm<Factors>(name, {d, rows, F}, up_weight, plain, stream);
        });
    });
}

}  // namespace byhand
