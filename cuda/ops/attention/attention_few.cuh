// Attention of very few queries with a long cache of keys, as in decoding. It is limited by reading
// the cache and uses no tensor cores. The keys are cut into pieces, one for each block, whose
// results a second kernel combines in order (Dao et al. 2023, "Flash-Decoding").
#pragma once

#include "ops/attention/attention.cuh"

namespace byhand {

constexpr int kFewQueries = 4;  // attention.forward_work_size in Python uses the same two numbers
constexpr int kPiece = 256;     // keys

namespace {

constexpr int kLanes = 8;                  // lanes of a team, which share a key
constexpr int kTeams = kThreads / kLanes;  // keys that a block reads at once

// The result for the keys of a piece so far: o = sum of p v with p = 2^(exponent s - top).
template <int N>
struct Part {
    float top = -infinity(), sum = 0.0f, o[N] = {};

    BYHAND_DEVICE void join(float other_top, float other_sum, const float (&other)[N]) {
        const float highest = fmaxf(top, other_top);
        const float base = highest == -infinity() ? 0.0f : highest;
        const float mine = exp2f(top - base), theirs = exp2f(other_top - base);
        top = highest;
        sum = fmaf(sum, mine, other_sum * theirs);
#pragma unroll
        for (int d = 0; d < N; ++d) o[d] = fmaf(o[d], mine, other[d] * theirs);
    }
    BYHAND_DEVICE void scale(float by) {
        sum *= by;
#pragma unroll
        for (int d = 0; d < N; ++d) o[d] *= by;
    }
    template <int kApart>
    BYHAND_DEVICE void join_lanes() {
        float other[N];
        const float other_top = shuffle_xor(top, kApart), other_sum = shuffle_xor(sum, kApart);
#pragma unroll
        for (int d = 0; d < N; ++d) other[d] = shuffle_xor(o[d], kApart);
        // The lower lane's part comes first, so that both lanes of a pair compute the same bits.
        if ((lane_id() & kApart) == 0) {
            join(other_top, other_sum, other);
        } else {
            Part first;
            first.top = other_top, first.sum = other_sum;
#pragma unroll
            for (int d = 0; d < N; ++d) first.o[d] = other[d];
            first.join(top, sum, o);
            *this = first;
        }
    }
};

// A block processes one piece of the keys and kRows of the rows that share them: the queries of the
// heads of one group. A lane has kPacks packs of kPackSize elements of every row.
template <class T, int kPackSize, int kPacks, int kRows, bool kMore>
__global__ void __launch_bounds__(kThreads, 1)
    attention_few_pieces(const __grid_constant__ Attention<T> a, float* work, int pieces) {
    constexpr int N = kPackSize * kPacks;
    constexpr int kAhead = N > 8 && kPackSize <= 4 ? 2 : 4;  // keys that are loaded ahead
    const int lane = lane_id(), rank = lane % kLanes;
    const int rows = a.queries * a.group;
    const int tiles = (rows + kRows - 1) / kRows, block = static_cast<int>(blockIdx.x);
    const int piece = block % pieces, first = block / pieces % tiles * kRows;
    const int bg = block / pieces / tiles, b = bg / a.G, g = bg % a.G;
    // The query of row r of the block; rows past the last one repeat it.
    const auto query = [&](int r) { return min(first + r, rows - 1) / a.group; };
    const auto head = [&](int r) { return g * a.group + min(first + r, rows - 1) % a.group; };
    const auto read = [&](Word<T, kPackSize>(&words)[kPacks], const T* row, bool here) {
#pragma unroll
        for (int p = 0; p < kPacks; ++p) {
            const int col = (p * kLanes + rank) * kPackSize;
            words[p] = here && col < a.D ? read_word<kPackSize>(row + col) : Word<T, kPackSize>{};
        }
    };
    const auto values = [](float (&v)[N], const Word<T, kPackSize>(&words)[kPacks]) {
#pragma unroll
        for (int p = 0; p < kPacks; ++p) {
            float part[kPackSize];
            unpack<T>(part, words[p]);
#pragma unroll
            for (int j = 0; j < kPackSize; ++j) v[p * kPackSize + j] = part[j];
        }
    };

    float q[kRows][N];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        Word<T, kPackSize> words[kPacks];
        read(words, a.q.of(b, head(r)).row(query(r)), true);
        values(q[r], words);
#pragma unroll
        for (int d = 0; d < N; ++d) {
            if (!kMore || !a.adjusts) q[r][d] *= a.negative ? -a.exponent : a.exponent;
        }
    }

    const Rows<const T> keys = a.k.of(b, g), vals = a.v.of(b, g);
    const int end = min(a.keys_of(b), (piece + 1) * kPiece);
    Part<N> part[kRows];
    for (int j0 = piece * kPiece; j0 < end; j0 += kTeams * kAhead) {
        const auto key = [&](int u) {
            return j0 + u * kTeams + static_cast<int>(threadIdx.x) / kLanes;
        };
        Word<T, kPackSize> k[kAhead][kPacks], v[kAhead][kPacks];
#pragma unroll
        for (int u = 0; u < kAhead; ++u) {
            const bool here = key(u) < end;
            read(k[u], keys.row(here ? key(u) : 0), here);
            read(v[u], vals.row(here ? key(u) : 0), here);
        }
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            const Sight<T, kMore> sight(a, b, head(r));
            float s[kAhead], highest = part[r].top;
#pragma unroll
            for (int u = 0; u < kAhead; ++u) {
                float x[N];
                values(x, k[u]);
                s[u] = 0.0f;
#pragma unroll
                for (int d = 0; d < N; ++d) s[u] = fmaf(q[r][d], x[d], s[u]);
                s[u] = reduce_warp<kLanes>(s[u], Add{});
                if (kMore && a.adjusts) {
                    s[u] = kLog2e * adjusted(s[u], a, b, head(r), query(r), key(u));
                }
                if (!sight.seen(query(r), key(u))) s[u] = -infinity();
                highest = fmaxf(highest, s[u]);
            }
            const float base = highest == -infinity() ? 0.0f : highest;
            part[r].scale(exp2_for<T>(part[r].top - base));
            part[r].top = highest;
#pragma unroll
            for (int u = 0; u < kAhead; ++u) {
                float x[N];
                values(x, v[u]);
                const float p = exp2_for<T>(s[u] - base);
                part[r].sum += p;
#pragma unroll
                for (int d = 0; d < N; ++d) part[r].o[d] = fmaf(p, x[d], part[r].o[d]);
            }
        }
    }

    BYHAND_SHARED(float[kRows][kWarps][kLanes * N + 2], parts);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        part[r].template join_lanes<8>();
        part[r].template join_lanes<16>();
        float* mine = parts[r][warp_id()];
        if (lane < kLanes) {
            if (lane == 0) mine[0] = part[r].top, mine[1] = part[r].sum;
#pragma unroll
            for (int d = 0; d < N; ++d) mine[2 + lane * N + d] = part[r].o[d];
        }
    }
    sync_block();
    // Warp r combines the parts of row r, in the order of the warps.
    for (int r = warp_id(); r < kRows; r += kWarps) {
        if (lane >= kLanes || first + r >= rows) continue;
        Part<N> all;
        for (int w = 0; w < kWarps; ++w) {
            float o[N];
#pragma unroll
            for (int d = 0; d < N; ++d) o[d] = parts[r][w][2 + lane * N + d];
            all.join(parts[r][w][0], parts[r][w][1], o);
        }
        const int64_t row = (int64_t{b} * a.H + head(r)) * a.queries + query(r);
        float* out = work + (row * pieces + piece) * (a.D + 2);
        if (lane == 0) out[0] = all.top, out[1] = all.sum;
#pragma unroll
        for (int d = 0; d < N; ++d) {
            const int col = (d / kPackSize * kLanes + lane) * kPackSize + d % kPackSize;
            if (col < a.D) out[2 + col] = all.o[d];
        }
    }
}

// One warp per row, each lane has every 32nd column; combines the pieces in order.
template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    attention_few_join(const __grid_constant__ Attention<T> a, Rows<T> o, float* lse,
                       const float* work, int pieces) {
    constexpr int N = kMostDepth / kWarp;
    const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + warp_id();
    if (row >= a.heads * a.queries) return;
    Part<N> all;
    for (int piece = 0; piece < pieces; ++piece) {
        const float* part = work + (row * pieces + piece) * (a.D + 2);
        float more[N];
#pragma unroll
        for (int d = 0; d < N; ++d) {
            const int col = d * kWarp + lane_id();
            more[d] = col < a.D ? part[2 + col] : 0.0f;
        }
        all.join(part[0], part[1], more);
    }
    const int64_t bh = row / a.queries, t = row % a.queries;
    T* to = o.row(bh / a.H * a.queries + t) + bh % a.H * a.D;
#pragma unroll
    for (int d = 0; d < N; ++d) {
        const int col = d * kWarp + lane_id();
        if (col < a.D) to[col] = from_float<T>(all.sum == 0.0f ? 0.0f : all.o[d] / all.sum);
    }
    if (lane_id() == 0) {
        lse[row] = all.top == -infinity() ? -infinity() : fmaf(all.top, kLn2, logf(all.sum));
    }
}

template <class T, int kPackSize, int kPacks>
void share_out(const char* name, const Attention<T>& a, float* work, int pieces, Stream stream) {
    const int64_t rows = int64_t{a.queries} * a.group;
    const int64_t blocks = int64_t{a.B} * a.G * pieces;
    if (blocks == 0) return;
    const auto run = [&](auto each, auto more) {
        launch(name, attention_few_pieces<T, kPackSize, kPacks, each(), more()>,
               dim3(blocks_for(blocks * ((rows + each() - 1) / each()), 1)), dim3(kThreads), stream,
               a, work, pieces);
    };
    const auto of_rows = [&](auto more) {
        if (rows == 1) {
            run(std::integral_constant<int, 1>{}, more);
        } else {
            constexpr int kEach = kPackSize * kPacks <= 8 ? 4 : 2;  // limited by registers
            run(std::integral_constant<int, kEach>{}, more);
        }
    };
    a.more() ? of_rows(std::true_type{}) : of_rows(std::false_type{});
}

template <class T>
void forward_few(const char* name, const Attention<T>& a, Rows<T> o, float* lse, const Out& work,
                 Stream stream) {
    const int64_t rows = a.heads * a.queries;
    const int pieces = (a.keys + kPiece - 1) / kPiece;
    if (work.size() < rows * pieces * (a.D + 2)) {
        throw std::invalid_argument(std::string(name) + ": work is too small");
    }
    float* room = work.as<float>();
    constexpr int V = kPack<T>;
    if (!a.packed) {
        share_out<T, 1, 16>(name, a, room, pieces, stream);
    } else if (a.D <= 64) {
        share_out<T, V, 8 / V>(name, a, room, pieces, stream);
    } else {
        share_out<T, V, 16 / V>(name, a, room, pieces, stream);
    }
    launch(name, attention_few_join<T>, dim3(blocks_for(rows, kWarps)), dim3(kThreads), stream, a,
           o, lse, room, pieces);
}

}  // namespace
}  // namespace byhand
