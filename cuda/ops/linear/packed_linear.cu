#include "core/cuda.cuh"
#include "core/mma.cuh"
#include "core/team.cuh"
#include "ops/linear/packed_format.h"
#include "ops/linear/packed_linear.h"

namespace byhand {
namespace {

// A block computes a panel of 32 columns for kRows rows: lane i of each warp has column i, and
// reads its weights beside its neighbours'. The warps divide K between them, and their sums are
// added in order, so the order of a sum depends on K alone.
constexpr int kWarps = 8, kRows = 4;

template <class T>
struct PackedProblem {
    T* y;
    const T *x, *b, *add;  // b and add may be null
    const unsigned char* weights;
    int64_t panel;  // bytes of a panel
    int64_t M, N, K;
};

// sums += the columns of this lane over the steps [begin, end) of floats: one k, or a pair of them.
template <PackedFormat format, class T>
BYHAND_DEVICE void multiply_floats(float (&sums)[kRows], const PackedProblem<T>& p,
                                   const unsigned char* panel, int64_t row, int rows, int64_t begin,
                                   int64_t end) {
    constexpr int kDepth = format == PackedFormat::bf16 ? 2 : 1;
    const auto* words = reinterpret_cast<const unsigned*>(panel) + lane_id();
    for (int64_t step = begin; step < end; ++step) {
        const unsigned word = words[step * kPackedCols];
        const float w[2] = {float_of(kDepth == 2 ? word << 16 : word),
                            float_of(word & 0xffff0000u)};
#pragma unroll
        for (int d = 0; d < kDepth; ++d) {
            const int64_t k = step * kDepth + d;
            if (k == p.K) break;
#pragma unroll
            for (int i = 0; i < kRows; ++i) {
                if (i < rows) sums[i] = fmaf(to_float(p.x[(row + i) * p.K + k]), w[d], sums[i]);
            }
        }
    }
}

// A group of 32 numbers of x, one to a lane, as bytes: each lane gets the word of four that its own
// is one of. The scale is NaN if a number is not finite.
struct Rounded32 {
    unsigned four;
    float scale;
    int sum;

    BYHAND_DEVICE void set(float x) {
        const bool finite = all_lanes(fabsf(x) <= 3.40282347e38f);
        const float largest = reduce_warp(finite ? fabsf(x) : 0.0f, Max{});
        scale = largest / 127.0f;
        int q = 0;
        if (scale < kLeastScale) {
            scale = finite ? 0.0f : not_a_number();
        } else {
            q = static_cast<int>(rintf(x * (1.0f / scale)));
        }
        sum = reduce_warp(q, Add{});
        four = (static_cast<unsigned>(q) & 255u) << (lane_id() % 4 * 8);
        four |= shuffle_xor(four, 1);
        four |= shuffle_xor(four, 2);
    }
};

// sum + the products of the unsigned bytes of q with the signed ones of a.
BYHAND_DEVICE int dot_bytes(unsigned q, unsigned a, int sum) {
#pragma unroll
    for (int i = 0; i < 32; i += 8) {
        sum += static_cast<int>(q >> i & 255u) *
               static_cast<int>(static_cast<signed char>(a >> i & 255u));
    }
    return sum;
}

// sums += the columns of this lane over the groups [begin, end).
template <PackedFormat format, class T>
BYHAND_DEVICE void multiply_groups(float (&sums)[kRows], const PackedProblem<T>& p,
                                   const unsigned char* panel, int64_t row, int rows, int64_t begin,
                                   int64_t end) {
    using Group = PackedGroup<format>;
    const int lane = lane_id();
    for (int64_t g = begin; g < end; ++g) {
        const unsigned char* const group = panel + g * Group::bytes;
        const auto* halves = reinterpret_cast<const std::uint16_t*>(group);
        const auto* words = reinterpret_cast<const unsigned*>(group + Group::head) + lane;
        constexpr int kWords = Group::whole_bytes ? 8 : 4;
        unsigned w[kWords];
#pragma unroll
        for (int s = 0; s < kWords; ++s) w[s] = words[s * kPackedCols];
        const float scale = from_half(halves[lane]);
        const float minimum = Group::has_minimum ? from_half(halves[kPackedCols + lane]) : 0.0f;
        const int64_t k = g * kPackedGroup + lane;
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
            if (i >= rows) break;
            Rounded32 x;
            x.set(k < p.K ? to_float(p.x[(row + i) * p.K + k]) : 0.0f);
            int dot = -Group::zero * x.sum;
#pragma unroll
            for (int s = 0; s < kWords; ++s) {
                const unsigned four = shuffle(x.four, 4 * s);
                if (Group::whole_bytes) {
                    dot = dot_bytes(w[s], four, dot);
                } else {
                    dot = dot_bytes(w[s] & 0x0f0f0f0fu, four, dot);
                    dot = dot_bytes(w[s] >> 4 & 0x0f0f0f0fu, shuffle(x.four, 4 * s + 16), dot);
                }
            }
            sums[i] = fmaf(static_cast<float>(dot), scale * x.scale, sums[i]);
            if (Group::has_minimum) {
                sums[i] = fmaf(minimum, x.scale * static_cast<float>(x.sum), sums[i]);
            }
        }
    }
}

template <PackedFormat format, class T>
__global__ void __launch_bounds__(kWarps* kWarp, 1)
    packed_linear_panels(const __grid_constant__ PackedProblem<T> p) {
    BYHAND_SHARED(float[kWarps][kRows][kPackedCols], shares);
    constexpr bool kFloats = format == PackedFormat::float32 || format == PackedFormat::bf16;
    constexpr int kDepth = kFloats ? format == PackedFormat::bf16 ? 2 : 1 : kPackedGroup;
    const int lane = lane_id(), warp = warp_id();
    const int64_t steps = (p.K + kDepth - 1) / kDepth, col = int64_t{blockIdx.x} * kPackedCols;
    const int64_t begin = steps * warp / kWarps, end = steps * (warp + 1) / kWarps;
    const unsigned char* const panel = p.weights + blockIdx.x * p.panel;
    for (int64_t row = int64_t{blockIdx.y} * kRows; row < p.M; row += int64_t{gridDim.y} * kRows) {
        const int rows = static_cast<int>(min(int64_t{kRows}, p.M - row));
        float sums[kRows] = {};
        if constexpr (kFloats) {
            multiply_floats<format>(sums, p, panel, row, rows, begin, end);
        } else {
            multiply_groups<format>(sums, p, panel, row, rows, begin, end);
        }
#pragma unroll
        for (int i = 0; i < kRows; ++i) shares[warp][i][lane] = sums[i];
        sync_block();
        if (warp < rows && col + lane < p.N) {
            const int64_t at = (row + warp) * p.N + col + lane;
            float sum = 0.0f;
#pragma unroll
            for (int i = 0; i < kWarps; ++i) sum += shares[i][warp][lane];
            if (p.b != nullptr) sum += to_float(p.b[col + lane]);
            if (p.add != nullptr) sum += to_float(p.add[at]);
            p.y[at] = from_float<T>(sum);
        }
        sync_block();
    }
}

// Calls f with the format as a constant.
template <class F>
void for_format(PackedFormat format, F&& f) {
    switch (format) {
        case PackedFormat::float32:
            return f(std::integral_constant<PackedFormat, PackedFormat::float32>{});
        case PackedFormat::bf16:
            return f(std::integral_constant<PackedFormat, PackedFormat::bf16>{});
        case PackedFormat::int8:
            return f(std::integral_constant<PackedFormat, PackedFormat::int8>{});
        case PackedFormat::int4:
            return f(std::integral_constant<PackedFormat, PackedFormat::int4>{});
        case PackedFormat::int4_1:
            return f(std::integral_constant<PackedFormat, PackedFormat::int4_1>{});
    }
}

// Packs one step of one column: a number, a pair, or a group.
template <PackedFormat format, class T>
BYHAND_DEVICE void pack_step(unsigned char* to, const T* w, int64_t left, int col) {
    using Group = PackedGroup<format>;
    if constexpr (format == PackedFormat::float32) {
        reinterpret_cast<unsigned*>(to)[col] = left > 0 ? bits_of(to_float(w[0])) : 0u;
    } else if constexpr (format == PackedFormat::bf16) {
        reinterpret_cast<unsigned*>(to)[col] =
            pack_bf16(left > 0 ? to_float(w[0]) : 0.0f, left > 1 ? to_float(w[1]) : 0.0f);
    } else {
        float x[kPackedGroup], minimum = 0.0f, scale;
        for (int i = 0; i < kPackedGroup; ++i) x[i] = i < left ? to_float(w[i]) : 0.0f;
        unsigned char q[kPackedGroup];
        if constexpr (Group::whole_bytes) {
            signed char whole[kPackedGroup];
            scale = quantise_int8(whole, x);
            for (int i = 0; i < kPackedGroup; ++i)
                q[i] = static_cast<unsigned char>(whole[i] + 128);
        } else if constexpr (Group::has_minimum) {
            scale = quantise_int4_1(q, minimum, x);
        } else {
            scale = quantise_int4(q, x);
        }
        auto* const halves = reinterpret_cast<std::uint16_t*>(to);
        halves[col] = to_half(scale);
        if (Group::has_minimum) halves[kPackedCols + col] = to_half(minimum);
        constexpr int kBytes = Group::whole_bytes ? kPackedGroup : kPackedGroup / 2;
        unsigned char* const quads = to + Group::head + 4 * col;
        for (int i = 0; i < kBytes; ++i) {
            const int high = Group::whole_bytes ? 0 : q[(i + kBytes) % kPackedGroup] << 4;
            quads[i / 4 * 4 * kPackedCols + i % 4] = static_cast<unsigned char>(q[i] | high);
        }
    }
}

constexpr int kPackThreads = 128;

template <PackedFormat format, class T>
__global__ void __launch_bounds__(kPackThreads, 1)
    packed_linear_pack_steps(unsigned char* words, const T* w, int64_t N, int64_t K, int64_t steps,
                             int depth, int bytes) {
    const int64_t all = (N + kPackedCols - 1) / kPackedCols * steps * kPackedCols;
    for (int64_t i = int64_t{blockIdx.x} * kPackThreads + threadIdx.x; i < all;
         i += int64_t{gridDim.x} * kPackThreads) {
        const int col = static_cast<int>(i % kPackedCols);
        const int64_t step = i / kPackedCols % steps, panel = i / kPackedCols / steps;
        const int64_t n = panel * kPackedCols + col, k = step * depth;
        pack_step<format>(words + (panel * steps + step) * bytes, w + n * K + k, n < N ? K - k : 0,
                          col);
    }
}

}  // namespace

void packed_linear_forward(Out y, In x, In w, Maybe<In> b, Maybe<In> add, int64_t format,
                           Stream stream) {
    const int64_t M = x.rows(), K = x.cols(), N = y.cols();
    const PackedFormat of = packed_format(format, w, N, K);
    const auto* weights = reinterpret_cast<const unsigned char*>(w.as<int64_t>());
    if (M == 0 || N == 0) return;
    for_storage(x, [&](auto zero) {
        using T = decltype(zero);
        const PackedProblem<T> p{
            y.as<T>(), x.as<T>(), b.as<T>(), add.as<T>(), weights, packed_panel(of, K), M, N, K};
        const dim3 grid(blocks_for(N, kPackedCols),
                        static_cast<unsigned>(std::min<int64_t>((M + kRows - 1) / kRows, 65535)));
        for_format(of, [&](auto constant) {
            launch("packed_linear_forward", packed_linear_panels<decltype(constant)::value, T>,
                   grid, dim3(kWarps * kWarp), stream, p);
        });
    });
}

void packed_linear_pack(Mut words, In w, int64_t format, Stream stream) {
    const int64_t N = w.rows(), K = w.cols();
    const PackedFormat as = packed_format(format, words, N, K);
    auto* const to = reinterpret_cast<unsigned char*>(words.as<int64_t>());
    if (N == 0 || K == 0) return;
    const int depth = as == PackedFormat::float32 ? 1 : as == PackedFormat::bf16 ? 2 : kPackedGroup;
    const int64_t steps = (K + depth - 1) / depth;
    const int bytes = static_cast<int>(packed_panel(as, depth));
    const int64_t all = (N + kPackedCols - 1) / kPackedCols * steps * kPackedCols;
    for_storage(w, [&](auto zero) {
        using T = decltype(zero);
        const T* const from = w.as<T>();
        for_format(as, [&](auto constant) {
            launch("packed_linear_pack", packed_linear_pack_steps<decltype(constant)::value, T>,
                   dim3(blocks_for(all, kPackThreads)), dim3(kPackThreads), stream, to, from, N, K,
                   steps, depth, bytes);
        });
    });
}

}  // namespace byhand
