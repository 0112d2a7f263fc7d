#include "core/pack.cuh"
#include "core/team.cuh"
#include "ops/optim/clip_factor.h"
#include "ops/optim/grad_norm.h"

namespace byhand {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 4;

// Squares are summed in float32 over kUnroll packs of a thread, and beyond that in float64. A share
// is summed by one block, so the order depends on the sizes and on the alignment of g, and not on
// the device.
template <int V, class T>
__global__ void __launch_bounds__(kThreads, 1)
    grad_norm_squares(float* work, const T* g, int64_t n, int64_t shares, int64_t share) {
    for (int64_t p = blockIdx.x; p < shares; p += gridDim.x) {
        const int64_t begin = p * share, end = min(n, begin + share);
        double sum = 0.0;
        for (int64_t start = begin; start < end; start += kThreads * V * kUnroll) {
            float v[kUnroll][V] = {}, square = 0.0f;
#pragma unroll
            for (int k = 0; k < kUnroll; ++k) {
                const int64_t i = start + (k * kThreads + static_cast<int>(threadIdx.x)) * V;
                if (i + V <= end) load(v[k], g + i);
            }
#pragma unroll
            for (int k = 0; k < kUnroll; ++k) {
#pragma unroll
                for (int j = 0; j < V; ++j) square = fmaf(v[k][j], v[k][j], square);
            }
            sum += square;
        }
        const int64_t i = end / V * V + threadIdx.x;  // the elements after the last whole pack
        if (begin <= i && i < end) {
            const float last = to_float(g[i]);
            sum += last * last;
        }
        sum = sum_block<kThreads>(sum);
        if (threadIdx.x == 0) work[p] = static_cast<float>(sum);
    }
}

__global__ void __launch_bounds__(kThreads, 1)
    grad_norm_finish(float* norm, const float* work, int64_t shares) {
    double sum = 0.0;
    for (int64_t p = threadIdx.x; p < shares; p += kThreads) sum += work[p];
    sum = sum_block<kThreads>(sum);
    if (threadIdx.x == 0) *norm = static_cast<float>(sqrt(sum));
}

template <int V, class T>
__global__ void __launch_bounds__(kThreads, 1)
    clip_scale(T* g, const float* norm, double max_norm, int64_t n) {
    constexpr int64_t kBlock = static_cast<int64_t>(kThreads) * V * kUnroll;
    const float factor = clip_factor(*norm, max_norm);
    if (factor == 1.0f) return;
    const int64_t stride = gridDim.x * kBlock;
    for (int64_t start = blockIdx.x * kBlock; start < n; start += stride) {
        float v[kUnroll][V];
#pragma unroll
        for (int k = 0; k < kUnroll; ++k) {
            const int64_t i = start + (k * kThreads + static_cast<int>(threadIdx.x)) * V;
            if (i + V <= n) load(v[k], g + i);
        }
#pragma unroll
        for (int k = 0; k < kUnroll; ++k) {
            const int64_t i = start + (k * kThreads + static_cast<int>(threadIdx.x)) * V;
            if (i + V > n) continue;
#pragma unroll
            for (int j = 0; j < V; ++j) v[k][j] *= factor;
            store(g + i, v[k]);
        }
    }
    const int64_t i = n / V * V + threadIdx.x;  // the elements after the last whole pack
    if (blockIdx.x == 0 && i < n) g[i] = from_float<T>(to_float(g[i]) * factor);
}

}  // namespace

void grad_norm(Out norm, Out work, In g, Stream stream) {
    float *const to = norm.as<float>(), *const sums = work.as<float>();
    const int64_t n = g.size(), shares = work.size(), share = share_of_norm(n, shares);
    for_storage(g, [&](auto zero) {
        using T = decltype(zero);
        const T* const from = g.as<T>();
        const auto kernel =
            packable<T>(0, from) ? grad_norm_squares<kPack<T>, T> : grad_norm_squares<1, T>;
        launch("grad_norm", kernel, dim3(blocks_for(shares, 1)), dim3(kThreads), stream, sums, from,
               n, shares, share);
    });
    launch("grad_norm", grad_norm_finish, dim3(1), dim3(kThreads), stream, to, sums, shares);
}

void clip(Mut g, In norm, double max_norm, Stream stream) {
    const int64_t n = g.size();
    if (n == 0) return;
    for_storage(g, [&](auto zero) {
        using T = decltype(zero);
        T* const to = g.as<T>();
        const bool packed = packable<T>(0, to);
        const auto kernel = packed ? clip_scale<kPack<T>, T> : clip_scale<1, T>;
        const auto most = static_cast<unsigned>(resident_blocks("clip", kernel, kThreads));
        const unsigned enough = blocks_for(n, kThreads * kUnroll * (packed ? kPack<T> : 1));
        launch("clip", kernel, dim3(std::min(most, enough)), dim3(kThreads), stream, to,
               norm.as<float>(), max_norm, n);
    });
}

}  // namespace byhand
