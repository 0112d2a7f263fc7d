#include "linear.h"

#include "core/gemm.h"

namespace byhand {

void linear_forward(Out y, In x, In w, Maybe<In> b, Maybe<In> add, Stream) {
    const std::int64_t R = x.rows(), K = x.cols(), N = w.rows();
    Epilogue epilogue;
    epilogue.bias = b.as<float>();
    epilogue.add = add.as<float>();
    gemm(y.as<float>(), row_major(x.as<float>(), K), row_major(w.as<float>(), K).transposed(), R, N,
         K, epilogue);
}

void linear_backward(Maybe<Out> dx, Acc dw, Acc db, In dy, In x, In w, Stream) {
    const std::int64_t R = x.rows(), K = x.cols(), N = w.rows();
    const Matrix d = row_major(dy.as<float>(), N);
    if (dx) gemm(dx.as<float>(), d, row_major(w.as<float>(), K), R, K, N);
    if (dw) {
        Epilogue epilogue;
        epilogue.add = dw.as<float>();
        gemm(dw.as<float>(), d.transposed(), row_major(x.as<float>(), K), N, K, R, epilogue);
    }
    if (db) add_column_sums(db.as<float>(), dy.as<float>(), R, N);
}

}  // namespace byhand
