// The primitives of core/hopper.cuh, which test_hopper.py compares with numpy. The functions have
// the form of those in primitives.cu.
#include "core/hopper.cuh"

using namespace byhand;

namespace {

BYHAND_DEVICE int rank_of() { return static_cast<int>(threadIdx.x); }

// y (box_rows,64): the box of the matrix that begins at (row, col).
BYHAND_DEVICE void run_box(bf16* y, const TensorMap& map, int box_rows, int row, int col) {
    BYHAND_DYNAMIC_SHARED(bytes);
    BYHAND_SHARED(PhaseBarrier, here);
    unsigned char* const box = align_box(bytes);
    if (rank_of() == 0) {
        open_barrier(here, 1);
        share_barriers();
        arrive_and_expect(here, box_rows * kBoxCols * 2);
        copy_box_async(box, map, row, col, here);
    }
    sync_block();
    wait_phase(here, 0);
    for (int i = rank_of(); i < box_rows * kBoxCols; i += kWarpgroup) {
        const int r = i / kBoxCols, c = i % kBoxCols;
        y[i] = reinterpret_cast<const bf16*>(box)[r * kBoxCols + ((c / 8) ^ (r % 8)) * 8 + c % 8];
    }
}

__global__ void __launch_bounds__(kWarpgroup, 1)
    box_kernel(bf16* y, const __grid_constant__ TensorMap map, int box_rows, int row, int col) {
    if constexpr (kHopper) run_box(y, map, box_rows, row, col);
}

// d (64,128) += left (64,K) right (K,128), each stored along the depth of the product or across
// it. All steps use one stage, so that phases of both parities occur.
template <bool kLeftAcross, bool kRightAcross>
BYHAND_DEVICE void run_product(float* d, const TensorMap& left, const TensorMap& right, int k) {
    constexpr int kDeep = 64, kBox = 64 * kBoxCols * 2;
    BYHAND_DYNAMIC_SHARED(bytes);
    BYHAND_SHARED(PhaseBarrier, full);
    BYHAND_SHARED(PhaseBarrier, empty);
    unsigned char* const a = align_box(bytes);
    unsigned char* const b = a + kBox;
    if (rank_of() == 0) {
        open_barrier(full, 1);
        open_barrier(empty, kWarpgroup);
        share_barriers();
    }
    sync_block();
    float sums[1][16][4];
    const int lane = rank_of() % kWarp, row = rank_of() / kWarp * 16 + lane / 4;
    const auto at = [&](int n, int i) {
        return (row + i / 2 * 8) * 128 + n * 8 + lane % 4 * 2 + i % 2;
    };
    for (int n = 0; n < 16; ++n) {
        for (int i = 0; i < 4; ++i) sums[0][n][i] = d[at(n, i)];
    }
    for (int start = 0; start < k; start += kDeep) {
        const unsigned parity = static_cast<unsigned>(start / kDeep) % 2;
        if (rank_of() == 0) {
            wait_phase(empty, parity ^ 1);
            arrive_and_expect(full, 3 * kBox);
            copy_box_async(a, left, kLeftAcross ? start : 0, kLeftAcross ? 0 : start, full);
            if (kRightAcross) {
                copy_box_async(b, right, start, 0, full);
                copy_box_async(b + kBox, right, start, kBoxCols, full);
            } else {
                copy_box_async(b, right, 0, start, full);
            }
        }
        wait_phase(full, parity);
        open_products(sums);
#pragma unroll
        for (int depth = 0; depth < kDeep; depth += 16) {
            product_async<kLeftAcross, kRightAcross>(
                sums[0], operand(a + depth * (kLeftAcross ? 128 : 2), kBox, 1024),
                operand(b + depth * (kRightAcross ? 128 : 2), kBox, 1024));
        }
        close_products();
        wait_all_products(sums);
        arrive(empty);
    }
    for (int n = 0; n < 16; ++n) {
        for (int i = 0; i < 4; ++i) d[at(n, i)] = sums[0][n][i];
    }
}

template <bool kLeftAcross, bool kRightAcross>
__global__ void __launch_bounds__(kWarpgroup, 1)
    product_kernel(float* d, const __grid_constant__ TensorMap left,
                   const __grid_constant__ TensorMap right, int k) {
    if constexpr (kHopper) run_product<kLeftAcross, kRightAcross>(d, left, right, k);
}

template <class... P, class... A>
const char* go(const char* name, void (*kernel)(P...), int bytes, A... arguments) {
    static thread_local std::string error;
    try {
        launch_shared(name, kernel, dim3(1), dim3(kWarpgroup), bytes, Stream{}, arguments...);
        return nullptr;
    } catch (const std::exception& e) {
        error = e.what();
        return error.c_str();
    }
}

template <bool kLeftAcross, bool kRightAcross>
const char* product(float* d, const bf16* left, const bf16* right, int k) {
    const auto map = [&](const bf16* data, bool across, int long_side) {
        return across ? map_matrix("product", data, k, long_side, 64)
                      : map_matrix("product", data, long_side, k, long_side);
    };
    return go("product", product_kernel<kLeftAcross, kRightAcross>, kBoxAlignment + 3 * 64 * 128, d,
              map(left, kLeftAcross, 64), map(right, kRightAcross, 128), k);
}

}  // namespace

extern "C" {

#define EXPORT __attribute__((visibility("default")))

EXPORT const char* run_box(bf16* y, const bf16* x, int rows, int cols, int box_rows, int row,
                           int col) {
    return go("box", box_kernel, kBoxAlignment + box_rows * 128, y,
              map_matrix("box", x, rows, cols, box_rows), box_rows, row, col);
}
EXPORT const char* run_product(float* d, const bf16* left, const bf16* right, int left_across,
                               int right_across, int k) {
    if (left_across != 0) {
        return right_across != 0 ? product<true, true>(d, left, right, k)
                                 : product<true, false>(d, left, right, k);
    }
    return right_across != 0 ? product<false, true>(d, left, right, k)
                             : product<false, false>(d, left, right, k);
}

}  // extern "C"
