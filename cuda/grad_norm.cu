#include "core/clip.cuh"
#include "core/pack.cuh"
#include "core/slots.h"
#include "core/team.cuh"
#include "grad_norm.h"

namespace byhand {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 4;
constexpr int kPartials = 1024;
__device__ double partials[kSlots][kPartials];

// The sum over a block in a fixed order; thread 0 has it.
BYHAND_DEVICE double sum_block(double value) {
    BYHAND_SHARED(double[kThreads / kWarp], shared);
    const int rank = static_cast<int>(threadIdx.x);
    value = reduce_warp(value, Add{});
    if (rank % kWarp == 0) shared[rank / kWarp] = value;
    sync_block();
    if (rank != 0) return 0.0;
    for (int w = 1; w < kThreads / kWarp; ++w) value += shared[w];
    return value;
}

// Squares in float32 over kUnroll packs of a thread, everything above that in float64. The order is
// fixed by n and by whether g is aligned: a block takes its share by number.
template <int V>
__global__ void __launch_bounds__(kThreads, 1)
    grad_norm_squares(const float* g, int64_t n, int slot) {
    constexpr int64_t kBlock = static_cast<int64_t>(kThreads) * V * kUnroll;
    double sum = 0.0;
    const int64_t stride = gridDim.x * kBlock;
    for (int64_t start = blockIdx.x * kBlock; start < n; start += stride) {
        float v[kUnroll][V], square = 0.0f;
#pragma unroll
        for (int k = 0; k < kUnroll; ++k) {
            const int64_t i = start + (static_cast<int64_t>(k) * kThreads + threadIdx.x) * V;
            if (i + V <= n) {
                load(v[k], g + i);
            } else {
#pragma unroll
                for (int j = 0; j < V; ++j) v[k][j] = i + j < n ? g[i + j] : 0.0f;
            }
        }
#pragma unroll
        for (int k = 0; k < kUnroll; ++k) {
#pragma unroll
            for (int j = 0; j < V; ++j) square = fmaf(v[k][j], v[k][j], square);
        }
        sum += square;
    }
    sum = sum_block(sum);
    if (threadIdx.x == 0) partials[slot][blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads, 1) grad_norm_finish(float* norm, int slot, int count) {
    constexpr int kEach = kPartials / kThreads;
    double sum = 0.0;
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
        const int i = static_cast<int>(threadIdx.x) * kEach + k;
        if (i < count) sum += partials[slot][i];
    }
    sum = sum_block(sum);
    if (threadIdx.x == 0) *norm = static_cast<float>(sqrt(sum));
}

template <int V>
__global__ void __launch_bounds__(kThreads, 1)
    clip_scale(float* g, const float* norm, float max_norm, int64_t n) {
    const float factor = clip_factor(*norm, max_norm);
    if (factor == 1.0f) return;
    const int64_t packs = n / V, stride = static_cast<int64_t>(gridDim.x) * kThreads;
    const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    for (int64_t i = first; i < packs; i += stride) {
        float v[V];
        load(v, g + i * V);
#pragma unroll
        for (int j = 0; j < V; ++j) v[j] *= factor;
        store(g + i * V, v);
    }
    if (packs * V + first < n) g[packs * V + first] *= factor;
}

}  // namespace

void grad_norm(Out norm, In g, Stream stream) {
    const int64_t n = g.size();
    const float* from = g.as<float>();
    const int slot = slot_of(stream);
    const bool packed = packable<float>(0, from);
    const int64_t block = kThreads * kUnroll * (packed ? kPack<float> : 1);
    const int count = static_cast<int>(std::min<int64_t>((n + block - 1) / block, kPartials));
    if (count > 0) {
        const auto kernel = packed ? grad_norm_squares<kPack<float>> : grad_norm_squares<1>;
        launch("grad_norm", kernel, dim3(static_cast<unsigned>(count)), dim3(kThreads), stream,
               from, n, slot);
    }
    launch("grad_norm", grad_norm_finish, dim3(1), dim3(kThreads), stream, norm.as<float>(), slot,
           count);
}

void clip(Mut g, In norm, double max_norm, Stream stream) {
    const int64_t n = g.size();
    if (n == 0) return;
    float* to = g.as<float>();
    const bool packed = packable<float>(0, to);
    const int64_t packs = packed ? n / kPack<float> + 1 : n;
    const auto kernel = packed ? clip_scale<kPack<float>> : clip_scale<1>;
    launch("clip", kernel, dim3(blocks_for(packs, kThreads)), dim3(kThreads), stream, to,
           norm.as<float>(), static_cast<float>(max_norm), n);
}

}  // namespace byhand
