#include "core/cublaslt.h"
#include "core/gemm_cublaslt.cuh"
#include "core/gemm_tiles.cuh"
#include "core/pack.cuh"

namespace byhand {
namespace {

// The activation after a product c, as in gemm_tiles.cuh.
template <class T, int V, bool kBackward>
__global__ void __launch_bounds__(256, 1)
    activation_pass(const __grid_constant__ Epilogue<T> e, int64_t packs) {
    const int64_t step = int64_t{gridDim.x} * blockDim.x;
    for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < packs; i += step) {
        const int64_t at = i * V;
        float v[V];
        load(v, e.c + at);
        if constexpr (kBackward) {
            activate_backward(e, at, v);
            store(e.c + at, v);
        } else {
            activate(e, at, v);
        }
    }
}

template <class T, bool kBackward>
void launch_activation(const char* name, const Epilogue<T>& e, int64_t size, Stream stream) {
    const auto run = [&](auto width) {
        constexpr int V = decltype(width)::value;
        launch(name, activation_pass<T, V, kBackward>, dim3(blocks_for(size / V, 256)), dim3(256),
               stream, e, size / V);
    };
    if (packable<T>(size, e.c, e.activated, e.saved, e.up, e.dup)) {
        run(std::integral_constant<int, kPack<T>>{});
    } else {
        run(std::integral_constant<int, 1>{});
    }
}

template <class T>
LtProduct::Factor factor(const Matrix<T>& m) {
    return {m.data, m.rows, m.cols, m.transposed};
}

}  // namespace

template <class F>
bool gemm_by_cublaslt(const char* name, const Matrix<Stored<F>>& left,
                      const Matrix<Stored<F>>& right, const Epilogue<Stored<F>>& e, Stream stream) {
    using T = Stored<F>;
    using Form = typename Epilogue<T>::Activation;
    if (gemm_choice() == Gemm::hand || std::is_same_v<F, Rounded>) return false;
    const bool plain = e.bias == nullptr && e.add == nullptr;
    const bool forward = e.activation == Form::forward || e.activation == Form::gated;
    const bool backward = e.activation == Form::backward || e.activation == Form::gated_backward;
    if ((e.into != nullptr || backward) && !plain) return false;
    if (left.rows == 0 || left.cols == 0 || right.rows == 0 || right.cols == 0) return false;
    LtProduct p = {
        DTypeOf<T>::value, DTypeOf<T>::value, factor(left), factor(right), e.c, e.bias, e.add};
    if (e.into != nullptr) p.result = DType::f32, p.c = e.into, p.add = e.into;
    cublaslt_multiply(name, p, stream);
    const int64_t M = left.transposed ? left.cols : left.rows;
    const int64_t N = right.transposed ? right.rows : right.cols;
    if (forward) launch_activation<T, false>(name, e, M * N, stream);
    if (backward) launch_activation<T, true>(name, e, M * N, stream);
    return true;
}

#define BYHAND_GEMM(F)                                                                      \
    template bool gemm_by_cublaslt<F>(const char*, const Matrix<Stored<F>>&,                \
                                      const Matrix<Stored<F>>&, const Epilogue<Stored<F>>&, \
                                      Stream)
BYHAND_GEMM(float);
BYHAND_GEMM(bf16);
BYHAND_GEMM(Rounded);

}  // namespace byhand
