// How kernels of single elements divide an array: a thread loads all its packs of V elements before
// it uses the first; neighbouring threads have neighbouring packs.
#pragma once

#include "core/pack.cuh"

namespace byhand {

constexpr int kThreads = 256;
constexpr int kElements = 8;  // of a thread at a time
constexpr int64_t kBlock = int64_t{kThreads} * kElements;

// The first element of pack u of this thread.
template <int V>
BYHAND_DEVICE int64_t pack_at(int64_t start, int u) {
    return start + static_cast<int64_t>(u * kThreads + static_cast<int>(threadIdx.x)) * V;
}

// x = f(x), or x = f(x, t), for all elements of a thread. The function is the same for all, so it
// is chosen once.
template <int U, int V, class F>
BYHAND_DEVICE void each(float (&x)[U][V], F&& f) {
#pragma unroll
    for (int u = 0; u < U; ++u) {
#pragma unroll
        for (int j = 0; j < V; ++j) x[u][j] = f(x[u][j]);
    }
}
template <int U, int V, class F>
BYHAND_DEVICE void each(float (&x)[U][V], const float (&t)[U][V], F&& f) {
#pragma unroll
    for (int u = 0; u < U; ++u) {
#pragma unroll
        for (int j = 0; j < V; ++j) x[u][j] = f(x[u][j], t[u][j]);
    }
}

}  // namespace byhand
