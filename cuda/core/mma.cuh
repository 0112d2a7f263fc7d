// Products of small matrices on tensor cores, from shared memory: a warp multiplies 16 rows by 16
// columns, 32 bytes deep, at a time.
//
//     Left<T>    16 rows of the left factor      from shared memory, or from sums in registers
//     Right<T>   16 columns of the right factor  stored by rows (a column's elements adjacent) or
//                                                by columns (a row's elements adjacent)
//     Sums       16 x 8 of the product: a lane holds columns lane%4 * 2 and lane%4 * 2 + 1 of rows
//                lane/4 and lane/4 + 8
//
// bfloat16 products are exact and added in float32. A float32 factor is split into two tf32 numbers
// of 11 bits each, and the sum of three of their products is about as accurate as float32 (Markidis
// et al. 2018, "NVIDIA tensor core programmability, performance & precision", section V). Tensor
// cores do not round sums but truncate them, always towards 0, and that error would grow with the
// depth: each product of a depth of 8 starts from 0, and is added by an ordinary addition (Ootomo
// and Yokota 2022, "Recovering single precision accuracy from Tensor Cores while surpassing the
// FP32 theoretical peak performance", section 4). A float32 factor that is to be rounded to
// bfloat16 is rounded when it is loaded from shared memory into a fragment.
#pragma once

#include "core/pack.cuh"

namespace byhand {

// A type of factors besides bf16 and float: float32 in memory, rounded to bfloat16 in the product.
struct Rounded {};
template <class T>
using Stored = std::conditional_t<std::is_same_v<T, Rounded>, float, T>;

template <class T>
inline constexpr int kDepth = 32 / static_cast<int>(sizeof(T));  // elements of one product's depth
template <>
inline constexpr int kDepth<Rounded> = kDepth<bf16>;

using Sums = float[4];

// Kernels that use tensor cores have one-dimensional blocks.
BYHAND_DEVICE int lane_id() { return static_cast<int>(threadIdx.x) % kWarp; }
BYHAND_DEVICE int warp_id() { return static_cast<int>(threadIdx.x) / kWarp; }

// Rows of kCols elements in shared memory, each padded by 16 bytes, so that the eight rows that
// ldmatrix reads at a time begin in eight different groups of banks.
template <class T, int kCols_, int kGap = kPack<T>>
struct SharedTile {
    static constexpr int kCols = kCols_, kStride = kCols + kGap;
    static_assert(kCols % (2 * kPack<T>) == 0, "the distance of rows is an odd number of packs");
    static constexpr int size(int rows) { return rows * kStride; }

    T* data;

    BYHAND_DEVICE T* at(int row, int col) const { return data + row * kStride + col; }
    BYHAND_DEVICE SharedTile from(int row) const { return {at(row, 0)}; }
};

template <class T>
struct Left;
template <class T>
struct Right;

template <>
struct Left<bf16> {
    unsigned r[4];

    BYHAND_DEVICE void set(const unsigned (&bits)[4]) {
#pragma unroll
        for (int i = 0; i < 4; ++i) r[i] = bits[i];
    }
    // The sums of 16 x 16, rounded, as a left factor: a lane holds the same elements of both.
    BYHAND_DEVICE void set(const Sums* sums) {
        r[0] = pack_bf16(sums[0][0], sums[0][1]);
        r[1] = pack_bf16(sums[0][2], sums[0][3]);
        r[2] = pack_bf16(sums[1][0], sums[1][1]);
        r[3] = pack_bf16(sums[1][2], sums[1][3]);
    }
};

template <>
struct Right<bf16> {
    unsigned r[4];  // two registers for 8 columns, two for the next 8

    BYHAND_DEVICE void set(const unsigned (&bits)[4]) {
#pragma unroll
        for (int i = 0; i < 4; ++i) r[i] = bits[i];
    }
    template <int kCols>
    BYHAND_DEVICE void by_columns(SharedTile<bf16, kCols> t, int depth, int col) {
        const int lane = lane_id();
        ldmatrix_x4_trans(r, t.at(depth + lane % 16, col + lane / 16 * 8));
    }
};

template <bool = true>
BYHAND_DEVICE void multiply(Sums& a, Sums& b, const Left<bf16>& left, const Right<bf16>& right) {
    const unsigned first[2] = {right.r[0], right.r[1]}, second[2] = {right.r[2], right.r[3]};
    mma_bf16(a, left.r, first);
    mma_bf16(b, left.r, second);
}

// A float32 split into a tf32 number and the remainder.
template <int N>
struct Split {
    unsigned high[N], low[N];

    BYHAND_DEVICE void set(int i, float x) {
        high[i] = to_tf32(x);
        low[i] = to_tf32(x - float_of(high[i]));
    }
    BYHAND_DEVICE void set(const unsigned (&bits)[N]) {
#pragma unroll
        for (int i = 0; i < N; ++i) set(i, float_of(bits[i]));
    }
};

template <>
struct Left<float> : Split<4> {
    using Split<4>::set;
    // The sums of 16 x 8 as a left factor. A lane holds columns 2j and 2j + 1, but the fragment
    // expects j and j + 4: the columns are permuted, and so are the rows of the right factor
    // (by Right::by_columns).
    BYHAND_DEVICE void set(const Sums* sums) {
        set(0, sums[0][0]);
        set(1, sums[0][2]);
        set(2, sums[0][1]);
        set(3, sums[0][3]);
    }
};

template <>
struct Right<float> : Split<4> {
    template <int kCols>
    BYHAND_DEVICE void by_columns(SharedTile<float, kCols> t, int depth, int col) {
        const int lane = lane_id(), row = depth + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < 4; ++i) set(i, *t.at(row + i % 2, col + i / 2 * 8 + lane / 4));
    }
};

// Unless kApart, tensor cores add these products to the sums themselves.
template <bool kApart = true>
BYHAND_DEVICE void multiply(Sums& a, Sums& b, const Left<float>& left, const Right<float>& right) {
    const auto add = [&](Sums& sum, int column) {
        const unsigned high[2] = {right.high[column], right.high[column + 1]};
        const unsigned low[2] = {right.low[column], right.low[column + 1]};
        Sums apart = {}, &to = kApart ? apart : sum;
        mma_tf32(to, left.low, high);  // the small products first
        mma_tf32(to, left.high, low);
        mma_tf32(to, left.high, high);
#pragma unroll
        for (int i = 0; kApart && i < 4; ++i) sum[i] += apart[i];
    };
    add(a, 0);
    add(b, 2);
}

template <>
struct Left<Rounded> : Left<bf16> {};
template <>
struct Right<Rounded> : Right<bf16> {};

// Loads rows row .. row+15 of a tile.
template <class T, int kCols>
BYHAND_DEVICE Left<T> left_of(SharedTile<T, kCols> t, int row, int depth) {
    const int lane = lane_id();
    unsigned bits[4];
    ldmatrix_x4(bits, t.at(row + lane % 16, depth + lane / 16 * kPack<T>));
    Left<T> left;
    left.set(bits);
    return left;
}

// Loads 16 rows of a tile as columns of a right factor: the product is with the transposed tile.
template <class T, int kCols>
BYHAND_DEVICE Right<T> right_by_rows(SharedTile<T, kCols> t, int row, int depth) {
    const int lane = lane_id();
    unsigned bits[4];
    ldmatrix_x4(bits, t.at(row + lane % 8 + lane / 16 * 8, depth + lane / 8 % 2 * kPack<T>));
    Right<T> right;
    right.set(bits);
    return right;
}

template <class T, int kCols>
BYHAND_DEVICE Right<T> right_by_columns(SharedTile<T, kCols> t, int depth, int col) {
    Right<T> right;
    right.by_columns(t, depth, col);
    return right;
}

// sums[m] = a[m] bT for the first 8 kN rows of b; left(m, depth) is a part of a[m], 16 rows.
template <class T, int kM, int kN, int kCols, class F>
BYHAND_DEVICE void product_transposed(Sums (&sums)[kM][kN], SharedTile<T, kCols> b, F&& left) {
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
        for (int n = 0; n < kN; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[m][n][i] = 0.0f;
        }
    }
    // Products that are added apart are independent of each other, and with several depths at a
    // time ptxas would spill registers to have many in flight.
    constexpr int kUnroll = std::is_same_v<T, float> ? 1 : kCols / kDepth<T>;
#pragma unroll kUnroll
    for (int depth = 0; depth < kCols; depth += kDepth<T>) {
        Left<T> a[kM];
#pragma unroll
        for (int m = 0; m < kM; ++m) a[m] = left(m, depth);
#pragma unroll
        for (int n = 0; n < kN; n += 2) {
            const Right<T> right = right_by_rows(b, 8 * n, depth);
#pragma unroll
            for (int m = 0; m < kM; ++m) multiply(sums[m][n], sums[m][n + 1], a[m], right);
        }
    }
}

// sums[m] += a[m] b, where a[m] are sums themselves, 16 rows, and b has 8 kN rows.
template <int kM, int kN, int kO, class T, int kCols>
BYHAND_DEVICE void add_product(Sums (&sums)[kM][kO], const Sums (&a)[kM][kN],
                               SharedTile<T, kCols> b) {
    static_assert(8 * kO == kCols);
    constexpr int kStep = kDepth<T> / 8;
    constexpr bool kApart = kCols <= 64;  // for wider tiles there are no registers
#pragma unroll
    for (int n = 0; n < kN; n += kStep) {
        Left<T> left[kM];
#pragma unroll
        for (int m = 0; m < kM; ++m) left[m].set(&a[m][n]);
#pragma unroll
        for (int o = 0; o < kO; o += 2) {
            const Right<T> right = right_by_columns(b, 8 * n, 8 * o);
#pragma unroll
            for (int m = 0; m < kM; ++m) {
                multiply<kApart>(sums[m][o], sums[m][o + 1], left[m], right);
            }
        }
    }
}

}  // namespace byhand
