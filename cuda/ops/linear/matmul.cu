#include "core/gemm.cuh"
#include "ops/linear/matmul.h"

namespace byhand {
namespace {

template <class T>
Matrix<T> oriented(const ReadOnly& x, bool transpose) {
    return {x.as<T>(), x.rows(), x.cols(), transpose};
}

template <class F, class T>
void multiply(const char* name, T* c, Matrix<T> a, Matrix<T> b, Stream stream) {
    Epilogue<T> epilogue;
    epilogue.c = c;
    gemm<F>(name, a, b, epilogue, stream);
}

}  // namespace

void matmul_forward(Out c, In a, In b, bool transpose_a, bool transpose_b, bool round,
                    Stream stream) {
    for_factors(a, round, [&](auto factor) {
        using F = decltype(factor);
        using T = Stored<F>;
        multiply<F>("matmul_forward", c.as<T>(), oriented<T>(a, transpose_a),
                    oriented<T>(b, transpose_b), stream);
    });
}

void matmul_backward(Maybe<Out> da, Maybe<Out> db, In dc, In a, In b, bool transpose_a,
                     bool transpose_b, bool round, Stream stream) {
    const char* name = "matmul_backward";
    for_factors(a, round, [&](auto factor) {
        using F = decltype(factor);
        using T = Stored<F>;
        const Matrix<T> A = oriented<T>(a, transpose_a), B = oriented<T>(b, transpose_b);
        const Matrix<T> d = oriented<T>(dc, false);
        T *const to_a = da.as<T>(), *const to_b = db.as<T>();
        // dA = dc BT and dB = AT dc. The gradient of a transposed operand is transposed:
        // (X Y)T = YT XT.
        if (da && !transpose_a) multiply<F>(name, to_a, d, B.t(), stream);
        if (da && transpose_a) multiply<F>(name, to_a, B, d.t(), stream);
        if (db && !transpose_b) multiply<F>(name, to_b, A.t(), d, stream);
        if (db && transpose_b) multiply<F>(name, to_b, d.t(), A, stream);
    });
}

}  // namespace byhand
