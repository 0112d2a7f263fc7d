// The arguments of a call of attention, and which query sees which key.
#pragma once

#include "core/cuda.cuh"
#include "core/pack.cuh"
#include "core/team.cuh"
#include "ops/attention/attention.h"
#include "random/philox.h"

namespace byhand {

constexpr float kLog2e = 1.44269504f, kLn2 = 0.693147181f;
constexpr int kMostDepth = 128;                       // dimensions of a head
constexpr int kWarps = 4, kThreads = kWarps * kWarp;  // of every kernel's blocks
constexpr int kSharedOfTwo = 81 * 1024;  // bytes, besides the reserved KiB of each block

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
    const float* slopes;
    const T* bias;
    int64_t bias_stride[4];
    const int64_t* sequences;
    // p = 2^(exponent * s - ...), where s is q k, or -q k if negative; but if something acts on the
    // scores, `adjust` multiplies by the scale.
    float scale, exponent, softcap;
    bool adjusts, negative, causal;
    int window;
    DropoutRule rule;
    std::uint64_t seed;
    Offset offset;
    bool packed;

    Attention(const StridedIn& q, const StridedIn& k, const StridedIn& v,
              const Maybe<StridedIn>& mask, const Maybe<In>& lengths, const Maybe<In>& slopes,
              const Maybe<StridedIn>& bias, const Maybe<In>& sequences, double scale, bool causal,
              int64_t window, double softcap, double dropout, std::uint64_t seed, Offset offset)
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
          slopes(slopes.as<float>()),
          bias(bias.as<T>()),
          sequences(sequences.as<int64_t>()),
          scale(static_cast<float>(scale)),
          // Not 0, because 0 times the score of an unseen key, -inf, would be NaN.
          exponent(static_cast<float>(std::max(std::abs(scale) * 1.4426950408889634, 1e-37))),
          softcap(static_cast<float>(softcap)),
          adjusts(slopes || bias || softcap > 0),
          negative(!adjusts && scale < 0),
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
        if (adjusts) exponent = kLog2e;
        for (int i = 0; i < 4; ++i) mask_stride[i] = mask.stride[i];
        for (int i = 0; i < 4; ++i) {
            bias_stride[i] = i < 2 && bias.shape[i] == 1 ? 0 : bias.stride[i];
        }
    }
    // Whether this call needs the kernels with kMore.
    bool more() const { return adjusts || sequences != nullptr; }

    // The number of keys of a batch entry.
    BYHAND_DEVICE int keys_of(int b) const {
        if (lengths == nullptr) return keys;
        return static_cast<int>(max(int64_t{0}, min(int64_t{keys}, lengths[b])));
    }
};

struct Span {
    int first, end;
};

// The first of n numbers in ascending order that is at least x.
BYHAND_DEVICE int first_from(const int64_t* numbers, int n, int64_t x) {
    int first = 0;
    while (first < n) {
        const int middle = (first + n) / 2;
        numbers[middle] < x ? first = middle + 1 : n = middle;
    }
    return first;
}

// Which keys the queries of one head see. kMore: there may be packed sequences.
template <class T, bool kMore>
struct Sight {
    const Attention<T>& a;
    int keys, diagonal;  // query i is at the position of key i + diagonal
    const bool* mask;
    const int64_t* sequence;  // the number of each position's

    BYHAND_DEVICE Sight(const Attention<T>& a, int b, int h)
        : a(a),
          keys(a.keys_of(b)),
          diagonal(a.keys - a.queries),
          mask(a.mask == nullptr ? nullptr : a.mask + b * a.mask_stride[0] + h * a.mask_stride[1]),
          sequence(!kMore || a.sequences == nullptr ? nullptr
                                                    : a.sequences + int64_t{b} * a.queries) {}

    BYHAND_DEVICE bool seen(int i, int j) const {
        const int ahead = j - (i + diagonal);
        bool seen = i < a.queries && j < keys && (!a.causal || ahead <= 0);
        if (a.window > 0) seen = seen && ahead < a.window && -ahead < a.window;
        if constexpr (kMore) {
            if (sequence != nullptr && seen) seen = sequence[i] == sequence[j];
        }
        if (mask != nullptr && seen) seen = mask[i * a.mask_stride[2] + j * a.mask_stride[3]];
        return seen;
    }
    // Whether all of these queries see all of these keys.
    BYHAND_DEVICE bool all_seen(int i, int queries, int j, int many) const {
        const int last = j + many - 1 - (i + diagonal), first = j - (i + queries - 1 + diagonal);
        bool all = i + queries <= a.queries && j + many <= keys && (!a.causal || last <= 0);
        if (a.window > 0) all = all && last < a.window && -first < a.window;
        if constexpr (kMore) {
            if (sequence != nullptr && all) {
                all = sequence[min(i, j)] == sequence[max(i + queries, j + many) - 1];
            }
        }
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
        within_sequences(span, i, end);
        return span;
    }
    BYHAND_DEVICE Span queries_of(int j, int end) const {
        Span span = {0, j < keys ? a.queries : 0};
        if (a.window > 0) {
            span.first = max(0, j - diagonal - a.window + 1);
            span.end = min(span.end, end - 1 - diagonal + a.window);
        }
        if (a.causal) span.first = max(span.first, j - diagonal);
        within_sequences(span, j, end);
        return span;
    }

  private:
    // Leaves of a span what is in the sequences of the positions [begin, end).
    BYHAND_DEVICE void within_sequences(Span& span, int begin, int end) const {
        if constexpr (kMore) {
            if (sequence == nullptr || begin >= end) return;
            span.first = max(span.first, first_from(sequence, a.keys, sequence[begin]));
            span.end = min(span.end, first_from(sequence, a.keys, sequence[end - 1] + 1));
        }
    }
};

}  // namespace byhand
