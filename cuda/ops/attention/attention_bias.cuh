// What the backward kernels of attention share, and the gradient of the bias: a block has a tile of
// it and adds ds up over the heads and batch entries that share it, one after the other.
#pragma once

#include "ops/attention/attention.cuh"

namespace byhand {
namespace {

template <class T>
struct Gradients {
    Heads<T> dq, dk, dv;
    Rows<const T> dout;  // the heads of a batch entry one after the other
    const float *lse, *delta;
    bool packed;
};

// delta = rowsum(do * o), and the log-sum-exp to base 2, of one query. For a query that sees no key
// or does not exist, the probability of every key is 2^(s - inf) = 0.
struct RowStatistics {
    float lse, delta;

    template <class T>
    BYHAND_DEVICE static RowStatistics of(const Gradients<T>& g, int64_t row, bool here) {
        if (!here || g.lse[row] == -infinity()) return {infinity(), 0.0f};
        return {g.lse[row] * kLog2e, g.delta[row]};
    }
};

// A warp has 16 queries, the block 32 keys.
template <class T, int kCols>
struct BiasTile {
    using Tile = SharedTile<T, kCols>;
    static constexpr int kRows = 16 * kWarps, kColumns = 32;
    static constexpr int kShared =
        Tile::size(2 * kRows + 2 * kColumns) * static_cast<int>(sizeof(T));
};

template <class T, int kCols>
__global__ void __launch_bounds__(kThreads, 1)
    attention_bias_tiles(const __grid_constant__ Attention<T> a,
                         const __grid_constant__ Gradients<T> g, T* dbias, int batches, int heads) {
    using F = BiasTile<T, kCols>;
    constexpr int kN = F::kColumns / 8;
    BYHAND_DYNAMIC_SHARED(bytes);
    const typename F::Tile q{reinterpret_cast<T*>(bytes)};
    const auto dout = q.from(F::kRows), k = dout.from(F::kRows), v = k.from(F::kColumns);
    const int rows = (a.queries + F::kRows - 1) / F::kRows;
    const int columns = (a.keys + F::kColumns - 1) / F::kColumns;
    const int block = static_cast<int>(blockIdx.x), own = block / (rows * columns);
    const int i0 = block / columns % rows * F::kRows, j0 = block % columns * F::kColumns;
    const int row0 = i0 + 16 * warp_id();  // of the warp
    const int own_b = own / heads, own_h = own % heads;
    const auto mine = q.from(16 * warp_id()), mine2 = dout.from(16 * warp_id());

    Sums sums[1][kN] = {};
    const int many_b = batches == 1 ? a.B : 1, many_h = heads == 1 ? a.H : 1;
    for (int n = 0; n < many_b * many_h; ++n) {
        const int b = batches == 1 ? n / many_h : own_b, h = heads == 1 ? n % many_h : own_h;
        const Sight<T, true> sight(a, b, h);
        const Span span = sight.keys_of(i0, min(i0 + F::kRows, a.queries));
        if (span.end <= j0 || span.first >= j0 + F::kColumns) continue;
        const int group = h / a.group;
        const Rows<const T> upstream{g.dout.row(int64_t{b} * a.queries) + h * a.D, g.dout.stride};
        sync_block();  // the previous tiles are no longer read
        fetch<F::kRows, kThreads>(q, a.q.of(b, h), i0, a.queries, a.D, a.packed);
        fetch<F::kRows, kThreads>(dout, upstream, i0, a.queries, a.D, a.packed);
        fetch<F::kColumns, kThreads>(k, a.k.of(b, group), j0, sight.keys, a.D, a.packed);
        fetch<F::kColumns, kThreads>(v, a.v.of(b, group), j0, sight.keys, a.D, a.packed);
        copy_async_commit();
        copy_async_wait<0>();
        sync_block();
        unsigned seen[1];
        if (!look<true, kN>(seen, sight, row0, j0)) continue;

        RowStatistics row[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int i = row0 + 8 * half + lane_id() / 4;
            row[half] = RowStatistics::of(g, (int64_t{b} * a.H + h) * a.queries + i, i < a.queries);
        }
        Sums p[1][kN], dp[1][kN];
        product_transposed(p, k, [&](int, int depth) { return left_of(mine, 0, depth); });
        adjust<true>(p, a, b, h, row0, j0);
        hide(p, seen);
        product_transposed(dp, v, [&](int, int depth) { return left_of(mine2, 0, depth); });
        for_sums(p, [&](int m, int n, int i) {
            p[m][n][i] = exp2_for<T>(fmaf(p[m][n][i], a.exponent, -row[i / 2].lse));
        });
        const auto add = [&](int m, int n, int i, float z) {
            sums[m][n][i] = fmaf(p[m][n][i], z * dp[m][n][i] - row[i / 2].delta, sums[m][n][i]);
        };
        if (a.rule.threshold == 0) {
            for_sums(p, [&](int m, int n, int i) { add(m, n, i, 1.0f); });
        } else {
            for_drawn<true, 1, kN>(
                a, int64_t{b} * a.H + h, row0, j0,
                [&](int m, int n, int i, bool kept) { add(m, n, i, kept ? a.rule.scale : 0.0f); });
        }
    }
    for_scores<true, 1, kN>(row0, j0, [&](int m, int n, int i, int query, int key) {
        if (query >= a.queries || key >= a.keys) return;
        dbias[(int64_t{own} * a.queries + query) * a.keys + key] = from_float<T>(sums[m][n][i]);
    });
}

template <class T>
void bias_gradient(const Attention<T>& a, const Gradients<T>& g, T* dbias, const int64_t* shape,
                   Stream stream) {
    const auto batches = static_cast<int>(shape[0]), heads = static_cast<int>(shape[1]);
    for_depth<T>(a.D, [&](auto cols) {
        using F = BiasTile<T, cols()>;
        const int64_t tiles = int64_t{(a.queries + F::kRows - 1) / F::kRows} *
                              ((a.keys + F::kColumns - 1) / F::kColumns);
        const int64_t blocks = tiles * batches * heads;
        if (blocks == 0) return;
        launch_shared("attention_backward", attention_bias_tiles<T, cols()>,
                      dim3(blocks_for(blocks, 1)), dim3(kThreads), F::kShared, stream, a, g, dbias,
                      batches, heads);
    });
}

}  // namespace
}  // namespace byhand
