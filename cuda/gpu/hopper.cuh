// core/hopper.cuh for the GPU: PTX of sm_90a. The one driver function that is needed is looked up
// at run time, so that the driver library is not linked.
#pragma once

#include <cuda.h>

#include <type_traits>

namespace byhand {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
constexpr bool kHopper = true;
#else
constexpr bool kHopper = false;
#endif

// BYHAND_SM90A is defined by cmake/cuda.cmake if sm_90a is one of the architectures.
inline bool on_hopper() {
#if defined(BYHAND_SM90A)
    return attribute(cudaDevAttrComputeCapabilityMajor, 0) == 9 &&
           attribute(cudaDevAttrComputeCapabilityMinor, -1) == 0;
#else
    return false;
#endif
}

// --- Registers -------------------------------------------------------------------------------

template <int kRegisters>
BYHAND_DEVICE void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
BYHAND_DEVICE void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// --- Phase barriers --------------------------------------------------------------------------

struct PhaseBarrier {
    unsigned long long word;
};

BYHAND_DEVICE void open_barrier(PhaseBarrier& b, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&b)), "r"(arrivals)
                 : "memory");
}
BYHAND_DEVICE void share_barriers() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
BYHAND_DEVICE void arrive(PhaseBarrier& b) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&b)) : "memory");
}
BYHAND_DEVICE void arrive_and_expect(PhaseBarrier& b, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&b)),
                 "r"(bytes)
                 : "memory");
}
BYHAND_DEVICE void wait_phase(PhaseBarrier& b, unsigned parity) {
    unsigned ended;
    do {
        asm volatile(
            "{\n"
            ".reg .pred ended;\n"
            "mbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2;\n"
            "selp.u32 %0, 1, 0, ended;\n"
            "}"
            : "=r"(ended)
            : "r"(shared_address(&b)), "r"(parity)
            : "memory");
    } while (ended == 0);
}

// --- Matrices --------------------------------------------------------------------------------

using TensorMap = CUtensorMap;

inline TensorMap map_matrix(const char* name, const bf16* data, int rows, int cols, int box_rows) {
    using Encode = decltype(&cuTensorMapEncodeTiled);
    static void* const encode = [&] {
        void* found = nullptr;
        cudaDriverEntryPointQueryResult answer = cudaDriverEntryPointSymbolNotFound;
        check(name, cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000,
                                                     cudaEnableDefault, &answer));
        if (answer != cudaDriverEntryPointSuccess || found == nullptr) {
            throw std::runtime_error(std::string(name) +
                                     ": the driver has no cuTensorMapEncodeTiled");
        }
        return found;
    }();
    TensorMap map;
    const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(cols), static_cast<cuuint64_t>(rows)};
    const cuuint64_t row_bytes[1] = {sizes[0] * sizeof(bf16)};
    const cuuint32_t box[2] = {kBoxCols, static_cast<cuuint32_t>(box_rows)}, steps[2] = {1, 1};
    const CUresult result = reinterpret_cast<Encode>(encode)(
        &map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<bf16*>(data), sizes, row_bytes, box,
        steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS) {
        throw std::runtime_error(std::string(name) + ": cuTensorMapEncodeTiled of a matrix of " +
                                 std::to_string(rows) + " by " + std::to_string(cols) +
                                 " fails with error " + std::to_string(result));
    }
    return map;
}

BYHAND_DEVICE void copy_box_async(void* shared, const TensorMap& map, int row, int col,
                                  PhaseBarrier& barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3}], [%4];" ::"r"(shared_address(shared)),
        "l"(&map), "r"(col), "r"(row), "r"(shared_address(&barrier))
        : "memory");
}

// --- Products --------------------------------------------------------------------------------

// "Matrix descriptor format" of wgmma in the PTX manual: addresses and distances in units of 16
// bytes, and 1 in the highest two bits for the 128-byte swizzle.
BYHAND_DEVICE unsigned long long operand(const void* shared, int leading, int stride) {
    const auto units = [](unsigned bytes) {
        return static_cast<unsigned long long>(bytes >> 4 & 0x3fff);
    };
    return units(shared_address(shared)) | units(static_cast<unsigned>(leading)) << 16 |
           units(static_cast<unsigned>(stride)) << 32 | 1ull << 62;
}

#define BYHAND_SUMS(i)                                                             \
    "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3]), "+f"(d[i + 1][0]), \
        "+f"(d[i + 1][1]), "+f"(d[i + 1][2]), "+f"(d[i + 1][3])

template <bool kLeftAcross, bool kRightAcross>
BYHAND_DEVICE void product_async(float (&d)[16][4], unsigned long long left,
                                 unsigned long long right) {
    asm volatile(
        "{\n"
        ".reg .pred add;\n"
        "setp.eq.u32 add, 0, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "%64, %65, add, 1, 1, %66, %67;\n"
        "}"
        : BYHAND_SUMS(0), BYHAND_SUMS(2), BYHAND_SUMS(4), BYHAND_SUMS(6), BYHAND_SUMS(8),
          BYHAND_SUMS(10), BYHAND_SUMS(12), BYHAND_SUMS(14)
        : "l"(left), "l"(right), "n"(kLeftAcross ? 1 : 0), "n"(kRightAcross ? 1 : 0));
}
#undef BYHAND_SUMS

// The compiler must not move accesses to the sums across the instructions below.
template <int kM>
BYHAND_DEVICE void hold(float (&d)[kM][16][4]) {
#pragma unroll
    for (int i = 0; i < kM * 64; ++i) {
        asm volatile("" : "+f"(d[i / 64][i / 4 % 16][i % 4])::"memory");
    }
}

template <int kM>
BYHAND_DEVICE void open_products(float (&d)[kM][16][4]) {
    hold(d);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
BYHAND_DEVICE void close_products() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kOpen>
BYHAND_DEVICE void wait_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kOpen) : "memory");
}
template <int kM>
BYHAND_DEVICE void wait_all_products(float (&d)[kM][16][4]) {
    wait_products<0>();
    hold(d);
}

}  // namespace byhand
