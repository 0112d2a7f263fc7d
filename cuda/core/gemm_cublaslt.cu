#include "core/cublaslt.h"
#include "core/gelu.cuh"
#include "core/gemm_cublaslt.cuh"
#include "core/pack.cuh"

namespace byhand {
namespace {

// GELU after a product c: activated = gelu(c), or c *= gelu'(saved) and activated = gelu(saved).
template <class T, int V, bool kBackward>
__global__ void __launch_bounds__(256, 1)
    gelu_pass(T* c, T* activated, const T* saved, int64_t packs, bool tanh) {
    const int64_t step = int64_t{gridDim.x} * blockDim.x;
    for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < packs; i += step) {
        const int64_t at = i * V;
        float v[V], d[V];
        load(v, kBackward ? saved + at : c + at);
        if constexpr (kBackward) load(d, c + at);
#pragma unroll
        for (int j = 0; j < V; ++j) {
            const Gelu g = gelu<T>(v[j], tanh);
            v[j] = g.value;
            if constexpr (kBackward) d[j] *= g.slope;
        }
        store(activated + at, v);
        if constexpr (kBackward) store(c + at, d);
    }
}

template <class T, bool kBackward>
void launch_gelu(const char* name, const Epilogue<T>& e, int64_t size, Stream stream) {
    const auto run = [&](auto width) {
        constexpr int V = decltype(width)::value;
        launch(name, gelu_pass<T, V, kBackward>, dim3(blocks_for(size / V, 256)), dim3(256), stream,
               e.c, e.activated, e.saved, size / V, e.tanh);
    };
    if (packable<T>(size, e.c, e.activated, e.saved)) {
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
    using Form = typename Epilogue<T>::Gelu;
    if (gemm_choice() == Gemm::hand || std::is_same_v<F, Rounded>) return false;
    const bool plain = e.bias == nullptr && e.add == nullptr;
    if ((e.into != nullptr || e.gelu == Form::backward) && !plain) return false;
    if (left.rows == 0 || left.cols == 0 || right.rows == 0 || right.cols == 0) return false;
    LtProduct p = {
        DTypeOf<T>::value, DTypeOf<T>::value, factor(left), factor(right), e.c, e.bias, e.add};
    if (e.into != nullptr) p.result = DType::f32, p.c = e.into, p.add = e.into;
    cublaslt_multiply(name, p, stream);
    const int64_t M = left.transposed ? left.cols : left.rows;
    const int64_t N = right.transposed ? right.rows : right.cols;
    if (e.gelu == Form::forward) launch_gelu<T, false>(name, e, M * N, stream);
    if (e.gelu == Form::backward) launch_gelu<T, true>(name, e, M * N, stream);
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
