// What the kernels need of CUDA, under our own names: storage types, warp and block primitives,
// fast exponentials, and the launch. The .cu files beside this folder use nothing else of it, so
// that a host compiler can be given another version of this one file.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "core/array.h"

namespace byhand {

using std::int64_t;
using bf16 = __nv_bfloat16;

template <>
struct DTypeOf<bf16> {
    static constexpr DType value = DType::bf16;
};

constexpr int kWarp = 32;
constexpr unsigned kWholeWarp = 0xffffffffu;
constexpr int64_t kMaxGrid = 2147483647;  // grid.x

// Kernels say __launch_bounds__(threads, 1): with the 1 ptxas takes the registers it needs, without
// it a few are spilled now and then for the sake of more resident blocks.
#define BYHAND_DEVICE __device__ __forceinline__

BYHAND_DEVICE float infinity() { return __int_as_float(0x7f800000); }
BYHAND_DEVICE float not_a_number() { return __int_as_float(0x7fffffff); }

BYHAND_DEVICE float to_float(float x) { return x; }
BYHAND_DEVICE float to_float(bf16 x) { return __bfloat162float(x); }
template <class T>
BYHAND_DEVICE T from_float(float x) {
    if constexpr (std::is_same_v<T, bf16>) {
        return __float2bfloat16(x);
    } else {
        return x;
    }
}

BYHAND_DEVICE unsigned pack_bf16(float low, float high) {
    return static_cast<unsigned>(__bfloat16_as_ushort(__float2bfloat16(low))) |
           static_cast<unsigned>(__bfloat16_as_ushort(__float2bfloat16(high))) << 16;
}

// exp for results stored as T: the hardware's 2^x is as good as a bfloat16 can show, float32 gets
// the accurate function (2 ulp). Both give exp(-inf) = 0 and pass NaN on.
template <class T>
BYHAND_DEVICE float exp_for(float x) {
    if constexpr (std::is_same_v<T, bf16>) {
        return __expf(x);
    } else {
        return expf(x);
    }
}

template <class V>
BYHAND_DEVICE V shuffle_xor(V value, int lanes) {
    return __shfl_xor_sync(kWholeWarp, value, lanes);
}
BYHAND_DEVICE void sync_block() { __syncthreads(); }

inline void check(const char* what, cudaError_t error) {
    if (error == cudaSuccess) return;
    cudaGetLastError();  // also clears it, so that the next call does not report it again
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorName(error) + ": " +
                             cudaGetErrorString(error));
}

// BYHAND_SYNC=1 waits after each kernel, so that a fault is reported by the kernel that made it.
inline bool sync_after_launch() {
    static const bool sync = [] {
        const char* value = std::getenv("BYHAND_SYNC");
        return value != nullptr && value[0] != '\0' && value[0] != '0';
    }();
    return sync;
}

// The number of blocks for n items, `each` to a block.
inline unsigned blocks_for(int64_t n, int64_t each) {
    return static_cast<unsigned>(std::min((n + each - 1) / each, kMaxGrid));
}

// How many blocks of a kernel the device runs at once: the grid of one whose threads walk on until
// all is done.
template <class... P>
int64_t resident_blocks(const char* name, void (*kernel)(P...), dim3 block) {
    int device = 0, processors = 0, each = 0;
    check(name, cudaGetDevice(&device));
    check(name, cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
    check(name, cudaOccupancyMaxActiveBlocksPerMultiprocessor(
                    &each, kernel, static_cast<int>(block.x * block.y * block.z), 0));
    return std::max<int64_t>(1, static_cast<int64_t>(processors) * each);
}

template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, Stream stream,
            A... arguments) {
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.stream = static_cast<cudaStream_t>(stream.handle);
    check(name, cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...));
    if (sync_after_launch()) check(name, cudaStreamSynchronize(config.stream));
}

// Calls f with a zero of the storage type that `a` has.
template <class F>
void for_storage(const char* name, const Array& a, F&& f) {
    switch (a.dtype) {
        case DType::f32:
            return f(float{});
        case DType::bf16:
            return f(bf16{});
        default:
            throw TypeError(std::string(name) + ": " + a.name +
                            " must be float32 or bfloat16, got " + to_string(a.dtype));
    }
}

}  // namespace byhand
