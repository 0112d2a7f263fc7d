#include "ops/attention/attention.cuh"
#include "ops/attention/attention_few.cuh"

namespace byhand {
namespace {

// A warp processes 16 kM queries, kKeys keys at a time. Its registers hold o, the scores and, if
// they fit, the queries.
template <class T, int kCols, bool kMore>
struct Forward {
    static constexpr bool kHalf = std::is_same_v<T, bf16>;
    static constexpr int kM = kHalf && kCols <= 80 && !kMore ? 2 : 1;
    static constexpr int kKeys = kM == 1 && kCols <= (kHalf ? 96 : 64) && !kMore ? 64 : 32;
    static constexpr bool kKeepQueries = kHalf && kM == 1;
    static constexpr int kQueries = 16 * kM * kWarps;
    using Tile = SharedTile<T, kCols>;
    static constexpr int kShared = Tile::size(kQueries + 2 * kKeys) * static_cast<int>(sizeof(T));
    static_assert(kShared <= kSharedOfTwo);
};

// The online softmax to base 2, tile by tile: a lane's part of the rows lane/4 and lane/4 + 8
// (Milakov and Gimelshein 2018, algorithm 3; Dao 2023, section 3.1).
template <class T, int kN>
struct RunningSoftmax {
    float top[2] = {-infinity(), -infinity()}, sum[2] = {0.0f, 0.0f};

    // Replaces scores by exponentials relative to the new maximum; shrink holds the factors for the
    // old sums.
    BYHAND_DEVICE void add(Sums (&s)[kN], float exponent, float (&shrink)[2]) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float highest = top[half];
#pragma unroll
            for (int n = 0; n < kN; ++n) {
                highest = fmaxf(highest, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
            }
            highest = reduce_warp<4>(highest, Max{});
            // While no key was seen, the base is 0, because -inf - -inf is NaN.
            const float base = highest == -infinity() ? 0.0f : highest * exponent;
            shrink[half] = exp2_for<T>(fmaf(top[half], exponent, -base));
            top[half] = highest;
            float added = 0.0f;
#pragma unroll
            for (int n = 0; n < kN; ++n) {
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; ++i) {
                    s[n][i] = exp2_for<T>(fmaf(s[n][i], exponent, -base));
                    added += s[n][i];
                }
            }
            sum[half] = fmaf(sum[half], shrink[half], added);
        }
    }
    BYHAND_DEVICE void join() {
        sum[0] = reduce_warp<4>(sum[0], Add{});
        sum[1] = reduce_warp<4>(sum[1], Add{});
    }
    BYHAND_DEVICE float lse(int half, float exponent) const {
        return top[half] == -infinity() ? -infinity()
                                        : fmaf(top[half] * exponent, kLn2, logf(sum[half]));
    }
};

template <class T, int kCols, bool kMore>
__global__ void __launch_bounds__(kThreads, 1)
    attention_forward_tiles(const __grid_constant__ Attention<T> a, Rows<T> o, bool o_packed,
                            float* lse) {
    using F = Forward<T, kCols, kMore>;
    constexpr int kM = F::kM, kN = F::kKeys / 8, kO = kCols / 8;
    BYHAND_DYNAMIC_SHARED(bytes);
    const typename F::Tile queries{reinterpret_cast<T*>(bytes)};
    const auto keys = queries.from(F::kQueries), values = keys.from(F::kKeys);

    // With causality the last queries have the most work: they are started first.
    const int blocks = (a.queries + F::kQueries - 1) / F::kQueries;
    const int block = static_cast<int>(blockIdx.x);
    const int bh = block / blocks, b = bh / a.H, h = bh % a.H, group = h / a.group;
    const int i0 = (blocks - 1 - block % blocks) * F::kQueries;
    const int row0 = i0 + 16 * kM * warp_id();  // of the warp
    const Rows<const T> q = a.q.of(b, h), k = a.k.of(b, group), v = a.v.of(b, group);
    const Sight<T, kMore> sight(a, b, h);
    const Span span = sight.keys_of(i0, min(i0 + F::kQueries, a.queries));
    const auto mine = queries.from(16 * kM * warp_id());

    Sums sums[kM][kO] = {};
    RunningSoftmax<T, kN> softmax[kM];
    Left<T> kept[F::kKeepQueries ? kCols / kDepth<T> : 1][kM] = {};
    const auto left = [&](int m, int depth) {
        if constexpr (F::kKeepQueries) return kept[depth / kDepth<T>][m];
        return left_of(mine, 16 * m, depth);
    };

    const int first = span.first / F::kKeys * F::kKeys;
    fetch<F::kQueries, kThreads>(queries, q, i0, a.queries, a.D, a.packed);
    if (first < span.end) {
        fetch<F::kKeys, kThreads>(keys, k, first, sight.keys, a.D, a.packed);
    }
    copy_async_commit();
    for (int j0 = first; j0 < span.end; j0 += F::kKeys) {
        copy_async_wait<0>();
        sync_block();  // the keys have arrived, and the previous values are no longer read
        fetch<F::kKeys, kThreads>(values, v, j0, sight.keys, a.D, a.packed);
        copy_async_commit();
        if (F::kKeepQueries && j0 == first) {
#pragma unroll
            for (int depth = 0; depth < kCols; depth += kDepth<T>) {
#pragma unroll
                for (int m = 0; m < kM; ++m) {
                    kept[depth / kDepth<T>][m] = left_of(mine, 16 * m, depth);
                }
            }
        }
        const bool whole = sight.all_seen(row0, 16 * kM, j0, F::kKeys);
        unsigned seen[kM];
        const bool some = whole || look<true, kN>(seen, sight, row0, j0);
        Sums s[kM][kN];
        if (some) product_transposed(s, keys, left);
        copy_async_wait<0>();
        sync_block();  // the values have arrived, and the keys are no longer read
        if (j0 + F::kKeys < span.end) {
            fetch<F::kKeys, kThreads>(keys, k, j0 + F::kKeys, sight.keys, a.D, a.packed);
        }
        copy_async_commit();
        if (!some) continue;

        if (a.negative) negate(s);
        if constexpr (kMore) adjust<true>(s, a, b, h, row0, j0);
        if (!whole) hide(s, seen);
        float shrink[kM][2];
#pragma unroll
        for (int m = 0; m < kM; ++m) {
            softmax[m].add(s[m], a.exponent, shrink[m]);
        }
        for_sums(sums, [&](int m, int n, int i) { sums[m][n][i] *= shrink[m][i / 2]; });
        if (a.rule.threshold > 0) {
            for_drawn<true, kM, kN>(a, bh, row0, j0, [&](int m, int n, int i, bool kept) {
                if (!kept) s[m][n][i] = 0.0f;
            });
        }
        add_product(sums, s, values);
    }
    copy_async_wait<0>();
    sync_block();  // the rows of a warp were loaded by all warps

    float factor[kM][2];
#pragma unroll
    for (int m = 0; m < kM; ++m) {
        softmax[m].join();
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float sum = softmax[m].sum[half];
            factor[m][half] = sum == 0.0f ? 0.0f : a.rule.scale / sum;
            const int row = row0 + 16 * m + 8 * half + lane_id() / 4;
            if (lane_id() % 4 == 0 && row < a.queries) {
                lse[int64_t{bh} * a.queries + row] = softmax[m].lse(half, a.exponent);
            }
        }
    }
    for_sums(sums, [&](int m, int n, int i) { sums[m][n][i] *= factor[m][i / 2]; });
    const Rows<T> target{o.row(int64_t{b} * a.queries) + h * a.D, o.stride};
    write_back(target, row0, a.queries, a.D, o_packed, mine, sums);
}

template <class T>
void forward(const Out& o, const Out& lse, const Out& work, const Attention<T>& a, Stream stream) {
    const char* name = "attention_forward";
    const Rows<T> rows{o.as<T>(), int64_t{a.H} * a.D};
    if (a.B == 0 || a.H == 0 || a.queries == 0) return;
    if (a.queries <= kFewQueries && a.rule.threshold == 0) {
        return forward_few(name, a, rows, lse.as<float>(), work, stream);
    }
    for_depth<T>(a.D, [&](auto cols) {
        const auto run = [&](auto more) {
            using F = Forward<T, cols(), more()>;
            const int64_t blocks = (a.queries + F::kQueries - 1) / F::kQueries;
            launch_shared(name, attention_forward_tiles<T, cols(), more()>,
                          dim3(blocks_for(a.heads * blocks, 1)), dim3(kThreads), F::kShared, stream,
                          a, rows, packable<T>(a.D, rows.data), lse.as<float>());
        };
        a.more() ? run(std::true_type{}) : run(std::false_type{});
    });
}

}  // namespace

void attention_forward(Out o, Out lse, Out work, StridedIn q, StridedIn k, StridedIn v,
                       Maybe<StridedIn> mask, Maybe<In> lengths, Maybe<In> slopes,
                       Maybe<StridedIn> bias, Maybe<In> sequences, double scale, bool causal,
                       int64_t window, double softcap, double dropout, std::uint64_t seed,
                       Offset offset, Stream stream) {
    for_storage(q, [&](auto zero) {
        using T = decltype(zero);
        const Attention<T> a(q, k, v, mask, lengths, slopes, bias, sequences, scale, causal, window,
                             softcap, dropout, seed, offset);
        forward(o, lse, work, a, stream);
    });
}

}  // namespace byhand
