// Kernels that the checks of machine code must refuse, each with one mistake; see test_gates.py.
#include "core/pack.cuh"

using namespace byhand;

// Adds floats in an order that depends on timing.
__global__ void __launch_bounds__(256, 1) atomic_sum(float* sum, const float* x) {
    atomicAdd(sum, x[blockIdx.x * 256 + threadIdx.x]);
}

// An array indexed at run time cannot stay in registers.
__global__ void __launch_bounds__(256, 1) local_array(float* y, const int* at) {
    float values[32];
    for (int i = 0; i < 32; ++i) values[i] = y[i];
    for (int i = 0; i < 32; ++i) values[at[i] & 31] += 1.0f;
    y[threadIdx.x] = values[at[threadIdx.x] & 31];
}

// Does not use 16-byte accesses for one of its two inputs.
template <int V>
__global__ void __launch_bounds__(256, 1) narrow_load(float* y, const float* a, const float* b) {
    float u[V], v[V];
    const int i = static_cast<int>(threadIdx.x) * V;
    load(u, a + i);
    for (int j = 0; j < V; ++j) v[j] = b[2 * (i + j)];
    for (int j = 0; j < V; ++j) u[j] += v[j];
    store(y + i, u);
}
template __global__ void narrow_load<4>(float*, const float*, const float*);

// Uses 16-byte accesses for rows that may be unaligned.
template <int V>
__global__ void __launch_bounds__(256, 1) wide_load(float* y, const float* x) {
    const float4 word = reinterpret_cast<const float4*>(x)[threadIdx.x];
    y[threadIdx.x] = word.x + word.y + word.z + word.w;
}
template __global__ void wide_load<1>(float*, const float*);
