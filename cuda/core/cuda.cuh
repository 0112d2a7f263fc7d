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

// The shared memory that the launch gave to this block, aligned to 16 bytes.
BYHAND_DEVICE void* shared_memory() {
    extern __shared__ uint4 bytes[];
    return bytes;
}

// Starts a copy of 16 bytes from global to shared memory, both aligned, that passes through no
// register; the calling thread, and no other, finds them there after wait_for_copies.
BYHAND_DEVICE void start_copy(void* shared, const void* global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                     static_cast<unsigned>(__cvta_generic_to_shared(shared))),
                 "l"(global)
                 : "memory");
}
BYHAND_DEVICE void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

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

// Dynamic shared memory for each block of a launch.
struct SharedBytes {
    std::size_t count = 0;
};

// What a block may have of it; more than 48 KiB is for kernels that ask.
inline std::size_t most_shared_bytes() {
    int device = 0, bytes = 0;
    check("cudaGetDevice", cudaGetDevice(&device));
    check("cudaDeviceGetAttribute",
          cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    return static_cast<std::size_t>(bytes);
}

template <class... P>
void ask_for(const char* name, void (*kernel)(P...), SharedBytes shared) {
    if (shared.count <= 48 * 1024) return;
    check(name, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     static_cast<int>(shared.count)));
}

// How many blocks the device runs at the same time: the grid of a kernel whose blocks go from row
// to row and prepare the next one while they write.
template <class... P>
int64_t resident_blocks(const char* name, void (*kernel)(P...), dim3 block, SharedBytes shared) {
    int device = 0, processors = 0, each = 0;
    ask_for(name, kernel, shared);
    check(name, cudaGetDevice(&device));
    check(name, cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
    const auto threads = static_cast<int>(block.x * block.y * block.z);
    check(name,
          cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kernel, threads, shared.count));
    return std::max<int64_t>(1, static_cast<int64_t>(processors) * each);
}

template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, SharedBytes shared,
            Stream stream, A... arguments) {
    ask_for(name, kernel, shared);
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared.count;
    config.stream = static_cast<cudaStream_t>(stream.handle);
    check(name, cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...));
    if (sync_after_launch()) check(name, cudaStreamSynchronize(config.stream));
}

template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, Stream stream,
            A... arguments) {
    launch(name, kernel, grid, block, SharedBytes{}, stream, arguments...);
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
