// One kernel for each primitive of core/cuda.cuh, which test_primitives.py compares with numpy.
// Every function takes pointers to memory of the device and returns an error message, or null.
#include "core/cuda.cuh"

using namespace byhand;

namespace {

template <class F>
const char* guarded(F f) {
    static thread_local std::string error;
    try {
        f();
        return nullptr;
    } catch (const std::exception& e) {
        error = e.what();
        return error.c_str();
    }
}

__device__ int lane_of() { return static_cast<int>(threadIdx.x) % kWarp; }

// --- Tensor cores ------------------------------------------------------------------------------

// d (16,8) += a (16,16) b (16,8), fragments read from memory element by element.
__global__ void mma_bf16_kernel(float* d, const bf16* a, const bf16* b) {
    const int g = lane_of() / 4, t = lane_of() % 4;
    const auto pair = [](bf16 low, bf16 high) { return pack_bf16(to_float(low), to_float(high)); };
    unsigned af[4], bf[2];
    for (int i = 0; i < 4; ++i) {
        const bf16* p = a + (g + i % 2 * 8) * 16 + t * 2 + i / 2 * 8;
        af[i] = pair(p[0], p[1]);
    }
    for (int i = 0; i < 2; ++i) {
        const bf16* p = b + (t * 2 + i * 8) * 8 + g;
        bf[i] = pair(p[0], p[8]);
    }
    float df[4];
    for (int i = 0; i < 4; ++i) df[i] = d[(g + i / 2 * 8) * 8 + t * 2 + i % 2];
    mma_bf16(df, af, bf);
    for (int i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + t * 2 + i % 2] = df[i];
}

// d (16,8) += a (16,8) b (8,8)
__global__ void mma_tf32_kernel(float* d, const float* a, const float* b) {
    const int g = lane_of() / 4, t = lane_of() % 4;
    unsigned af[4], bf[2];
    for (int i = 0; i < 4; ++i) af[i] = to_tf32(a[(g + i % 2 * 8) * 8 + t + i / 2 * 4]);
    for (int i = 0; i < 2; ++i) bf[i] = to_tf32(b[(t + i * 4) * 8 + g]);
    float df[4];
    for (int i = 0; i < 4; ++i) df[i] = d[(g + i / 2 * 8) * 8 + t * 2 + i % 2];
    mma_tf32(df, af, bf);
    for (int i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + t * 2 + i % 2] = df[i];
}

// A small matrix multiply: a (64,K) and b (K,64) through double-buffered shared memory into tensor
// cores, b transposed by ldmatrix; d (64,64). One block of 4 warps, 16 rows per warp.
constexpr int kTile = 64, kStep = 32;

__global__ void __launch_bounds__(128) gemm_kernel(float* d, const bf16* a, const bf16* b, int k) {
    constexpr int kPad = 8;  // so that the 8 rows of a matrix lie in different banks
    constexpr int kA = kStep + kPad, kB = kTile + kPad;
    BYHAND_DYNAMIC_SHARED(memory);
    bf16* const shared_a = reinterpret_cast<bf16*>(memory);  // [2][kTile][kA]
    bf16* const shared_b = shared_a + 2 * kTile * kA;        // [2][kStep][kB]
    const int rank = static_cast<int>(threadIdx.x), warp = rank / kWarp, lane = rank % kWarp;
    const auto fetch = [&](int stage, int start) {
        bf16* to_a = shared_a + stage * kTile * kA;
        bf16* to_b = shared_b + stage * kStep * kB;
        for (int i = rank; i < kTile * kStep / 8; i += 128) {
            const int row = i / (kStep / 8), column = i % (kStep / 8) * 8;
            const bool inside = start + column < k;
            copy_async16(to_a + row * kA + column, a + row * k + (inside ? start + column : 0),
                         inside);
        }
        for (int i = rank; i < kStep * kTile / 8; i += 128) {
            const int row = i / (kTile / 8), column = i % (kTile / 8) * 8;
            const bool inside = start + row < k;
            copy_async16(to_b + row * kB + column, b + (inside ? start + row : 0) * kTile + column,
                         inside);
        }
        copy_async_commit();
    };
    float sum[8][4] = {};
    const int steps = (k + kStep - 1) / kStep;
    fetch(0, 0);
    for (int step = 0; step < steps; ++step) {
        const int stage = step % 2;
        if (step + 1 < steps) {
            fetch(1 - stage, (step + 1) * kStep);
            copy_async_wait<1>();
        } else {
            copy_async_wait<0>();
        }
        sync_block();
        const bf16* from_a = shared_a + stage * kTile * kA;
        const bf16* from_b = shared_b + stage * kStep * kB;
        for (int i = 0; i < kStep; i += 16) {
            unsigned af[4];
            ldmatrix_x4(af, from_a + (warp * 16 + lane % 16) * kA + i + lane / 16 * 8);
            for (int n = 0; n < 8; n += 2) {
                unsigned bf[4];
                ldmatrix_x4_trans(bf, from_b + (i + lane % 16) * kB + (n + lane / 16) * 8);
                mma_bf16(sum[n], af, {bf[0], bf[1]});
                mma_bf16(sum[n + 1], af, {bf[2], bf[3]});
            }
        }
        sync_block();  // before the next step's copies overwrite what this step reads
    }
    for (int n = 0; n < 8; ++n) {
        for (int i = 0; i < 4; ++i) {
            const int row = warp * 16 + lane / 4 + i / 2 * 8, column = n * 8 + lane % 4 * 2 + i % 2;
            d[row * kTile + column] = sum[n][i];
        }
    }
}

// r: the results of ldmatrix in each lane, from the consecutive matrices m (4,8,8).
template <int kMatrices, bool transpose>
__global__ void ldmatrix_kernel(unsigned* r, const unsigned short* m) {
    using Words = unsigned short[kMatrices * 64 + 8];
    struct alignas(16) Aligned {
        Words words;
    };
    BYHAND_SHARED(Aligned, shared);
    const int lane = lane_of();
    for (int i = lane; i < kMatrices * 64; i += kWarp) shared.words[i] = m[i];
    sync_warp();
    unsigned mine[kMatrices];
    const unsigned short* row = shared.words + lane % (8 * kMatrices) * 8;
    if constexpr (kMatrices == 4 && transpose) ldmatrix_x4_trans(mine, row);
    if constexpr (kMatrices == 4 && !transpose) ldmatrix_x4(mine, row);
    if constexpr (kMatrices == 2 && transpose) ldmatrix_x2_trans(mine, row);
    if constexpr (kMatrices == 2 && !transpose) ldmatrix_x2(mine, row);
    for (int i = 0; i < kMatrices; ++i) r[lane * kMatrices + i] = mine[i];
}

// --- Copies ------------------------------------------------------------------------------------

// y = x through shared memory, three groups in flight; 16 bytes that are not whole become zeros.
__global__ void copy_kernel(float* y, const float* x, const bool* whole, int rounds) {
    constexpr int kStages = 3;
    BYHAND_SHARED(uint4[kStages][64], stage);
    const int rank = static_cast<int>(threadIdx.x);
    for (int i = 0; i < rounds + kStages - 1; ++i) {
        if (i < rounds) copy_async16(&stage[i % kStages][rank], x + (i * 64 + rank) * 4, whole[i]);
        copy_async_commit();
        const int done = i - (kStages - 1);
        if (done < 0) continue;
        copy_async_wait<kStages - 1>();
        store16(y + (done * 64 + rank) * 4, stage[done % kStages][rank]);
    }
    copy_async_wait<0>();
}

// --- Lanes -------------------------------------------------------------------------------------

enum class Lanes { shuffle, shuffle_xor, shuffle_down, where, any, all, match, halves };

template <Lanes op>
__global__ void lanes_kernel(int* y, const int* x, int n) {
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x), lane = lane_of();
    const int v = x[i];
    if constexpr (op == Lanes::shuffle) y[i] = shuffle(v, lane + n);
    if constexpr (op == Lanes::shuffle_xor) y[i] = shuffle_xor(v, n);
    if constexpr (op == Lanes::shuffle_down) y[i] = shuffle_down(v, n);
    if constexpr (op == Lanes::where) y[i] = static_cast<int>(lanes_where(v > n));
    if constexpr (op == Lanes::any) y[i] = any_lane(v > n);
    if constexpr (op == Lanes::all) y[i] = all_lanes(v > n);
    if constexpr (op == Lanes::match) y[i] = static_cast<int>(match_any(v % 8));
    if constexpr (op == Lanes::halves) {  // each half of the warp on its own
        const unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
        if (lane < 16) {
            y[i] = shuffle_xor(v, n, half);
        } else {
            y[i] = static_cast<int>(lanes_where(v > n, half));
        }
    }
}

// --- Blocks ------------------------------------------------------------------------------------

// Warps 0 and 1 produce, warps 2 and 3 consume: y[r][i] = x[r][i] + x[r][63 - i], the producers at
// most one round ahead, by two pairs of named barriers.
__global__ void pipeline_kernel(float* y, const float* x, int rounds) {
    BYHAND_SHARED(float[2][64], buffer);
    const int rank = static_cast<int>(threadIdx.x);
    for (int r = 0; r < rounds; ++r) {
        const int half = r % 2, full = 1 + half, empty = 3 + half;
        if (rank < 64) {
            if (r >= 2) sync_named(empty, 128);
            buffer[half][rank] = x[r * 64 + rank];
            arrive_named(full, 128);
        } else {
            const int i = rank - 64;
            sync_named(full, 128);
            y[r * 64 + i] = buffer[half][i] + buffer[half][63 - i];
            if (r + 2 < rounds) arrive_named(empty, 128);
        }
    }
}

// The indices of every thread of a three-dimensional grid.
__global__ void places_kernel(int* y) {
    const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    const unsigned i = block * blockDim.x * blockDim.y * blockDim.z + thread;
    y[i] += static_cast<int>(i) + 1;
}

template <class V>
__global__ void atomics_kernel(V* sum, V* most, V* locked, const V* x, int n) {
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= n) return;
    atomic_add(sum, x[i]);
    atomic_max(most, x[i]);
    V seen = *static_cast<volatile V*>(locked);
    for (;;) {  // locked += 2 x by compare and swap
        const V was = atomic_cas(locked, seen, static_cast<V>(seen + 2 * x[i]));
        if (was == seen) break;
        seen = was;
    }
}

__global__ void atomic_float_kernel(float* sum, const float* x, int n) {
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) atomic_add(sum, x[i]);
}

// --- Numbers -----------------------------------------------------------------------------------

__global__ void numbers_kernel(float* exp2s, float* exps, bf16* halves, unsigned* pairs,
                               unsigned* tf32s, const float* x, int n) {
    const int i = static_cast<int>(threadIdx.x);
    if (i >= n) return;
    exp2s[i] = fast_exp2(x[i]);
    exps[i] = fast_exp(x[i]);
    halves[i] = to_bf16(x[i]);
    pairs[i] = pack_bf16(x[i], x[n - 1 - i]);
    tf32s[i] = to_tf32(x[i]);
}

template <class... P, class... A>
const char* go(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, int bytes,
               A... arguments) {
    return guarded(
        [&] { launch_shared(name, kernel, grid, block, bytes, Stream{}, arguments...); });
}

template <Lanes op>
const char* lanes(int* y, const int* x, int n, int warps) {
    return go("lanes", lanes_kernel<op>, dim3(2), dim3(static_cast<unsigned>(warps * kWarp)), 0, y,
              x, n);
}

}  // namespace

extern "C" {

#define EXPORT __attribute__((visibility("default")))

EXPORT const char* run_mma_bf16(float* d, const bf16* a, const bf16* b) {
    return go("mma_bf16", mma_bf16_kernel, dim3(1), dim3(32), 0, d, a, b);
}
EXPORT const char* run_mma_tf32(float* d, const float* a, const float* b) {
    return go("mma_tf32", mma_tf32_kernel, dim3(1), dim3(32), 0, d, a, b);
}
EXPORT const char* run_gemm(float* d, const bf16* a, const bf16* b, int k) {
    constexpr int kBytes = 2 * (kTile * (kStep + 8) + kStep * (kTile + 8)) * 2;
    return go("gemm", gemm_kernel, dim3(1), dim3(128), kBytes, d, a, b, k);
}
EXPORT const char* run_ldmatrix(unsigned* r, const unsigned short* m, int matrices, int transpose) {
    const auto kernel =
        matrices == 4 ? (transpose != 0 ? ldmatrix_kernel<4, true> : ldmatrix_kernel<4, false>)
                      : (transpose != 0 ? ldmatrix_kernel<2, true> : ldmatrix_kernel<2, false>);
    return go("ldmatrix", kernel, dim3(1), dim3(32), 0, r, m);
}
EXPORT const char* run_copy(float* y, const float* x, const bool* whole, int rounds) {
    return go("copy", copy_kernel, dim3(1), dim3(64), 0, y, x, whole, rounds);
}
EXPORT const char* run_lanes(int* y, const int* x, int op, int n, int warps) {
    switch (static_cast<Lanes>(op)) {
        case Lanes::shuffle:
            return lanes<Lanes::shuffle>(y, x, n, warps);
        case Lanes::shuffle_xor:
            return lanes<Lanes::shuffle_xor>(y, x, n, warps);
        case Lanes::shuffle_down:
            return lanes<Lanes::shuffle_down>(y, x, n, warps);
        case Lanes::where:
            return lanes<Lanes::where>(y, x, n, warps);
        case Lanes::any:
            return lanes<Lanes::any>(y, x, n, warps);
        case Lanes::all:
            return lanes<Lanes::all>(y, x, n, warps);
        case Lanes::match:
            return lanes<Lanes::match>(y, x, n, warps);
        case Lanes::halves:
            return lanes<Lanes::halves>(y, x, n, warps);
    }
    return "no such operation";
}
EXPORT const char* run_pipeline(float* y, const float* x, int rounds) {
    return go("pipeline", pipeline_kernel, dim3(1), dim3(128), 0, y, x, rounds);
}
EXPORT const char* run_places(int* y, const unsigned* grid, const unsigned* block, int bytes) {
    return go("places", places_kernel, dim3(grid[0], grid[1], grid[2]),
              dim3(block[0], block[1], block[2]), bytes, y);
}
EXPORT const char* run_atomics_int(int* sum, int* most, int* locked, const int* x, int n) {
    return go("atomics", atomics_kernel<int>, dim3(blocks_for(n, 64)), dim3(64), 0, sum, most,
              locked, x, n);
}
EXPORT const char* run_atomics_long(unsigned long long* sum, unsigned long long* most,
                                    unsigned long long* locked, const unsigned long long* x,
                                    int n) {
    return go("atomics", atomics_kernel<unsigned long long>, dim3(blocks_for(n, 64)), dim3(64), 0,
              sum, most, locked, x, n);
}
EXPORT const char* run_atomic_float(float* sum, const float* x, int n) {
    return go("atomic_float", atomic_float_kernel, dim3(blocks_for(n, 64)), dim3(64), 0, sum, x, n);
}
EXPORT const char* run_numbers(float* exp2s, float* exps, bf16* halves, unsigned* pairs,
                               unsigned* tf32s, const float* x, int n) {
    return go("numbers", numbers_kernel, dim3(1), dim3(1024), 0, exp2s, exps, halves, pairs, tf32s,
              x, n);
}

}  // extern "C"
