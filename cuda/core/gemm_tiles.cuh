// The tiled kernel of gemm.cuh.
#pragma once

#include "core/factors.cuh"
#include "core/gelu.cuh"
#include "core/gemm.cuh"

namespace byhand {

// A factor as a kernel argument. packed: its rows can be read 16 bytes at a time.
template <class T>
struct Factor {
    const T* data;
    int rows, cols;
    bool packed;
};

template <class F>
struct Product {
    using T = Stored<F>;
    Factor<T> left, right;
    int M, N, K;
    Epilogue<T> epilogue;
    bool packed;      // the same of the arrays of the epilogue
    bool transposed;  // c is (N,M)
    // If the depth is cut into pieces: the steps of one piece, and memory for the sums of all, an
    // (M,N) matrix each, which gemm_add_pieces adds.
    int steps = 0;
    float* pieces = nullptr;
};

// Shared memory in which a warp reorders 16 rows of sums; eight rows begin in different banks.
constexpr int kSheetCols = 64;
using Sheet = SharedTile<float, kSheetCols, 8>;
constexpr int kSheet = Sheet::size(16);

// Eight warps compute a tile of 128 x 128, 32 x 64 each; a step is 64 bytes of depth.
template <class F, bool kLeftAcross, bool kRightAcross>
struct GemmTile {
    using T = Stored<F>;
    static constexpr int kThreads = 256, kStages = 4;
    // A multiprocessor has registers for two blocks of bfloat16: one computes while the other
    // waits.
    static constexpr int kBlocks = std::is_same_v<F, bf16> ? 2 : 1;
    static constexpr int kRows = 128, kCols = 128, kDeep = 64 / static_cast<int>(sizeof(T));
    static constexpr int kM = 2, kN = 8, kWarpRows = 16 * kM, kWarpCols = 8 * kN;
    static_assert(kRows / kWarpRows * (kCols / kWarpCols) * kWarp == kThreads);

    using Left = Panel<T, kLeftAcross, kRows, kDeep>;
    using Right = Panel<T, kRightAcross, kCols, kDeep>;
    static constexpr int kLeftRows = kLeftAcross ? kDeep : kRows;
    static constexpr int kRightRows = kRightAcross ? kDeep : kCols;
    static constexpr int kLeft = Left::size(kLeftRows), kStage = kLeft + Right::size(kRightRows);
    static constexpr int kShared = kStages * kStage * static_cast<int>(sizeof(T));

    static_assert(kThreads / kWarp * kSheet * sizeof(float) <= kShared && kWarpCols == kSheetCols);
};

// A panel of kRows rows whose first element is (row0, col0) of the factor, zeros outside of it.
template <int kRows, int kThreads, class T, int kCols, int kGap>
BYHAND_DEVICE void fetch_panel(SharedTile<T, kCols, kGap> to, const Factor<T>& from, int row0,
                               int col0) {
    const int thread = static_cast<int>(threadIdx.x);
    if (from.packed) {
        constexpr int kPacks = kCols / kPack<T>, kStep = kThreads / kPacks;
        static_assert(kThreads % kPacks == 0 && kRows % kStep == 0);
        const int col = thread % kPacks * kPack<T>;
#pragma unroll
        for (int first = 0; first < kRows; first += kStep) {
            const int row = first + thread / kPacks;
            const bool whole = row0 + row < from.rows && col0 + col < from.cols;
            const int64_t at = whole ? int64_t{row0 + row} * from.cols + col0 + col : 0;
            copy_async16(to.at(row, col), from.data + at, whole);
        }
    } else {
        static_assert(kRows * kCols % kThreads == 0);
#pragma unroll 4
        for (int first = 0; first < kRows * kCols; first += kThreads) {
            const int i = first + thread, row = i / kCols, col = i % kCols;
            const bool here = row0 + row < from.rows && col0 + col < from.cols;
            const int64_t at = int64_t{row0 + row} * from.cols + col0 + col;
            *to.at(row, col) = here ? from.data[at] : from_float<T>(0.0f);
        }
    }
}

template <class T>
BYHAND_DEVICE Activated function_of(const Epilogue<T>& e, float x) {
    using Function = typename Epilogue<T>::Function;
    return e.function == Function::silu ? silu<T>(x)
                                        : gelu<T>(x, e.function == Function::gelu_tanh);
}

// Stores the activation of V elements v of c.
template <class T, int V>
BYHAND_DEVICE void activate(const Epilogue<T>& e, int64_t at, float (&v)[V]) {
    const bool gated = e.activation == Epilogue<T>::Activation::gated;
    float gate[V];
    if (gated) load(gate, e.saved + at);
#pragma unroll
    for (int j = 0; j < V; ++j) {
        const float stored = to_float(from_float<T>(v[j]));
        v[j] = function_of(e, gated ? gate[j] : stored).value;
        if (gated) v[j] *= stored;
    }
    store(e.activated + at, v);
}

// Takes V elements v of the product through the activation, whose other results it stores.
template <class T, int V>
BYHAND_DEVICE void activate_backward(const Epilogue<T>& e, int64_t at, float (&v)[V]) {
    const bool gated = e.activation == Epilogue<T>::Activation::gated_backward;
    float value[V], up[V], dup[V];
    load(value, e.saved + at);
    if (gated) load(up, e.up + at);
#pragma unroll
    for (int j = 0; j < V; ++j) {
        const Activated f = function_of(e, value[j]);
        value[j] = f.value;
        if (gated) {
            dup[j] = v[j] * f.value;
            value[j] *= up[j];
            v[j] *= up[j];
        }
        v[j] *= f.slope;
    }
    store(e.activated + at, value);
    if (gated) store(e.dup + at, dup);
}

// Applies the epilogue to V consecutive elements of a row of the product and stores them.
template <bool kLeftAcross, bool kRightAcross, class F, int V>
BYHAND_DEVICE void finish(const Product<F>& p, int row, int col, float (&v)[V]) {
    using T = Stored<F>;
    using Form = typename Epilogue<T>::Activation;
    const Epilogue<T>& e = p.epilogue;
    const int64_t at = p.transposed ? int64_t{col} * p.M + row : int64_t{row} * p.N + col;
    if (p.pieces != nullptr) {
        store_floats(p.pieces + int64_t{blockIdx.y} * p.M * p.N + at, v);
        return;
    }
    const auto add = [&](const T* more) {
        float other[V];
        load(other, more);
#pragma unroll
        for (int j = 0; j < V; ++j) v[j] += other[j];
    };
    if constexpr (!kLeftAcross && kRightAcross) {
        if (e.activation == Form::backward || e.activation == Form::gated_backward) {
            activate_backward(e, at, v);
        }
    }
    if (e.bias != nullptr) add(e.bias + col);
    if (e.add != nullptr) add(e.add + at);
    if (e.into != nullptr) {
        add_from(v, e.into + at);
        store_floats(e.into + at, v);
    } else {
        store(e.c + at, v);
    }
    if constexpr (!kLeftAcross && !kRightAcross) {
        if (e.activation == Form::forward || e.activation == Form::gated) activate(e, at, v);
    }
}

// Writes 16 x 64 sums of a warp to its sheet in shared memory, from where they are stored as rows,
// from (row, col) of the product on, so that memory is written in whole packs.
BYHAND_DEVICE void fill_sheet(Sheet sheet, const Sums* sums) {
    const int lane = lane_id();
    sync_warp();
#pragma unroll
    for (int n = 0; n < kSheetCols / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            *sheet.at(i / 2 * 8 + lane / 4, 8 * n + lane % 4 * 2 + i % 2) = sums[n][i];
        }
    }
    sync_warp();
}

template <bool kLeftAcross, bool kRightAcross, class F>
BYHAND_DEVICE void finish_sheet(const Product<F>& p, Sheet sheet, int row, int col) {
    const auto for_packs = [&](auto width) {
        constexpr int V = decltype(width)::value, kPacks = kSheetCols / V;
#pragma unroll 1
        for (int i = lane_id(); i < 16 * kPacks; i += kWarp) {
            const int r = i / kPacks, c = i % kPacks * V;
            if (row + r >= p.M || col + c >= p.N) continue;
            float v[V];
#pragma unroll
            for (int j = 0; j < V; ++j) v[j] = *sheet.at(r, c + j);
            finish<kLeftAcross, kRightAcross>(p, row + r, col + c, v);
        }
    };
    if (p.packed) {
        for_packs(std::integral_constant<int, kPack<Stored<F>>>{});
    } else {
        for_packs(std::integral_constant<int, 1>{});
    }
}

// The row and column of a tile. Blocks that run at the same time compute a few rows of tiles by
// many columns, so that they share panels in the cache.
struct TilePlace {
    int row, col;

    BYHAND_DEVICE TilePlace(int tile, int rows, int cols) {
        constexpr int kBand = 8;
        const int band = tile / (kBand * cols) * kBand;
        const int height = min(kBand, rows - band), place = tile - band * cols;
        row = band + place % height;
        col = place / height;
    }
};

template <class F, bool kLeftAcross, bool kRightAcross>
__global__ void __launch_bounds__(GemmTile<F, kLeftAcross, kRightAcross>::kThreads,
                                  GemmTile<F, kLeftAcross, kRightAcross>::kBlocks)
    gemm_tiles(const __grid_constant__ Product<F> p) {
    using G = GemmTile<F, kLeftAcross, kRightAcross>;
    using T = Stored<F>;
    constexpr int kM = G::kM, kN = G::kN;
    BYHAND_DYNAMIC_SHARED(bytes);
    T* const ring = reinterpret_cast<T*>(bytes);
    const TilePlace tile(static_cast<int>(blockIdx.x), (p.M + G::kRows - 1) / G::kRows,
                         (p.N + G::kCols - 1) / G::kCols);
    const int row0 = tile.row * G::kRows, col0 = tile.col * G::kCols;
    const int all = (p.K + G::kDeep - 1) / G::kDeep;
    const int before = p.steps * static_cast<int>(blockIdx.y);
    const int steps = p.pieces != nullptr ? min(p.steps, all - before) : all;

    const auto left_at = [&](int stage) { return typename G::Left{ring + stage * G::kStage}; };
    const auto right_at = [&](int stage) {
        return typename G::Right{ring + stage * G::kStage + G::kLeft};
    };
    const auto fetch_step = [&](int step, int stage) {
        if (step < steps) {
            const int k = (before + step) * G::kDeep;
            fetch_panel<G::kLeftRows, G::kThreads>(left_at(stage), p.left, kLeftAcross ? k : row0,
                                                   kLeftAcross ? row0 : k);
            fetch_panel<G::kRightRows, G::kThreads>(
                right_at(stage), p.right, kRightAcross ? k : col0, kRightAcross ? col0 : k);
        }
        copy_async_commit();
    };

    // The position of the warp's part in the tile.
    constexpr int kAcrossWarps = G::kCols / G::kWarpCols;
    const int row = warp_id() / kAcrossWarps * G::kWarpRows;
    const int col = warp_id() % kAcrossWarps * G::kWarpCols;
    const bool busy = row0 + row < p.M && col0 + col < p.N;

    Sums sums[kM][kN] = {};
#pragma unroll 1
    for (int step = 0; step < G::kStages - 1; ++step) fetch_step(step, step);
    int stage = 0;
    for (int step = 0; step < steps; ++step) {
        copy_async_wait<G::kStages - 2>();
        sync_block();  // this step has arrived, and the previous one is no longer read
        fetch_step(step + G::kStages - 1, (stage + G::kStages - 1) % G::kStages);
        const auto left = left_at(stage);
        const auto right = right_at(stage);
        stage = (stage + 1) % G::kStages;
        if (!busy) continue;
#pragma unroll
        for (int depth = 0; depth < G::kDeep; depth += kDepth<F>) {
            Left<F> a[kM];
#pragma unroll
            for (int m = 0; m < kM; ++m) {
                a[m] = left_factor<F, kLeftAcross>(left, row + 16 * m, depth);
            }
#pragma unroll
            for (int n = 0; n < kN; n += 2) {
                const auto b = right_factor<F, kRightAcross>(right, col + 8 * n, depth);
#pragma unroll
                for (int m = 0; m < kM; ++m) multiply(sums[m][n], sums[m][n + 1], a[m], b);
            }
        }
    }
    copy_async_wait<0>();
    sync_block();  // the ring buffer is no longer read
    if (!busy) return;

    const Sheet sheet{reinterpret_cast<float*>(bytes) + warp_id() * kSheet};
#pragma unroll
    for (int m = 0; m < kM; ++m) {
        fill_sheet(sheet, sums[m]);
        finish_sheet<kLeftAcross, kRightAcross>(p, sheet, row0 + row + 16 * m, col0 + col);
    }
}

// Adds the sums of all pieces of the depth, in order.
template <class F, bool kLeftAcross, bool kRightAcross, int V>
__global__ void __launch_bounds__(128, 1)
    gemm_add_pieces(const __grid_constant__ Product<F> p, const float* pieces, int count) {
    const int64_t size = int64_t{p.M} * p.N, step = int64_t{gridDim.x} * blockDim.x * V;
    for (int64_t i = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * V; i < size; i += step) {
        float v[V] = {};
#pragma unroll 4
        for (int piece = 0; piece < count; ++piece) add_from(v, pieces + piece * size + i);
        const int64_t wide = p.transposed ? p.M : p.N;
        const int row = static_cast<int>(i / wide), col = static_cast<int>(i % wide);
        finish<kLeftAcross, kRightAcross>(p, p.transposed ? col : row, p.transposed ? row : col, v);
    }
}

}  // namespace byhand
