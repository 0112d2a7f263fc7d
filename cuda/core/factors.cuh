// The fragments of a matrix product from factors in shared memory. Each factor has one of two
// layouts: its elements are adjacent along the depth of the product, or across it (kAcross).
#pragma once

#include "core/mma.cuh"

namespace byhand {

// A factor's tile in shared memory. Its rows are kLong elements long if kAcross, else kDeep.
// float32 across the depth is read element by element; the lanes of a warp read four rows and eight
// columns, which are in 32 different banks.
template <class T, bool kAcross, int kLong, int kDeep>
using Panel =
    std::conditional_t<kAcross, SharedTile<T, kLong, std::is_same_v<T, float> ? 8 : kPack<T>>,
                       SharedTile<T, kDeep>>;

// A lane's registers of 16 rows of the left factor, 32 bytes deep.
template <bool kAcross, class T, int kCols, int kGap>
BYHAND_DEVICE void left_words(unsigned (&w)[4], SharedTile<T, kCols, kGap> t, int row, int depth) {
    const int lane = lane_id();
    if constexpr (!kAcross) {
        ldmatrix_x4(w, t.at(row + lane % 16, depth + lane / 16 * kPack<T>));
    } else if constexpr (std::is_same_v<T, bf16>) {
        ldmatrix_x4_trans(w, t.at(depth + lane % 8 + lane / 16 * 8, row + lane / 8 % 2 * 8));
    } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            w[i] = bits_of(*t.at(depth + lane % 4 + i / 2 * 4, row + i % 2 * 8 + lane / 4));
        }
    }
}

// A lane's registers of 16 columns of the right factor.
template <bool kAcross, class T, int kCols, int kGap>
BYHAND_DEVICE void right_words(unsigned (&w)[4], SharedTile<T, kCols, kGap> t, int col, int depth) {
    const int lane = lane_id();
    if constexpr (!kAcross) {
        ldmatrix_x4(w, t.at(col + lane % 8 + lane / 16 * 8, depth + lane / 8 % 2 * kPack<T>));
    } else if constexpr (std::is_same_v<T, bf16>) {
        ldmatrix_x4_trans(w, t.at(depth + lane % 16, col + lane / 16 * 8));
    } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            w[i] = bits_of(*t.at(depth + lane % 4 + i % 2 * 4, col + i / 2 * 8 + lane / 4));
        }
    }
}

BYHAND_DEVICE unsigned round_pair(unsigned low, unsigned high) {
    return pack_bf16(float_of(low), float_of(high));
}

// One product's depth of the left factor. Rounded: a lane holds elements t and t + 4 of every
// eight, although the bfloat16 instruction expects two neighbours. Because both factors are
// permuted in the same way, only the order in which products are added changes.
template <class F, bool kAcross, class Tile>
BYHAND_DEVICE Left<F> left_factor(Tile t, int row, int depth) {
    Left<F> left;
    unsigned w[4];
    left_words<kAcross>(w, t, row, depth);
    if constexpr (std::is_same_v<F, Rounded>) {
        unsigned more[4];
        left_words<kAcross>(more, t, row, depth + 8);
        left.set({round_pair(w[0], w[2]), round_pair(w[1], w[3]),  //
                  round_pair(more[0], more[2]), round_pair(more[1], more[3])});
    } else {
        left.set(w);
    }
    return left;
}

template <class F, bool kAcross, class Tile>
BYHAND_DEVICE Right<F> right_factor(Tile t, int col, int depth) {
    Right<F> right;
    unsigned w[4];
    right_words<kAcross>(w, t, col, depth);
    if constexpr (std::is_same_v<F, Rounded>) {
        unsigned more[4];
        right_words<kAcross>(more, t, col, depth + 8);
        right.set({round_pair(w[0], w[1]), round_pair(more[0], more[1]),  //
                   round_pair(w[2], w[3]), round_pair(more[2], more[3])});
    } else {
        right.set(w);
    }
    return right;
}

}  // namespace byhand
