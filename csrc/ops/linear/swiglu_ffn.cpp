#include "ops/linear/swiglu_ffn.h"

#include <cstdint>
#include <stdexcept>
#include <string>

#include "core/row_blocks.h"
#include "matmul/gemm.h"
#include "ops/elementwise/activation.h"

namespace byhand {
namespace {

Epilogue::Function function_of(const char* kernel, std::int64_t number) {
    switch (static_cast<Activation>(number)) {
        case Activation::gelu:
            return Epilogue::Function::gelu;
        case Activation::gelu_tanh:
            return Epilogue::Function::gelu_tanh;
        case Activation::silu:
            return Epilogue::Function::silu;
        default:
            throw std::invalid_argument(std::string(kernel) + ": there is no such function");
    }
}

}  // namespace

void swiglu_ffn_forward(Out y, Out gate, Out up, Out h, In x, In w1, Maybe<In> b1, In w3,
                        Maybe<In> b3, In w2, Maybe<In> b2, Maybe<In> add, std::int64_t function,
                        bool bf16, Stream) {
    const std::int64_t C = x.cols(), F = w1.rows();
    const Matrix gate_weight = row_major(w1.as<float>(), C).transposed();
    const Matrix up_weight = row_major(w3.as<float>(), C).transposed();
    const Matrix down_weight = row_major(w2.as<float>(), F).transposed();
    Epilogue to_gate, to_up, down;
    to_gate.bias = b1.as<float>();
    to_up.bias = b3.as<float>();
    to_up.activation = Epilogue::Activation::gated;
    to_up.function = function_of("swiglu_ffn_forward", function);
    to_up.activated = h.as<float>();
    down.bias = b2.as<float>();
    for_row_blocks(x.rows(), h, [&](std::int64_t r, std::int64_t rows) {
        float *const g = gate.as<float>() + r * F, *const u = up.as<float>() + r * F;
        const Matrix in = row_major(x.as<float>() + r * C, C);
        gemm(g, in, gate_weight, rows, F, C, to_gate, bf16);
        to_up.saved = g;
        gemm(u, in, up_weight, rows, F, C, to_up, bf16);
        down.add = add ? add.as<float>() + r * C : nullptr;
        gemm(y.as<float>() + r * C, row_major(h.as<float>(), F), down_weight, rows, C, F, down,
             bf16);
    });
}

void swiglu_ffn_backward(Out dx, Out h, Out dgate, Out dup, Acc dw1, Acc db1, Acc dw3, Acc db3,
                         Acc dw2, Acc db2, In dy, In x, In gate, In up, In w1, In w3, In w2,
                         std::int64_t function, bool bf16, Stream) {
    const std::int64_t C = x.cols(), F = w1.rows();
    float *const dg = dgate.as<float>(), *const du = dup.as<float>();
    Epilogue through_gate, sum;
    through_gate.activation = Epilogue::Activation::gated_backward;
    through_gate.function = function_of("swiglu_ffn_backward", function);
    through_gate.activated = h.as<float>();
    through_gate.dup = du;
    for_row_blocks(x.rows(), h, [&](std::int64_t r, std::int64_t rows) {
        const float *const dyr = dy.as<float>() + r * C, *const xr = x.as<float>() + r * C;
        float* const dxr = dx.as<float>() + r * C;
        // Backward through the down-projection and the product of gate and up.
        through_gate.saved = gate.as<float>() + r * F;
        through_gate.up = up.as<float>() + r * F;
        gemm(dg, row_major(dyr, C), row_major(w2.as<float>(), F), rows, F, C, through_gate, bf16);
        add_linear_gradients(dw2.as<float>(), db2.as<float>(), dyr, h.as<float>(), rows, C, F,
                             bf16);
        // Backward through both projections of x.
        add_linear_gradients(dw1.as<float>(), db1.as<float>(), dg, xr, rows, F, C, bf16);
        add_linear_gradients(dw3.as<float>(), db3.as<float>(), du, xr, rows, F, C, bf16);
        gemm(dxr, row_major(dg, F), row_major(w1.as<float>(), C), rows, C, F, {}, bf16);
        sum.add = dxr;
        gemm(dxr, row_major(du, F), row_major(w3.as<float>(), C), rows, C, F, sum, bf16);
    });
}

}  // namespace byhand
