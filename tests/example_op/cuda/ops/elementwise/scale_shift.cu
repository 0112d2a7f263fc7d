#include "core/pack.cuh"
#include "core/team.cuh"
#include "ops/elementwise/scale_shift.h"

namespace byhand {
namespace {

constexpr int kThreads = 256;

template <int V, class T>
__global__ void __launch_bounds__(kThreads, 1)
    scale_shift_elements(T* y, const T* x, float scale, float shift, int64_t n) {
    const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads * V;
    const int64_t mine = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * V;
    for (int64_t i = mine; i + V <= n; i += stride) {
        float v[V];
        load(v, x + i);
#pragma unroll
        for (int j = 0; j < V; ++j) v[j] = fmaf(v[j], scale, shift);
        store(y + i, v);
    }
    const int64_t last = n / V * V + threadIdx.x;  // what is left over after the last whole pack
    if (blockIdx.x == 0 && last < n) y[last] = from_float<T>(fmaf(to_float(x[last]), scale, shift));
}

void apply(const char* name, const Out& y, const In& x, double scale, double shift, Stream stream) {
    const int64_t n = x.size();
    for_storage(x, [&](auto zero) {
        using T = decltype(zero);
        T* const to = y.as<T>();
        const T* const from = x.as<T>();
        if (n == 0) return;
        const bool packed = packable<T>(0, to, from);
        const auto kernel = packed ? scale_shift_elements<kPack<T>, T> : scale_shift_elements<1, T>;
        const unsigned blocks = blocks_for(n, kThreads * (packed ? kPack<T> : 1));
        launch(name, kernel, dim3(blocks), dim3(kThreads), stream, to, from,
               static_cast<float>(scale), static_cast<float>(shift), n);
    });
}

}  // namespace

void scale_shift_forward(Out y, In x, double scale, double shift, Stream stream) {
    apply("scale_shift_forward", y, x, scale, shift, stream);
}

void scale_shift_backward(Out dx, In dy, double scale, Stream stream) {
    apply("scale_shift_backward", dx, dy, scale, 0.0, stream);
}

}  // namespace byhand
