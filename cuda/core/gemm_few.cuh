// The product of at most 16 rows with the transpose of a matrix, as in decoding. It is limited by
// reading that matrix, which is read once.
#pragma once

#include "core/gemm_tiles.cuh"

namespace byhand {

// A block computes 16 columns. Its warps process alternating parts of the depth, 64 bytes of each
// row at a time; four lanes share a row and load 16 bytes each directly into the registers of the
// tensor core fragments. A fragment expects other elements of a row in each lane, but both factors
// are permuted in the same way, so only the order in which products are added changes.
struct GemmFew {
    static constexpr int kThreads = 256, kWarps = kThreads / kWarp, kRows = 16, kCols = 16;
    static constexpr int kStride = kCols + 4;
    static_assert(kThreads == kRows * kCols, "each thread writes one element");
};

// A lane's elements of rows row and row + 8; zeros outside of the factor.
template <class T>
struct RowWords {
    uint4 of[2];

    BYHAND_DEVICE void load(const Factor<T>& from, int row, int depth) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const bool here = row + 8 * i < from.rows && depth < from.cols;
            const int64_t at = int64_t{row + 8 * i} * from.cols + depth;
            of[i] = here ? load16(from.data + at) : uint4{0, 0, 0, 0};
        }
    }
};

template <class F>
BYHAND_DEVICE void multiply_words(Sums (&sums)[2], const RowWords<Stored<F>>& left,
                                  const RowWords<Stored<F>>& right) {
    const uint4 &a = left.of[0], &b = left.of[1], &c = right.of[0], &d = right.of[1];
    Left<F> l;
    Right<F> r;
    if constexpr (std::is_same_v<F, Rounded>) {
        l.set({round_pair(a.x, a.y), round_pair(b.x, b.y),  //
               round_pair(a.z, a.w), round_pair(b.z, b.w)});
        r.set({round_pair(c.x, c.y), round_pair(c.z, c.w),  //
               round_pair(d.x, d.y), round_pair(d.z, d.w)});
        multiply(sums[0], sums[1], l, r);
    } else {
        l.set({a.x, b.x, a.y, b.y});
        r.set({c.x, c.y, d.x, d.y});
        multiply(sums[0], sums[1], l, r);
        l.set({a.z, b.z, a.w, b.w});
        r.set({c.z, c.w, d.z, d.w});
        multiply(sums[0], sums[1], l, r);
    }
}

template <class F>
__global__ void __launch_bounds__(GemmFew::kThreads, 1)
    gemm_few(const __grid_constant__ Product<F> p) {
    using G = GemmFew;
    using T = Stored<F>;
    BYHAND_SHARED(float[G::kWarps][G::kRows][G::kStride], shares);
    constexpr int kStep = 4 * kPack<T>;  // elements of depth per step of a warp
    const int lane = lane_id(), warp = warp_id(), col0 = static_cast<int>(blockIdx.x) * G::kCols;
    Sums sums[2] = {};
#pragma unroll 4
    for (int depth = warp * kStep; depth < p.K; depth += G::kWarps * kStep) {
        RowWords<T> left, right;
        left.load(p.left, lane / 4, depth + lane % 4 * kPack<T>);
        right.load(p.right, col0 + lane / 4, depth + lane % 4 * kPack<T>);
        multiply_words<F>(sums, left, right);
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            shares[warp][i / 2 * 8 + lane / 4][8 * n + lane % 4 * 2 + i % 2] = sums[n][i];
        }
    }
    sync_block();
    const int thread = static_cast<int>(threadIdx.x);
    const int row = thread / G::kCols, col = thread % G::kCols;
    if (row >= p.M || col0 + col >= p.N) return;
    float v[1] = {};
#pragma unroll
    for (int w = 0; w < G::kWarps; ++w) v[0] += shares[w][row][col];
    finish<false, false>(p, row, col0 + col, v);
}

}  // namespace byhand
