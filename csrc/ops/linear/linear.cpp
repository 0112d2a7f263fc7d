#include "ops/linear/linear.h"

#include "matmul/gemm.h"

namespace byhand {

void linear_forward(Out y, In x, In w, Maybe<In> b, Maybe<In> add, bool bf16, Stream) {
    const std::int64_t R = x.rows(), K = x.cols(), N = w.rows();
    Epilogue epilogue;
    epilogue.bias = b.as<float>();
    epilogue.add = add.as<float>();
    gemm(y.as<float>(), row_major(x.as<float>(), K), row_major(w.as<float>(), K).transposed(), R, N,
         K, epilogue, bf16);
}

void linear_backward(Maybe<Out> dx, Acc dw, Acc db, In dy, In x, In w, bool bf16, Stream) {
    const std::int64_t R = x.rows(), K = x.cols(), N = w.rows();
    if (dx) {
        gemm(dx.as<float>(), row_major(dy.as<float>(), N), row_major(w.as<float>(), K), R, K, N, {},
             bf16);
    }
    add_linear_gradients(dw.as<float>(), db.as<float>(), dy.as<float>(), x.as<float>(), R, N, K,
                         bf16);
}

}  // namespace byhand
