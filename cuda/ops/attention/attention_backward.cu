#include "ops/attention/attention_bias.cuh"

namespace byhand {
namespace {

// Both kernels compute tiles of p and ds. The rows of a tile belong to the block, which iterates
// over the columns:
//
//                   rows    columns   p         dp        sums
//     of keys       k, v    q, do     f(k qT)   v doT     dv += p do,  dk += ds q
//     of queries    q, do   k, v      f(q kT)   do vT     dq += ds k
//
// In this form p and ds are left factors in the register layout in which they were computed.
template <class T, int kCols, bool kOfKeys, bool kMore>
struct Backward {
    static constexpr bool kHalf = std::is_same_v<T, bf16>;
    static constexpr int kM = kHalf && kCols <= (kOfKeys ? 64 : 96) && !kMore ? 2 : 1;
    static constexpr int kRows = 16 * kM * kWarps;  // of a block
    static constexpr int kWalked =                  // columns of a tile
        kOfKeys && (kMore || kM == 2 || (!kHalf && kCols == 64)) ? 16 : 32;
    using Tile = SharedTile<T, kCols>;
    // The two row tiles, two stages of the two column tiles, and lse and delta of those.
    static constexpr int kTiles = Tile::size(2 * kRows + 4 * kWalked) * static_cast<int>(sizeof(T));
    static constexpr int kShared = kTiles + (kOfKeys ? 4 * kWalked * 4 : 0);
    static_assert(kShared <= kSharedOfTwo || (!kHalf && kCols == 128),
                  "only this case has one block per multiprocessor");
};

template <class T, int kCols, bool kOfKeys, bool kMore>
__global__ void __launch_bounds__(kThreads, 1)
    attention_backward_tiles(const __grid_constant__ Attention<T> a,
                             const __grid_constant__ Gradients<T> g) {
    using F = Backward<T, kCols, kOfKeys, kMore>;
    constexpr int kM = F::kM, kN = F::kWalked / 8, kO = kCols / 8, kWalked = F::kWalked;
    BYHAND_DYNAMIC_SHARED(bytes);
    const typename F::Tile rows{reinterpret_cast<T*>(bytes)};
    const auto rows2 = rows.from(F::kRows), columns = rows2.from(F::kRows);
    auto* statistics = reinterpret_cast<RowStatistics*>(bytes + F::kTiles);
    const auto first_of = [&](int stage) { return columns.from(2 * stage * kWalked); };
    const auto second_of = [&](int stage) { return columns.from((2 * stage + 1) * kWalked); };

    // With causality the first keys and the last queries have the most work: they are started
    // first.
    const int length = kOfKeys ? a.keys : a.queries, blocks = (length + F::kRows - 1) / F::kRows;
    const int heads = kOfKeys ? a.G : a.H, block = static_cast<int>(blockIdx.x);
    const int b = block / blocks / heads, own = block / blocks % heads, at = block % blocks;
    const int start = (kOfKeys ? at : blocks - 1 - at) * F::kRows;
    const int row0 = start + 16 * kM * warp_id();  // of the warp
    const int group = kOfKeys ? own : own / a.group;
    const auto mine = rows.from(16 * kM * warp_id()), mine2 = rows2.from(16 * kM * warp_id());
    const auto dout = [&](int h) {
        return Rows<const T>{g.dout.row(int64_t{b} * a.queries) + h * a.D, g.dout.stride};
    };

    const int stop = min(start + F::kRows, length);
    const Sight<T, kMore> any(a, b, kOfKeys ? own * a.group : own);
    const Span span = kOfKeys ? any.queries_of(start, stop) : any.keys_of(start, stop);
    const int first = span.first / kWalked * kWalked;
    const int walks = span.end > first ? (span.end - first + kWalked - 1) / kWalked : 0;
    const int rounds = kOfKeys ? walks * a.group : walks;  // the heads of the group in order
    const auto head = [&](int round) { return kOfKeys ? own * a.group + round / walks : own; };
    const auto column = [&](int round) { return first + round % walks * kWalked; };
    const auto fetch_columns = [&](int round) {
        const int stage = round % 2;
        const int h = head(round), col = column(round);
        const int end = kOfKeys ? a.queries : any.keys;
        fetch<kWalked, kThreads>(first_of(stage), kOfKeys ? a.q.of(b, h) : a.k.of(b, group), col,
                                 end, a.D, a.packed);
        fetch<kWalked, kThreads>(second_of(stage), kOfKeys ? dout(h) : a.v.of(b, group), col, end,
                                 a.D, a.packed);
        if (kOfKeys && threadIdx.x < kWalked) {
            const int i = col + static_cast<int>(threadIdx.x);
            statistics[stage * kWalked + threadIdx.x] =
                RowStatistics::of(g, (int64_t{b} * a.H + h) * a.queries + i, i < a.queries);
        }
    };

    const int end = kOfKeys ? any.keys : a.queries;
    fetch<F::kRows, kThreads>(rows, kOfKeys ? a.k.of(b, group) : a.q.of(b, own), start, end, a.D,
                              a.packed);
    fetch<F::kRows, kThreads>(rows2, kOfKeys ? a.v.of(b, group) : dout(own), start, end, a.D,
                              a.packed);
    if (rounds > 0) fetch_columns(0);
    copy_async_commit();

    Sums d[kM][kO] = {}, dv[kOfKeys ? kM : 1][kOfKeys ? kO : 1] = {};
    RowStatistics row[kM][2];
    if constexpr (!kOfKeys) {
#pragma unroll
        for (int m = 0; m < kM; ++m) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int i = row0 + 16 * m + 8 * half + lane_id() / 4;
                row[m][half] =
                    RowStatistics::of(g, (int64_t{b} * a.H + own) * a.queries + i, i < a.queries);
            }
        }
    }

    for (int round = 0; round < rounds; ++round) {
        copy_async_wait<0>();
        sync_block();  // this stage has arrived, and the other one is no longer read
        if (round + 1 < rounds) fetch_columns(round + 1);
        copy_async_commit();
        const int stage = round % 2;
        const int col0 = column(round), bh = b * a.H + head(round);
        const Sight<T, kMore> sight(a, b, head(round));
        const bool whole = kOfKeys ? sight.all_seen(col0, kWalked, row0, 16 * kM)
                                   : sight.all_seen(row0, 16 * kM, col0, kWalked);
        unsigned seen[kM];
        if (!whole && !look<!kOfKeys, kN>(seen, sight, row0, col0)) continue;

        const auto statistics_of = [&](int m, int n, int i) {
            return kOfKeys ? statistics[stage * kWalked + 8 * n + lane_id() % 4 * 2 + i % 2]
                           : row[m][i / 2];
        };
        Sums p[kM][kN], dp[kM][kN];
        product_transposed(p, first_of(stage),
                           [&](int m, int depth) { return left_of(mine, 16 * m, depth); });
        if (a.negative) negate(p);
        if constexpr (kMore) adjust<!kOfKeys>(p, a, b, head(round), row0, col0);
        if (!whole) hide(p, seen);
        product_transposed(dp, second_of(stage),
                           [&](int m, int depth) { return left_of(mine2, 16 * m, depth); });
        for_sums(p, [&](int m, int n, int i) {
            p[m][n][i] = exp2_for<T>(fmaf(p[m][n][i], a.exponent, -statistics_of(m, n, i).lse));
        });
        // ds = p * (z dp - delta), and for dv p becomes z p, with z = 0 or 1/(1 - dropout).
        if (a.rule.threshold == 0) {
            for_sums(p, [&](int m, int n, int i) {
                dp[m][n][i] = p[m][n][i] * (dp[m][n][i] - statistics_of(m, n, i).delta);
            });
        } else {
            for_drawn<!kOfKeys, kM, kN>(a, bh, row0, col0, [&](int m, int n, int i, bool kept) {
                const float z = kept ? a.rule.scale : 0.0f;
                const float ds = z * dp[m][n][i] - statistics_of(m, n, i).delta;
                dp[m][n][i] = p[m][n][i] * ds;
                p[m][n][i] *= z;
            });
        }
        if constexpr (kOfKeys) add_product(dv, p, second_of(stage));
        if (kMore && a.softcap > 0.0f) {  // p has been used: its registers hold q k again
            product_transposed(p, first_of(stage),
                               [&](int m, int depth) { return left_of(mine, 16 * m, depth); });
            for_sums(p, [&](int m, int n, int i) {
                dp[m][n][i] *= cap_derivative(a.scale * p[m][n][i], a.softcap);
            });
        }
        add_product(d, dp, first_of(stage));
    }
    copy_async_wait<0>();
    sync_block();  // the rows of a warp were loaded by all warps

    for_sums(d, [&](int m, int n, int i) { d[m][n][i] *= a.scale; });
    write_back(kOfKeys ? g.dk.of(b, own) : g.dq.of(b, own), row0, stop, a.D, g.packed, mine, d);
    if constexpr (kOfKeys) write_back(g.dv.of(b, own), row0, stop, a.D, g.packed, mine2, dv);
}

// delta (B, H, T) = the sums of do * o over D; eight lanes per row.
template <class T, int V>
__global__ void __launch_bounds__(kThreads, 1)
    attention_row_sums(float* delta, const T* dout, const T* o, int64_t rows, int queries, int H,
                       int D) {
    constexpr int kLanes = 8, kRows = kThreads / kLanes;
    const int rank = static_cast<int>(threadIdx.x) % kLanes;
    const int64_t row = static_cast<int64_t>(blockIdx.x) * kRows + threadIdx.x / kLanes;
    float sum = 0.0f;
    for (int col = rank * V; row < rows && col < D; col += kLanes * V) {
        float a[V], b[V];
        load(a, dout + row * D + col);
        load(b, o + row * D + col);
#pragma unroll
        for (int j = 0; j < V; ++j) sum = fmaf(a[j], b[j], sum);
    }
    sum = reduce_warp<kLanes>(sum, Add{});
    const int64_t h = row % H, i = row / H % queries, b = row / H / queries;
    if (rank == 0 && row < rows) delta[(b * H + h) * queries + i] = sum;
}

template <class T>
void backward(const Attention<T>& a, const Gradients<T>& g, const Out& work, const In& o,
              Stream stream) {
    const char* name = "attention_backward";
    const int64_t rows = a.heads * a.queries;
    if (work.size() < rows) throw std::invalid_argument(std::string(name) + ": work is too small");
    if (rows > 0) {
        const T *from = g.dout.data, *out = o.as<T>();
        const auto kernel = packable<T>(a.D, from, out) ? attention_row_sums<T, kPack<T>>
                                                        : attention_row_sums<T, 1>;
        launch(name, kernel, dim3(blocks_for(rows, kThreads / 8)), dim3(kThreads), stream,
               work.as<float>(), from, out, rows, a.queries, a.H, a.D);
    }
    for_depth<T>(a.D, [&](auto cols) {
        const auto run = [&](auto of_keys, auto more, int heads, int length) {
            using F = Backward<T, cols(), of_keys(), more()>;
            const int64_t blocks = int64_t{a.B} * heads * ((length + F::kRows - 1) / F::kRows);
            if (blocks == 0) return;
            launch_shared(name, attention_backward_tiles<T, cols(), of_keys(), more()>,
                          dim3(blocks_for(blocks, 1)), dim3(kThreads), F::kShared, stream, a, g);
        };
        const auto both = [&](auto more) {
            run(std::true_type{}, more, a.G, a.keys);
            run(std::false_type{}, more, a.H, a.queries);
        };
        a.more() ? both(std::true_type{}) : both(std::false_type{});
    });
}

}  // namespace

void attention_backward(StridedOut dq, StridedOut dk, StridedOut dv, Maybe<Out> dbias, Out work,
                        In do_, StridedIn q, StridedIn k, StridedIn v, In o, In lse,
                        Maybe<StridedIn> mask, Maybe<In> lengths, Maybe<In> slopes,
                        Maybe<StridedIn> bias, Maybe<In> sequences, double scale, bool causal,
                        int64_t window, double softcap, double dropout, std::uint64_t seed,
                        Offset offset, Stream stream) {
    for_storage(q, [&](auto zero) {
        using T = decltype(zero);
        Attention<T> a(q, k, v, mask, lengths, slopes, bias, sequences, scale, causal, window,
                       softcap, dropout, seed, offset);
        Gradients<T> g{
            Heads<T>(dq),    Heads<T>(dk),     Heads<T>(dv), {do_.as<T>(), int64_t{a.H} * a.D},
            lse.as<float>(), work.as<float>(), false};
        a.packed = a.packed && packable<T>(a.D, g.dout.data);
        g.packed = a.D % kPack<T> == 0 && g.dq.packed() && g.dk.packed() && g.dv.packed();
        T* const to_bias = dbias ? dbias.as<T>() : nullptr;  // checks its dtype before any write
        backward(a, g, work, o, stream);
        if (dbias) bias_gradient(a, g, to_bias, dbias.shape, stream);
    });
}

}  // namespace byhand
