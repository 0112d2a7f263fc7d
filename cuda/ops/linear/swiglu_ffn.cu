#include "core/gemm.cuh"
#include "core/row_blocks.h"
#include "ops/elementwise/activation.h"
#include "ops/linear/linear_gradients.cuh"
#include "ops/linear/swiglu_ffn.h"

namespace byhand {
namespace {

template <class T>
typename Epilogue<T>::Function function_of(const char* kernel, int64_t number) {
    using Function = typename Epilogue<T>::Function;
    switch (static_cast<Activation>(number)) {
        case Activation::gelu:
            return Function::gelu;
        case Activation::gelu_tanh:
            return Function::gelu_tanh;
        case Activation::silu:
            return Function::silu;
        default:
            throw std::invalid_argument(std::string(kernel) + ": there is no such function");
    }
}

}  // namespace

void swiglu_ffn_forward(Out y, Out gate, Out up, Out h, In x, In w1, Maybe<In> b1, In w3,
                        Maybe<In> b3, In w2, Maybe<In> b2, Maybe<In> add, int64_t function,
                        bool round, Stream stream) {
    const char* name = "swiglu_ffn_forward";
    const int64_t C = x.cols(), F = w1.rows();
    for_factors(x, round, [&](auto factor) {
        using Factors = decltype(factor);
        using T = Stored<Factors>;
        const Matrix<T> gate_weight = {w1.as<T>(), F, C, true},
                        up_weight = {w3.as<T>(), F, C, true},
                        down_weight = {w2.as<T>(), C, F, true};
        const T *const in = x.as<T>(), *const residual = add.as<T>();
        T *const out = y.as<T>(), *const to_save = gate.as<T>(), *const to_save_up = up.as<T>();
        Epilogue<T> to_gate, to_up, down;
        to_gate.bias = b1.as<T>();
        to_up.bias = b3.as<T>();
        to_up.activation = Epilogue<T>::Activation::gated;
        to_up.function = function_of<T>(name, function);
        to_up.activated = h.as<T>();
        down.bias = b2.as<T>();
        for_row_blocks(x.rows(), h, [&](int64_t r, int64_t rows) {
            const Matrix<T> xr = {in + r * C, rows, C};
            to_gate.c = to_save + r * F;
            gemm<Factors>(name, xr, gate_weight, to_gate, stream);
            to_up.c = to_save_up + r * F;
            to_up.saved = to_gate.c;
            gemm<Factors>(name, xr, up_weight, to_up, stream);
            down.c = out + r * C;
            down.add = residual == nullptr ? nullptr : residual + r * C;
            gemm<Factors>(name, {to_up.activated, rows, F}, down_weight, down, stream);
        });
    });
}

void swiglu_ffn_backward(Out dx, Out h, Out dgate, Out dup, Acc dw1, Acc db1, Acc dw3, Acc db3,
                         Acc dw2, Acc db2, In dy, In x, In gate, In up, In w1, In w3, In w2,
                         int64_t function, bool round, Stream stream) {
    const char* name = "swiglu_ffn_backward";
    const int64_t C = x.cols(), F = w1.rows();
    for_factors(x, round, [&](auto factor) {
        using Factors = decltype(factor);
        using T = Stored<Factors>;
        const Matrix<T> gate_weight = {w1.as<T>(), F, C}, up_weight = {w3.as<T>(), F, C},
                        down_weight = {w2.as<T>(), C, F};
        const T *const in = x.as<T>(), *const out = dy.as<T>();
        const T *const saved = gate.as<T>(), *const saved_up = up.as<T>();
        T* const to_x = dx.as<T>();
        float *const to_w1 = dw1.as<float>(), *const to_b1 = db1.as<float>();
        float *const to_w3 = dw3.as<float>(), *const to_b3 = db3.as<float>();
        float *const to_w2 = dw2.as<float>(), *const to_b2 = db2.as<float>();
        Epilogue<T> through_gate, first, second;
        through_gate.c = dgate.as<T>();
        through_gate.activation = Epilogue<T>::Activation::gated_backward;
        through_gate.function = function_of<T>(name, function);
        through_gate.activated = h.as<T>();
        through_gate.dup = dup.as<T>();
        for_row_blocks(x.rows(), h, [&](int64_t r, int64_t rows) {
            const T *const xr = in + r * C, *const dyr = out + r * C;
            // Backward through the down-projection and the product of gate and up.
            through_gate.saved = saved + r * F;
            through_gate.up = saved_up + r * F;
            gemm<Factors>(name, {dyr, rows, C}, down_weight, through_gate, stream);
            const T *const hidden = through_gate.activated, *const dg = through_gate.c,
                           *const du = through_gate.dup;
            add_linear_gradients<Factors>(name, to_w2, to_b2, dyr, hidden, rows, C, F, stream);
            // Backward through both projections of x.
            add_linear_gradients<Factors>(name, to_w1, to_b1, dg, xr, rows, F, C, stream);
            add_linear_gradients<Factors>(name, to_w3, to_b3, du, xr, rows, F, C, stream);
            first.c = to_x + r * C;
            gemm<Factors>(name, {dg, rows, F}, gate_weight, first, stream);
            second.c = first.c;
            second.add = first.c;
            gemm<Factors>(name, {du, rows, F}, up_weight, second, stream);
        });
    });
}

}  // namespace byhand
