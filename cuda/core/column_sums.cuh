// Column sums of matrices: the gradients of biases.
#pragma once

#include "core/pack.cuh"
#include "core/team.cuh"

namespace byhand {
namespace {

// A block sums a strip of columns, 64 bytes wide. Neighbouring rows belong to different threads of
// a warp; each thread sums its rows in order, then the threads' sums are added in a fixed order.
template <class T, int V>
struct Strip {
    static constexpr int kCols = 64 / static_cast<int>(sizeof(T)), kLanes = kCols / V;
    static constexpr int kThreads = 512, kWarps = kThreads / kWarp, kRows = kThreads / kLanes;
};

// sums[c] += the terms of column c over all rows; terms.load(v, r, c) gives the V terms of row r
// from column c on.
template <class T, int V, class Terms>
__global__ void __launch_bounds__(512, 1)
    column_sums(float* sums, const Terms terms, int64_t rows, int64_t cols) {
    using S = Strip<T, V>;
    BYHAND_SHARED(float[S::kWarps][S::kCols], shares);
    const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp;
    const int place = thread % S::kLanes * V;
    const int64_t first = static_cast<int64_t>(blockIdx.x) * S::kCols, col = first + place;
    float sum[V] = {};
    if (col < cols) {
#pragma unroll 4
        for (int64_t row = thread / S::kLanes; row < rows; row += S::kRows) {
            float v[V];
            terms.load(v, row, col);
#pragma unroll
            for (int j = 0; j < V; ++j) sum[j] += v[j];
        }
    }
#pragma unroll
    for (int j = 0; j < V; ++j) {
#pragma unroll
        for (int lanes = S::kLanes; lanes < kWarp; lanes *= 2) {
            sum[j] += shuffle_xor(sum[j], lanes);
        }
        if (lane < S::kLanes) shares[thread / kWarp][place + j] = sum[j];
    }
    sync_block();
    if (thread < S::kCols && first + thread < cols) {
        float total = 0.0f;
#pragma unroll
        for (int w = 0; w < S::kWarps; ++w) total += shares[w][thread];
        sums[first + thread] += total;
    }
}

// packed: the rows that the terms are computed from can be read 16 bytes at a time.
template <class T, class Terms>
void add_column_sums(const char* name, float* sums, const Terms& terms, bool packed, int64_t rows,
                     int64_t cols, Stream stream) {
    if (rows == 0 || cols == 0) return;
    const auto run = [&](auto width) {
        constexpr int V = decltype(width)::value;
        using S = Strip<T, V>;
        launch(name, column_sums<T, V, Terms>, dim3(blocks_for(cols, S::kCols)), dim3(S::kThreads),
               stream, sums, terms, rows, cols);
    };
    if (packed) {
        run(std::integral_constant<int, kPack<T>>{});
    } else {
        run(std::integral_constant<int, 1>{});
    }
}

}  // namespace
}  // namespace byhand
