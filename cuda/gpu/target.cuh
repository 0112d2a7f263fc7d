// core/cuda.cuh for the GPU: CUDA, and PTX for instructions without a CUDA function. All of them
// exist from sm_80 on.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdlib>

// Kernels are declared with __launch_bounds__(threads, 1): with the 1 ptxas uses as many registers
// as it needs; without it, it sometimes spills a few to make room for more resident blocks.
#define BYHAND_DEVICE __device__ __forceinline__

#define BYHAND_SHARED(type, name) __shared__::byhand::Itself<type> name
#define BYHAND_DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

namespace byhand {

template <class T>
using Itself = T;

// --- Numbers ---------------------------------------------------------------------------------

using bf16 = __nv_bfloat16;

BYHAND_DEVICE float float_of(unsigned bits) { return __uint_as_float(bits); }
BYHAND_DEVICE unsigned bits_of(float x) { return __float_as_uint(x); }
BYHAND_DEVICE float to_float(bf16 x) { return __bfloat162float(x); }
BYHAND_DEVICE bf16 to_bf16(float x) { return __float2bfloat16(x); }
BYHAND_DEVICE unsigned pack_bf16(float low, float high) {
    return static_cast<unsigned>(__bfloat16_as_ushort(__float2bfloat16(low))) |
           static_cast<unsigned>(__bfloat16_as_ushort(__float2bfloat16(high))) << 16;
}
BYHAND_DEVICE int count_bits(unsigned bits) { return __popc(bits); }
BYHAND_DEVICE float fast_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
BYHAND_DEVICE float fast_exp(float x) { return fast_exp2(x * 1.44269504f); }

BYHAND_DEVICE void forget(unsigned& bits) { asm volatile("" : "+r"(bits)); }

// --- Threads ---------------------------------------------------------------------------------

BYHAND_DEVICE void sync_block() { __syncthreads(); }
BYHAND_DEVICE void sync_warp(unsigned mask = kWholeWarp) { __syncwarp(mask); }

// Barriers 1 to 15, for a part of a block: `threads` threads, a multiple of 32, arrive.
BYHAND_DEVICE void sync_named(int id, int threads) {
    asm volatile("barrier.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
BYHAND_DEVICE void arrive_named(int id, int threads) {  // arrives without waiting
    asm volatile("barrier.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

template <class V>
BYHAND_DEVICE V shuffle(V value, int lane, unsigned mask = kWholeWarp) {
    return __shfl_sync(mask, value, lane);
}
template <class V>
BYHAND_DEVICE V shuffle_xor(V value, int lanes, unsigned mask = kWholeWarp) {
    return __shfl_xor_sync(mask, value, lanes);
}
template <class V>
BYHAND_DEVICE V shuffle_down(V value, int lanes, unsigned mask = kWholeWarp) {
    return __shfl_down_sync(mask, value, lanes);
}
BYHAND_DEVICE unsigned lanes_where(bool p, unsigned mask = kWholeWarp) {
    return __ballot_sync(mask, p);
}
BYHAND_DEVICE bool any_lane(bool p, unsigned mask = kWholeWarp) { return __any_sync(mask, p); }
BYHAND_DEVICE bool all_lanes(bool p, unsigned mask = kWholeWarp) { return __all_sync(mask, p); }
template <class V>
BYHAND_DEVICE unsigned match_any(V value, unsigned mask = kWholeWarp) {
    return __match_any_sync(mask, value);
}

template <class V>
BYHAND_DEVICE V atomic_add(V* p, V value) {
    return atomicAdd(p, value);
}
template <class V>
BYHAND_DEVICE V atomic_max(V* p, V value) {
    return atomicMax(p, value);
}
template <class V>
BYHAND_DEVICE V atomic_cas(V* p, V expected, V value) {
    return atomicCAS(p, expected, value);
}

// --- Memory ----------------------------------------------------------------------------------

BYHAND_DEVICE uint4 load16(const void* p) { return *static_cast<const uint4*>(p); }
BYHAND_DEVICE void store16(void* p, uint4 value) { *static_cast<uint4*>(p) = value; }
// As PTX, because the compiler may split an assignment into four stores.
BYHAND_DEVICE void store16_global(void* p, uint4 value) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(p)),
                 "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w)
                 : "memory");
}

BYHAND_DEVICE unsigned shared_address(const void* p) {
    return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

BYHAND_DEVICE void copy_async16(void* shared, const void* global, bool whole = true) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
                 "l"(__cvta_generic_to_global(global)), "r"(whole ? 16 : 0)
                 : "memory");
}
BYHAND_DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kOpen>
BYHAND_DEVICE void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kOpen) : "memory");
}

// --- Tensor cores ----------------------------------------------------------------------------

#define BYHAND_LDMATRIX_X4(name, form)                                                     \
    BYHAND_DEVICE void name(unsigned (&r)[4], const void* row) {                           \
        asm volatile("ldmatrix.sync.aligned.m8n8." form ".shared.b16 {%0,%1,%2,%3}, [%4];" \
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])                      \
                     : "r"(shared_address(row))                                            \
                     : "memory");                                                          \
    }
#define BYHAND_LDMATRIX_X2(name, form)                                               \
    BYHAND_DEVICE void name(unsigned (&r)[2], const void* row) {                     \
        asm volatile("ldmatrix.sync.aligned.m8n8." form ".shared.b16 {%0,%1}, [%2];" \
                     : "=r"(r[0]), "=r"(r[1])                                        \
                     : "r"(shared_address(row))                                      \
                     : "memory");                                                    \
    }
BYHAND_LDMATRIX_X4(ldmatrix_x4, "x4")
BYHAND_LDMATRIX_X4(ldmatrix_x4_trans, "x4.trans")
BYHAND_LDMATRIX_X2(ldmatrix_x2, "x2")
BYHAND_LDMATRIX_X2(ldmatrix_x2_trans, "x2.trans")
#undef BYHAND_LDMATRIX_X4
#undef BYHAND_LDMATRIX_X2

BYHAND_DEVICE unsigned to_tf32(float x) {
    unsigned y;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
    return y;
}

BYHAND_DEVICE void mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
BYHAND_DEVICE void mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// --- Launch ----------------------------------------------------------------------------------

inline void check(const char* what, cudaError_t error) {
    if (error == cudaSuccess) return;
    cudaGetLastError();  // also clears it, so that the next call does not report it again
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorName(error) + ": " +
                             cudaGetErrorString(error));
}

// BYHAND_SYNC=1 waits after each launch, so that an error is reported by the kernel that caused it.
inline bool sync_after_launch() {
    static const bool sync = [] {
        const char* value = std::getenv("BYHAND_SYNC");
        return value != nullptr && value[0] != '\0' && value[0] != '0';
    }();
    return sync;
}

// An attribute of the current device, or `otherwise` without a device: the launch then reports why.
inline int attribute(cudaDeviceAttr name, int otherwise) {
    int device = 0, value = 0;
    if (cudaGetDevice(&device) == cudaSuccess &&
        cudaDeviceGetAttribute(&value, name, device) == cudaSuccess) {
        return value;
    }
    cudaGetLastError();  // clears the error, so that the launch does not report it
    return otherwise;
}

inline int most_shared_bytes() {
    return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, 48 * 1024);
}

template <class... P>
void ask_for_shared(const char* name, void (*kernel)(P...), int bytes) {
    if (bytes <= 48 * 1024) return;  // no need to ask
    const auto answer =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (answer == cudaErrorInvalidValue && bytes > most_shared_bytes()) {
        throw std::runtime_error(std::string(name) + ": a block takes " + std::to_string(bytes) +
                                 " bytes of shared memory, and this GPU gives it at most " +
                                 std::to_string(most_shared_bytes()));
    }
    check(name, answer);
}

template <class... P>
int64_t resident_blocks(const char* name, void (*kernel)(P...), dim3 block, int bytes = 0) {
    const auto threads = static_cast<int>(block.x * block.y * block.z);
    int each = 0;
    ask_for_shared(name, kernel, bytes);
    check(name, cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kernel, threads,
                                                              static_cast<std::size_t>(bytes)));
    return int64_t{attribute(cudaDevAttrMultiProcessorCount, 1)} * std::max(each, 1);
}

template <class... P, class... A>
void launch_shared(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, int bytes,
                   Stream stream, A... arguments) {
    ask_for_shared(name, kernel, bytes);
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = static_cast<std::size_t>(bytes);
    config.stream = static_cast<cudaStream_t>(stream.handle);
    check(name, cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...));
    if (sync_after_launch()) check(name, cudaStreamSynchronize(config.stream));
}

}  // namespace byhand
