#include "ops/linear/matmul.h"

#include "matmul/gemm.h"

namespace byhand {
namespace {

Matrix oriented(In x, bool transpose) {
    const Matrix m = row_major(x.as<float>(), x.cols());
    return transpose ? m.transposed() : m;
}

}  // namespace

void matmul_forward(Out c, In a, In b, bool transpose_a, bool transpose_b, bool bf16, Stream) {
    const std::int64_t K = transpose_a ? a.rows() : a.cols();
    gemm(c.as<float>(), oriented(a, transpose_a), oriented(b, transpose_b), c.rows(), c.cols(), K,
         {}, bf16);
}

void matmul_backward(Maybe<Out> da, Maybe<Out> db, In dc, In a, In b, bool transpose_a,
                     bool transpose_b, bool bf16, Stream) {
    const std::int64_t M = dc.rows(), N = dc.cols();
    const std::int64_t K = transpose_a ? a.rows() : a.cols();
    const Matrix A = oriented(a, transpose_a), B = oriented(b, transpose_b);
    const Matrix d = row_major(dc.as<float>(), N);
    // dA = dc BT and dB = AT dc. The gradient of a transposed operand is transposed:
    // (X Y)T = YT XT.
    if (da && !transpose_a) gemm(da.as<float>(), d, B.transposed(), M, K, N, {}, bf16);
    if (da && transpose_a) gemm(da.as<float>(), B, d.transposed(), K, M, N, {}, bf16);
    if (db && !transpose_b) gemm(db.as<float>(), A.transposed(), d, K, N, M, {}, bf16);
    if (db && transpose_b) gemm(db.as<float>(), d.transposed(), A, N, K, M, {}, bf16);
}

}  // namespace byhand
