// Shared by the CUDA kernels of attention: the arrays of a call, which query sees which key, the
// dropout of probabilities, and the copies of tiles between global and shared memory.
//
//     attention_forward.cu   a block has some queries and iterates over the keys
//     attention_backward.cu  a block has some keys (for dk and dv) or some queries (for dq) and
//                            iterates over the others
//     attention_few.cuh      very few queries, as in decoding: the keys are divided among blocks
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
#include "ops/attention/attention.h"
#include "random/philox.h"

namespace byhand {

constexpr float kLog2e = 1.44269504f, kLn2 = 0.693147181f;
constexpr int kMostDepth = 128;                       // dimensions of a head
constexpr int kWarps = 4, kThreads = kWarps * kWarp;  // of every kernel's blocks
constexpr int kSharedOfTwo = 81 * 1024;  // bytes, besides the reserved KiB of each block

// 2^x for results stored as T, as exp_for.
template <class T>
BYHAND_DEVICE float exp2_for(float x) {
    if constexpr (std::is_same_v<T, bf16>) {
        return fast_exp2(x);
    } else {
        return exp2f(x);
    }
}

// One head of a (B, T, H, D) array: each row has D adjacent elements.
template <class T>
struct Rows {
    T* data;
    int64_t stride;

    BYHAND_DEVICE T* row(int64_t i) const { return data + i * stride; }
};

template <class T>
struct Heads {
    T* data = nullptr;
    int64_t batch = 0, row = 0, head = 0;  // strides

    Heads() = default;
    explicit Heads(const Writable& a) : Heads(a, a.as<std::remove_const_t<T>>()) {}
    explicit Heads(const ReadOnly& a) : Heads(a, a.as<std::remove_const_t<T>>()) {}

    BYHAND_DEVICE Rows<T> of(int64_t b, int64_t h) const {
        return {data + b * batch + h * head, row};
    }
    // True if all rows can be read 16 bytes at a time.
    bool packed() const {
        return packable<std::remove_const_t<T>>(batch, data) && row % kPack<T> == 0 &&
               head % kPack<T> == 0;
    }

  private:
    Heads(const Array& a, T* data)
        : data(data), batch(a.stride[0]), row(a.stride[1]), head(a.stride[2]) {}
};

// The arguments of a call, except the tensors that it writes.
template <class T>
struct Attention {
    Heads<const T> q, k, v;
    int B, queries, keys, H, G, D;
    int64_t heads;  // of all batch entries together
    int group;      // query heads per head of keys
    const bool* mask;
    int64_t mask_stride[4];
    const int64_t* lengths;
    float scale, exponent;  // p = 2^(exponent * |q k| - ...); negative: by the sign of scale
    bool negative, causal;
    int window;
    DropoutRule rule;
    std::uint64_t seed;
    Offset offset;
    bool packed;

    Attention(const StridedIn& q, const StridedIn& k, const StridedIn& v,
              const Maybe<StridedIn>& mask, const Maybe<In>& lengths, double scale, bool causal,
              int64_t window, double dropout, std::uint64_t seed, Offset offset)
        : q(q),
          k(k),
          v(v),
          B(checked("attention", "batch entries", q.shape[0])),
          queries(checked("attention", "queries", q.shape[1])),
          keys(checked("attention", "keys", k.shape[1])),
          H(checked("attention", "heads", q.shape[2])),
          G(checked("attention", "heads", k.shape[2])),
          D(checked("attention", "dimensions", q.shape[3])),
          heads(q.shape[0] * q.shape[2]),
          group(G == 0 ? 1 : H / G),
          mask(mask.as<bool>()),
          lengths(lengths.as<int64_t>()),
          scale(static_cast<float>(scale)),
          // Not 0, because 0 times the score of an unseen key, -inf, would be NaN.
          exponent(static_cast<float>(std::max(std::abs(scale) * 1.4426950408889634, 1e-37))),
          negative(scale < 0),
          causal(causal),
          window(static_cast<int>(std::min(window, kMostAsInt))),
          rule(dropout),
          seed(seed),
          offset(offset),
          packed(D % kPack<T> == 0 && this->q.packed() && this->k.packed() && this->v.packed()) {
        if (q.shape[3] > kMostDepth) {
            throw std::invalid_argument("attention: the CUDA kernels take heads of at most " +
                                        std::to_string(kMostDepth) + " dimensions, got " +
                                        std::to_string(q.shape[3]));
        }
        for (int i = 0; i < 4; ++i) mask_stride[i] = mask.stride[i];
    }

    // The number of keys of a batch entry.
    BYHAND_DEVICE int keys_of(int b) const {
        if (lengths == nullptr) return keys;
        return static_cast<int>(max(int64_t{0}, min(int64_t{keys}, lengths[b])));
    }
};

struct Span {
    int first, end;
};

// Which keys the queries of one head see.
template <class T>
struct Sight {
    const Attention<T>& a;
    int keys, diagonal;  // query i is at the position of key i + diagonal
    const bool* mask;

    BYHAND_DEVICE Sight(const Attention<T>& a, int b, int h)
        : a(a),
          keys(a.keys_of(b)),
          diagonal(a.keys - a.queries),
          mask(a.mask == nullptr ? nullptr : a.mask + b * a.mask_stride[0] + h * a.mask_stride[1]) {
    }

    BYHAND_DEVICE bool seen(int i, int j) const {
        const int ahead = j - (i + diagonal);
        bool seen = i < a.queries && j < keys && (!a.causal || ahead <= 0);
        if (a.window > 0) seen = seen && ahead < a.window && -ahead < a.window;
        if (mask != nullptr && seen) seen = mask[i * a.mask_stride[2] + j * a.mask_stride[3]];
        return seen;
    }
    // Whether all of these queries see all of these keys.
    BYHAND_DEVICE bool all_seen(int i, int queries, int j, int many) const {
        const int last = j + many - 1 - (i + diagonal), first = j - (i + queries - 1 + diagonal);
        bool all = i + queries <= a.queries && j + many <= keys && (!a.causal || last <= 0);
        if (a.window > 0) all = all && last < a.window && -first < a.window;
        return all && mask == nullptr;
    }
    // The keys that some of the queries may see, and the queries that may see some of the keys.
    BYHAND_DEVICE Span keys_of(int i, int end) const {
        Span span = {0, keys};
        if (a.window > 0) {
            span.first = max(0, i + diagonal - a.window + 1);
            span.end = min(span.end, end - 1 + diagonal + a.window);
        }
        if (a.causal) span.end = min(span.end, end + diagonal);
        return span;
    }
    BYHAND_DEVICE Span queries_of(int j, int end) const {
        Span span = {0, j < keys ? a.queries : 0};
        if (a.window > 0) {
            span.first = max(0, j - diagonal - a.window + 1);
            span.end = min(span.end, end - 1 - diagonal + a.window);
        }
        if (a.causal) span.first = max(span.first, j - diagonal);
        return span;
    }
};

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
template <bool kQueryRows, int kN, int kM, class T>
BYHAND_DEVICE bool look(unsigned (&seen)[kM], const Sight<T>& sight, int row0, int col0) {
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
