#include "core/column_sums.cuh"
#include "core/gemm.cuh"
#include "ops/linear/linear.h"
#include "ops/linear/linear_gradients.cuh"

namespace byhand {
namespace {

template <class T>
struct Elements {
    const T* x;
    int64_t cols;

    template <int V>
    BYHAND_DEVICE void load(float (&v)[V], int64_t row, int64_t col) const {
        byhand::load(v, x + row * cols + col);
    }
};

}  // namespace

template <class F, class T>
void add_linear_gradients(const char* name, float* dw, float* db, const T* dy, const T* x,
                          int64_t R, int64_t N, int64_t K, Stream stream) {
    if (dw != nullptr) {
        Epilogue<T> into;
        into.into = dw;
        gemm<F>(name, {dy, R, N, true}, {x, R, K}, into, stream);
    }
    if (db != nullptr) {
        add_column_sums<T>(name, db, Elements<T>{dy, N}, packable<T>(N, dy), R, N, stream);
    }
}

#define BYHAND_GRADIENTS(F, T)                                                                \
    template void add_linear_gradients<F, T>(const char*, float*, float*, const T*, const T*, \
                                             int64_t, int64_t, int64_t, Stream)
BYHAND_GRADIENTS(float, float);
BYHAND_GRADIENTS(Rounded, float);
BYHAND_GRADIENTS(bf16, bf16);

void linear_forward(Out y, In x, In w, Maybe<In> b, Maybe<In> add, bool round, Stream stream) {
    for_factors(x, round, [&](auto factor) {
        using F = decltype(factor);
        using T = Stored<F>;
        Epilogue<T> epilogue;
        epilogue.c = y.as<T>();
        epilogue.bias = b.as<T>();
        epilogue.add = add.as<T>();
        gemm<F>("linear_forward", {x.as<T>(), x.rows(), x.cols()},
                {w.as<T>(), w.rows(), w.cols(), true}, epilogue, stream);
    });
}

void linear_backward(Maybe<Out> dx, Acc dw, Acc db, In dy, In x, In w, bool round, Stream stream) {
    const char* name = "linear_backward";
    const int64_t R = x.rows(), K = x.cols(), N = w.rows();
    for_factors(x, round, [&](auto factor) {
        using F = decltype(factor);
        using T = Stored<F>;
        const T *const d = dy.as<T>(), *const inputs = x.as<T>(), *const weights = w.as<T>();
        float *const to_w = dw.as<float>(), *const to_b = db.as<float>();
        if (dx) {
            Epilogue<T> epilogue;
            epilogue.c = dx.as<T>();
            gemm<F>(name, {d, R, N}, {weights, N, K}, epilogue, stream);
        }
        add_linear_gradients<F>(name, to_w, to_b, d, inputs, R, N, K, stream);
    });
}

}  // namespace byhand
