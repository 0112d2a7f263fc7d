// The CUDA primitives that kernels are written with. There are two implementations:
//
//   cuda/gpu/target.cuh        for the GPU: CUDA and PTX
//   cuda/emulator/target.cuh   for the CPU, by any C++17 compiler: a fiber for each thread of a
//                              block, so that every kernel is run and tested without a GPU
//
// core/hopper.cuh adds the primitives of compute capability 9.0, implemented in the same folders.
//
// The .cu files and the headers beside this one use no other part of CUDA and have no #ifdef. Of
// the language itself they use __global__, __device__ (also for static device memory),
// __launch_bounds__, __grid_constant__, threadIdx, blockIdx, blockDim, gridDim, dim3 and uint4.
//
//   shared memory   BYHAND_SHARED(float[2][32], name) in place of __shared__ float name[2][32]
//                   BYHAND_DYNAMIC_SHARED(name): unsigned char*, aligned to 128 bytes; its size is
//                   given to launch_shared
//   threads         sync_block() sync_warp() sync_named(id, threads) arrive_named(id, threads)
//                   shuffle(v, lane) shuffle_xor(v, lanes) shuffle_down(v, lanes)
//                   lanes_where(p) any_lane(p) all_lanes(p) match_any(v); a mask is the last
//                   argument
//   atomics         atomic_add(p, v) atomic_max(p, v) atomic_cas(p, expected, v): the old value
//   16 bytes        load16(p) store16(p, v) store16_global(p, v), p aligned to 16
//                   copy_async16(shared, global, whole = true): zeros, and no read, if not whole
//                   copy_async_commit() copy_async_wait<newest groups that may be open>()
//   tensor cores    ldmatrix_x4(r, row) ldmatrix_x2(r, row), and _trans
//                   mma_bf16(d, a, b): m16n8k16    mma_tf32(d, a, b): m16n8k8, from to_tf32(v)
//   numbers         bf16 to_float(v) to_bf16(v) pack_bf16(low, high) float_of(bits) bits_of(v)
//                   count_bits(v)
//                   fast_exp2(v) fast_exp(v): 2 ulp, denormal numbers are flushed to 0
//   launch          launch(name, kernel, grid, block, stream, arguments...)
//                   launch_shared(name, kernel, grid, block, bytes, stream, arguments...)
//                   most_shared_bytes(): the most shared memory that a block may have
//                   resident_blocks(name, kernel, block, bytes = 0): how many blocks the device
//                   runs at the same time, the grid of kernels with grid-stride loops
//   the compiler    forget(bits): the compiler must assume that the value has changed, and so
//                   recomputes what it would otherwise keep in registers
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "core/array.h"

namespace byhand {

using std::int64_t;

constexpr int kWarp = 32;
constexpr unsigned kWholeWarp = 0xffffffffu;
constexpr int64_t kMaxGrid = 2147483647;  // limit of grid.x

// The limit of sizes that kernels keep as ints: the sum of two is an int too.
constexpr int64_t kMostAsInt = int64_t{1} << 30;

// n, the number of `what`, as an int. std::invalid_argument if it is too large.
inline int checked(const char* name, const char* what, int64_t n) {
    if (n <= kMostAsInt) return static_cast<int>(n);
    throw std::invalid_argument(std::string(name) + ": the CUDA kernels take at most 2^30 " + what +
                                ", got " + std::to_string(n));
}

}  // namespace byhand

#if defined(__CUDACC__)
#include "gpu/target.cuh"
#else
#include "emulator/target.cuh"
#endif

namespace byhand {

template <>
struct DTypeOf<bf16> {
    static constexpr DType value = DType::bf16;
};

BYHAND_DEVICE float infinity() { return float_of(0x7f800000u); }
BYHAND_DEVICE float not_a_number() { return float_of(0x7fffffffu); }

BYHAND_DEVICE float to_float(float x) { return x; }
template <class T>
BYHAND_DEVICE T from_float(float x) {
    if constexpr (std::is_same_v<T, bf16>) {
        return to_bf16(x);
    } else {
        return x;
    }
}

// exp for results stored as T. The hardware's 2^x is accurate enough for bfloat16; float32 uses the
// accurate function (2 ulp). Both give exp(-inf) = 0 and propagate NaN.
template <class T>
BYHAND_DEVICE float exp_for(float x) {
    if constexpr (std::is_same_v<T, bf16>) {
        return fast_exp(x);
    } else {
        return expf(x);
    }
}

// The number of blocks for n items, `each` per block.
inline unsigned blocks_for(int64_t n, int64_t each) {
    return static_cast<unsigned>(std::min((n + each - 1) / each, kMaxGrid));
}

template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, Stream stream,
            A... arguments) {
    launch_shared(name, kernel, grid, block, 0, stream, arguments...);
}

// Calls f with a zero of the storage type of `a`.
template <class F>
void for_storage(const Array& a, F&& f) {
    switch (a.dtype) {
        case DType::f32:
            return f(float{});
        case DType::bf16:
            return f(bf16{});
        default:
            throw TypeError(std::string(a.name) + " must be float32 or bfloat16, got " +
                            to_string(a.dtype));
    }
}

}  // namespace byhand
