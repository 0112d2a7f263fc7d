// The tile kernels of packed_linear: up to kRows rows of y by some vectors of a panel of weights,
// with all sums in registers. A sum begins with what `start` gives and takes one multiply-add after
// the other, so it has the same bits in a tile of any height, and in one piece or in several.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "ops/linear/packed_format.h"
#include "simd/vec.h"

namespace byhand {

// Rows of x as a tile kernel reads them: floats, or groups of bytes with what belongs to a group.
struct PackedRows {
    const float* x = nullptr;
    std::int64_t stride = 0;  // between rows of x, in floats

    const std::int8_t* bytes = nullptr;    // rows of 32 G
    const float* scales = nullptr;         // rows of G
    const float* sums = nullptr;           // of the numbers of a group times its scale
    const std::int32_t* starts = nullptr;  // -zero times the sum of the bytes of a group
    std::int64_t groups = 0;               // G

    PackedRows from(std::int64_t row) const {
        PackedRows moved = *this;
        moved.x += row * stride;
        moved.bytes += row * groups * kPackedGroup;
        moved.scales += row * groups;
        moved.sums += row * groups;
        moved.starts += row * groups;
        return moved;
    }
};

struct PackedTile {
    PackedRows rows;
    const std::uint8_t* weights;  // a panel, from the k where this piece begins
    std::int64_t K;               // numbers along k in this piece
    std::int64_t col, cols;       // the first column of the tile in the panel; those from there on
    float* c;                     // the result
    std::int64_t stride;          // between its rows
    bool first;                   // whether the sums begin here; else they continue those in c
    const float *bias, *add;      // or null
};

// How many bytes ahead of its use a kernel of a few rows requests the weights.
inline constexpr std::int64_t kPackedAhead = 2048;

template <int rows, int vecs>
BYHAND_INLINE void start(Vec (&sum)[rows][vecs], const PackedTile& t) {
    constexpr int W = Vec::width;
    BYHAND_UNROLL
    for (int i = 0; i < rows; ++i) {
        BYHAND_UNROLL
        for (int v = 0; v < vecs; ++v) {
            const std::int64_t n = t.cols - v * W, at = i * t.stride + v * W;
            if (!t.first) {
                sum[i][v] = Vec::load(t.c + at, n);
                continue;
            }
            sum[i][v] = t.bias ? Vec::load(t.bias + v * W, n) : Vec::zero();
            if (t.add) sum[i][v] += Vec::load(t.add + at, n);
        }
    }
}

template <int rows, int vecs>
BYHAND_INLINE void finish(const Vec (&sum)[rows][vecs], const PackedTile& t) {
    constexpr int W = Vec::width;
    BYHAND_UNROLL
    for (int i = 0; i < rows; ++i) {
        BYHAND_UNROLL
        for (int v = 0; v < vecs; ++v) {
            sum[i][v].store(t.c + i * t.stride + v * W, t.cols - v * W);
        }
    }
}

// One k of a tile: a broadcast number of each row times the weights.
template <int rows, int vecs>
BYHAND_INLINE void multiply_add(Vec (&sum)[rows][vecs], const float* x, std::int64_t stride,
                                const Vec (&w)[vecs]) {
    BYHAND_UNROLL
    for (int i = 0; i < rows; ++i) {
        const Vec number = Vec::set(x[i * stride]);
        BYHAND_UNROLL
        for (int v = 0; v < vecs; ++v) sum[i][v] = fma(number, w[v], sum[i][v]);
    }
}

template <int rows, int vecs>
BYHAND_INLINE void prefetch(const std::uint8_t* weights) {
    if (rows > 8) return;  // there the hardware has enough time
    BYHAND_UNROLL
    for (int at = 0; at < vecs * Vec::width * 4; at += 64) {
        __builtin_prefetch(weights + kPackedAhead + at);
    }
}

struct PackedFloat32 {
    static constexpr std::int64_t depth = 1;
    static constexpr int step = kPackedCols * 4;  // bytes of `depth` numbers along k of a panel

    template <int rows, int vecs>
    static void multiply(const PackedTile& t) {
        Vec sum[rows][vecs];
        start(sum, t);
        const float* x = t.rows.x;
        const std::int64_t stride = t.rows.stride;
        const std::uint8_t* weights = t.weights + 4 * t.col;
        for (std::int64_t k = t.K; k > 0; --k, ++x, weights += step) {
            Vec w[vecs];
            BYHAND_UNROLL
            for (int v = 0; v < vecs; ++v) {
                w[v] = Vec::load(reinterpret_cast<const float*>(weights) + v * Vec::width);
            }
            prefetch<rows, vecs>(weights);
            multiply_add(sum, x, stride, w);
        }
        finish(sum, t);
    }
};

// The weights become floats in registers, exactly, and x is not rounded.
struct PackedBf16 {
    static constexpr std::int64_t depth = 2;
    static constexpr int step = kPackedCols * 4;

    template <int rows, int vecs>
    static void multiply(const PackedTile& t) {
        Vec sum[rows][vecs];
        start(sum, t);
        const float* x = t.rows.x;
        const std::int64_t stride = t.rows.stride;
        const std::uint8_t* weights = t.weights + 4 * t.col;
        for (std::int64_t k = t.K; k > 0; k -= 2, x += 2, weights += step) {
            Vec pairs[vecs], w[vecs];
            BYHAND_UNROLL
            for (int v = 0; v < vecs; ++v) {
                pairs[v] = Vec::load(reinterpret_cast<const float*>(weights) + v * Vec::width);
                w[v] = widen_first(pairs[v]);
            }
            prefetch<rows, vecs>(weights);
            multiply_add(sum, x, stride, w);
            if (k == 1) break;
            BYHAND_UNROLL
            for (int v = 0; v < vecs; ++v) w[v] = widen_second(pairs[v]);
            multiply_add(sum, x + 1, stride, w);
        }
        finish(sum, t);
    }
};

template <PackedFormat format>
struct PackedInts {
    using Group = PackedGroup<format>;
    static constexpr std::int64_t depth = kPackedGroup;
    static constexpr int step = Group::bytes;
    static constexpr int zero = format == PackedFormat::int8 ? kExcess : Group::zero;

    template <int rows, int vecs>
    static void multiply(const PackedTile& t) {
        constexpr int W = Vec::width;
        constexpr int row_bytes = kPackedCols * 4;  // four numbers of each column of a panel
        Vec sum[rows][vecs];
        start(sum, t);
        const std::int64_t G = t.rows.groups, groups = packed_groups(t.K);
        const std::uint8_t* group = t.weights;
        const std::int8_t* bytes = t.rows.bytes;
        for (std::int64_t g = 0; g < groups; ++g, group += step, bytes += kPackedGroup) {
            const std::uint8_t* const quads = group + Group::head + 4 * t.col;
            Ints dot[rows][vecs];
            BYHAND_UNROLL
            for (int i = 0; i < rows; ++i) {
                const Ints first = Ints::set(zero == 0 ? 0 : t.rows.starts[i * G + g]);
                BYHAND_UNROLL
                for (int v = 0; v < vecs; ++v) dot[i][v] = first;
            }
            const auto four = [&](int i, int s) __attribute__((always_inline)) {
                std::int32_t numbers;
                std::memcpy(&numbers, bytes + i * G * kPackedGroup + 4 * s, 4);
                return Ints::set(numbers);
            };
            if constexpr (Group::whole_bytes) {
                BYHAND_UNROLL
                for (int s = 0; s < 8; ++s) {
                    Ints q[vecs];
                    BYHAND_UNROLL
                    for (int v = 0; v < vecs; ++v) {
                        q[v] = Ints::load(quads + s * row_bytes + v * 4 * W);
                    }
                    prefetch<rows, vecs>(group + s * row_bytes);
                    BYHAND_UNROLL
                    for (int i = 0; i < rows; ++i) {
                        const Ints a = four(i, s);
                        BYHAND_UNROLL
                        for (int v = 0; v < vecs; ++v) dot[i][v] = dot_bytes(q[v], a, dot[i][v]);
                    }
                }
            } else {
                BYHAND_UNROLL
                for (int s = 0; s < 4; ++s) {
                    Ints low[vecs], high[vecs];
                    BYHAND_UNROLL
                    for (int v = 0; v < vecs; ++v) {
                        const Ints q = Ints::load(quads + s * row_bytes + v * 4 * W);
                        low[v] = low_nibbles(q);
                        high[v] = high_nibbles(q);
                    }
                    prefetch<rows, vecs>(group + s * row_bytes);
                    BYHAND_UNROLL
                    for (int i = 0; i < rows; ++i) {
                        const Ints a = four(i, s), b = four(i, s + 4);
                        BYHAND_UNROLL
                        for (int v = 0; v < vecs; ++v) {
                            dot[i][v] = dot_nibbles(low[v], a, dot[i][v]);
                            dot[i][v] = dot_nibbles(high[v], b, dot[i][v]);
                        }
                    }
                }
            }
            const auto* halves = reinterpret_cast<const std::uint16_t*>(group) + t.col;
            Vec scale[vecs];
            BYHAND_UNROLL
            for (int v = 0; v < vecs; ++v) scale[v] = load_halves(halves + v * W);
            BYHAND_UNROLL
            for (int i = 0; i < rows; ++i) {
                const Vec of_row = Vec::set(t.rows.scales[i * G + g]);
                BYHAND_UNROLL
                for (int v = 0; v < vecs; ++v) {
                    sum[i][v] = fma(to_float(dot[i][v]), scale[v] * of_row, sum[i][v]);
                }
            }
            if constexpr (Group::has_minimum) {
                BYHAND_UNROLL
                for (int v = 0; v < vecs; ++v) {
                    const Vec minimum = load_halves(halves + kPackedCols + v * W);
                    BYHAND_UNROLL
                    for (int i = 0; i < rows; ++i) {
                        const Vec sums = Vec::set(t.rows.sums[i * G + g]);
                        sum[i][v] = fma(minimum, sums, sum[i][v]);
                    }
                }
            }
        }
        finish(sum, t);
    }
};

using PackedKernel = void (*)(const PackedTile&);
template <class Weights, int vecs, std::size_t... i>
constexpr std::array<PackedKernel, sizeof...(i)> packed_kernels(std::index_sequence<i...>) {
    return {Weights::template multiply<static_cast<int>(i) + 1, vecs>...};
}
template <class Weights, int most, int vecs>
constexpr auto kPackedKernels = packed_kernels<Weights, vecs>(std::make_index_sequence<most>{});

// `rows` rows of all columns of a panel, in tiles that fit in the registers.
template <class Weights, int most, int vecs>
void multiply_tiles(int rows, const PackedTile& panel) {
    constexpr int width = vecs * Vec::width;
    const PackedKernel kernel = kPackedKernels<Weights, most, vecs>[rows - 1];
    for (PackedTile t = panel; t.cols > 0 && t.col < kPackedCols; t.col += width) {
        kernel(t);
        t.cols -= width;
        t.c += width;
        if (t.bias) t.bias += width;
        if (t.add) t.add += width;
    }
}

// The most rows of a tile. A few rows leave registers for more columns. Integers need registers for
// the sums of a group too.
template <class Weights>
inline constexpr bool kIsInts = Weights::depth == kPackedGroup;
template <class Weights>
constexpr int packed_rows() {
    if (kIsInts<Weights>) return Vec::width == 16 ? 6 : 4;
    return Vec::width == 16 ? 14 : 6;
}

template <class Weights>
void multiply_panel(int rows, const PackedTile& panel) {
    constexpr int most = packed_rows<Weights>(), wide = kPackedCols / Vec::width;
    constexpr int few = Vec::width == 16 ? most : Vec::width == 8 && !kIsInts<Weights> ? 2 : 1;
    constexpr int vecs = kIsInts<Weights> ? 1 : 2;
    if (rows <= few) return multiply_tiles<Weights, few, wide>(rows, panel);
    if constexpr (few < most) multiply_tiles<Weights, most, vecs>(rows, panel);
}

}  // namespace byhand
