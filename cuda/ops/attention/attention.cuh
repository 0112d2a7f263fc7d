// Shared by the CUDA kernels of attention: tiles of scores, the dropout of probabilities, and the
// copies of tiles between global and shared memory.
//
//     attention_call.cuh     the arrays of a call, and which query sees which key
//     attention_forward.cu   a block has some queries and iterates over the keys
//     attention_backward.cu  a block has some keys (for dk and dv) or some queries (for dq) and
//                            iterates over the others
//     attention_few.cuh      very few queries, as in decoding: the keys are divided among blocks
//     attention_bias.cuh     the gradient of the bias: a block has a tile of it
//
// What few calls have - a cap of scores, slopes, a bias, packed sequences - is computed by kernels
// of their own (kMore), so that the others keep their registers.
//
// All follow FlashAttention-2 (Dao 2023): scores stay in registers and are recomputed by the
// backward pass. There are no atomics: every sum is computed by one thread or in a fixed order.
//
// The kernels with tiles are sized for two blocks of four warps per multiprocessor, so that one
// block's softmax overlaps the other's products: at most 255 registers per thread, and 81 KiB of
// shared memory per block (a multiprocessor has 164 on sm_80, 228 on sm_90). float32 heads of more
// than 64 dimensions need 132 KiB in the backward pass and have one block per multiprocessor.
#pragma once

#include "core/mma.cuh"
#include "core/team.cuh"
#include "ops/attention/attention_call.cuh"

namespace byhand {

// 2^x for results stored as T, as exp_for.
template <class T>
BYHAND_DEVICE float exp2_for(float x) {
    if constexpr (std::is_same_v<T, bf16>) {
        return fast_exp2(x);
    } else {
        return exp2f(x);
    }
}

// --- A tile of scores ---------------------------------------------------------------------------
//
// A warp holds 16 kM rows by 8 kN columns. With kQueryRows rows are queries and columns are keys,
// else the other way round. Calls f(m, n, i, query, key) for each of a lane's scores.
template <bool kQueryRows, int kM, int kN, class F>
BYHAND_DEVICE void for_scores(int row0, int col0, F&& f) {
    const int lane = lane_id();
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
        for (int n = 0; n < kN; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int row = row0 + 16 * m + i / 2 * 8 + lane / 4;
                const int col = col0 + 8 * n + lane % 4 * 2 + i % 2;
                kQueryRows ? f(m, n, i, row, col) : f(m, n, i, col, row);
            }
        }
    }
}

// Hides row0 from the compiler, so that values computed from it are not kept in registers from tile
// to tile.
BYHAND_DEVICE int known_here_only(int row0) {
    auto bits = static_cast<unsigned>(row0);
    forget(bits);
    return static_cast<int>(bits);
}

// Sets one bit for each of a lane's scores: whether its key is seen. Returns false if no score of
// the warp is.
template <bool kQueryRows, int kN, int kM, class T, bool kMore>
BYHAND_DEVICE bool look(unsigned (&seen)[kM], const Sight<T, kMore>& sight, int row0, int col0) {
    static_assert(4 * kN <= 32);
    row0 = known_here_only(row0);
#pragma unroll
    for (int m = 0; m < kM; ++m) seen[m] = 0;
    for_scores<kQueryRows, kM, kN>(row0, col0, [&](int m, int n, int i, int query, int key) {
        seen[m] |= static_cast<unsigned>(sight.seen(query, key)) << (4 * n + i);
    });
    unsigned some = 0;
#pragma unroll
    for (int m = 0; m < kM; ++m) some |= seen[m];
    return any_lane(some != 0);
}

// Calls f(m, n, i) for each of a lane's sums.
template <int kM, int kN, class F>
BYHAND_DEVICE void for_sums(const Sums (&)[kM][kN], F&& f) {
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
        for (int n = 0; n < kN; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) f(m, n, i);
        }
    }
}

template <int kM, int kN>
BYHAND_DEVICE void hide(Sums (&s)[kM][kN], const unsigned (&seen)[kM]) {
    for_sums(s, [&](int m, int n, int i) {
        if ((seen[m] >> (4 * n + i) & 1) == 0) s[m][n][i] = -infinity();
    });
}

template <int kM, int kN>
BYHAND_DEVICE void negate(Sums (&s)[kM][kN]) {
    for_sums(s, [&](int m, int n, int i) { s[m][n][i] = -s[m][n][i]; });
}

// cap tanh(s / cap) (Gemma 2, 2024) and the derivative.
BYHAND_DEVICE float capped(float s, float cap) { return cap * tanhf(s / cap); }
BYHAND_DEVICE float cap_derivative(float s, float cap) {
    const float y = tanhf(s / cap);
    return (1.0f - y) * (1.0f + y);
}

// The score of one key from q k: the scale, the cap, the slope (Press et al. 2022) and the bias.
template <class T>
BYHAND_DEVICE float adjusted(float s, const Attention<T>& a, int b, int h, int query, int key) {
    s *= a.scale;
    if (a.softcap > 0.0f) s = capped(s, a.softcap);
    if (a.slopes != nullptr) {
        const int ahead = key - (query + a.keys - a.queries);
        s = fmaf(a.slopes[h], static_cast<float>(ahead), s);
    }
    if (a.bias != nullptr && query < a.queries && key < a.keys) {
        s += to_float(a.bias[b * a.bias_stride[0] + h * a.bias_stride[1] +
                             query * a.bias_stride[2] + key * a.bias_stride[3]]);
    }
    return s;
}

template <bool kQueryRows, int kM, int kN, class T>
BYHAND_DEVICE void adjust(Sums (&s)[kM][kN], const Attention<T>& a, int b, int h, int row0,
                          int col0) {
    if (!a.adjusts) return;
    row0 = known_here_only(row0);
    for_scores<kQueryRows, kM, kN>(row0, col0, [&](int m, int n, int i, int query, int key) {
        s[m][n][i] = adjusted(s[m][n][i], a, b, h, query, key);
    });
}

// The 16 random bits of a key, from the group of eight keys that lane `from` has drawn. All lanes
// of the warp must call it.
BYHAND_DEVICE unsigned bits_of_key(const PhiloxGroup& drawn, int from, int key) {
    unsigned word = 0;
#pragma unroll
    for (int w = 0; w < 4; ++w) {
        const unsigned theirs = shuffle(drawn.word[w], from);
        if (w == key / 2) word = theirs;
    }
    return key % 2 == 0 ? word & 0xffffu : word >> 16;
}

// Calls f(m, n, i, whether dropout keeps it) for each of a lane's scores of head bh. A group of
// random bits belongs to eight keys of one query, which several lanes hold: each lane draws other
// groups, and the lanes exchange their bits.
template <bool kQueryRows, int kM, int kN, class T, class F>
BYHAND_DEVICE void for_drawn(const Attention<T>& a, int64_t bh, int row0, int col0, F&& f) {
    constexpr auto kEight = static_cast<int>(kPhiloxElements);
    static_assert(kEight == 8 && kN % (kQueryRows ? 4 : 2) == 0);
    row0 = known_here_only(row0);
    const int lane = lane_id();
    const int64_t groups = (a.keys + kEight - 1) / kEight;
    const auto draw = [&](int query, int key) {
        const int64_t group = (bh * a.queries + query) * groups + key / kEight;
        return philox(a.seed, static_cast<std::uint64_t>(group), a.offset.value());
    };
    if constexpr (kQueryRows) {
        // Four lanes hold a row: each of them draws every fourth group of keys.
#pragma unroll
        for (int m = 0; m < kM; ++m) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int query = row0 + 16 * m + 8 * half + lane / 4;
#pragma unroll
                for (int n0 = 0; n0 < kN; n0 += 4) {
                    const PhiloxGroup drawn = draw(query, col0 + 8 * (n0 + lane % 4));
#pragma unroll
                    for (int n = n0; n < n0 + 4; ++n) {
#pragma unroll
                        for (int i = 0; i < 2; ++i) {
                            const int from = lane / 4 * 4 + n - n0, key = lane % 4 * 2 + i;
                            const unsigned bits = bits_of_key(drawn, from, key);
                            f(m, n, 2 * half + i, bits >= a.rule.threshold);
                        }
                    }
                }
            }
        }
    } else {
        // The warp draws the 32 groups of 16 keys and 16 queries.
#pragma unroll
        for (int m = 0; m < kM; ++m) {
#pragma unroll
            for (int n0 = 0; n0 < kN; n0 += 2) {
                const PhiloxGroup drawn =
                    draw(col0 + 8 * n0 + lane % 16, row0 + 16 * m + lane / 16 * 8);
#pragma unroll
                for (int n = n0; n < n0 + 2; ++n) {
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        const int query = 8 * (n - n0) + lane % 4 * 2 + i % 2;
                        const unsigned bits = bits_of_key(drawn, i / 2 * 16 + query, lane / 4);
                        f(m, n, i, bits >= a.rule.threshold);
                    }
                }
            }
        }
    }
}

// --- Copies of tiles between global and shared memory -------------------------------------------

// Loads rows first .. first + kRows - 1, with zeros from row `end` and from column `cols` on. If
// rows are packed the copies are asynchronous, in the group that the caller commits next.
template <int kRows, int kThreads, class T, int kCols>
BYHAND_DEVICE void fetch(SharedTile<T, kCols> to, Rows<const T> from, int first, int end, int cols,
                         bool packed) {
    constexpr int kPacks = kCols / kPack<T>;
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < kRows * kPacks; i += kThreads) {
        const int row = i / kPacks, col = i % kPacks * kPack<T>;
        const bool here = first + row < end;
        const T* source = from.row(here ? first + row : 0);
        if (packed) {
            const bool whole = here && col < cols;
            copy_async16(to.at(row, col), whole ? source + col : from.data, whole);
        } else {
#pragma unroll
            for (int c = col; c < col + kPack<T>; ++c) {
                *to.at(row, c) = here && c < cols ? source[c] : from_float<T>(0.0f);
            }
        }
    }
}

// Stores the sums of a warp to the rows first .. end-1 of global memory, through the warp's own
// rows in shared memory, so that whole packs are written.
template <class T, int kCols, int kM, int kN>
BYHAND_DEVICE void write_back(Rows<T> to, int first, int end, int cols, bool packed,
                              SharedTile<T, kCols> by, const Sums (&sums)[kM][kN]) {
    const int lane = lane_id();
    sync_warp();
    for_sums(sums, [&](int m, int n, int i) {
        const int row = 16 * m + i / 2 * 8 + lane / 4, col = 8 * n + lane % 4 * 2 + i % 2;
        *by.at(row, col) = from_float<T>(sums[m][n][i]);
    });
    sync_warp();
    constexpr int kPacks = kCols / kPack<T>;
#pragma unroll 1
    for (int i = lane; i < 16 * kM * kPacks; i += kWarp) {
        const int row = i / kPacks, col = i % kPacks * kPack<T>;
        if (first + row >= end) break;
        T* target = to.row(first + row);
        if (packed) {
            if (col < cols) store16_global(target + col, load16(by.at(row, col)));
        } else {
            for (int c = col; c < min(col + kPack<T>, cols); ++c) target[c] = *by.at(row, c);
        }
    }
}

// Calls f(columns) with the fewest columns of tiles that hold heads of D dimensions.
template <class T, class F>
void for_depth(int D, F&& f) {
    using std::integral_constant;
    if (D <= 32) return f(integral_constant<int, 32>{});
    if (D <= 64) return f(integral_constant<int, 64>{});
    if constexpr (std::is_same_v<T, bf16>) {
        if (D <= 80) return f(integral_constant<int, 80>{});
        if (D <= 96) return f(integral_constant<int, 96>{});
    }
    f(integral_constant<int, 128>{});
}

}  // namespace byhand
