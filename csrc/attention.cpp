// Attention on the CPU, in tiles of 64 queries by 64 keys that live in the first caches:
//
//     attention_tiles.h     the small matrix products and the packing
//     attention_scores.h    one tile of scores: staircase, mask, dropout
//     attention_forward.h   the online softmax over the tiles of a block of queries
//     attention_backward.h  the gradients of a range of queries and a range of keys
//
// Here the work is cut into parts for the threads. No sum is ever shared between two of them, and
// every sum has its order from the shape: the bits do not depend on the number of threads.
#include "attention.h"

#include "attention_backward.h"
#include "attention_forward.h"
#include "core/threads.h"

namespace byhand {
namespace {

using namespace tiles;

// Slices of less work than this are not worth waking a thread for.
int64_t grain(double flops_per_unit) {
    return static_cast<int64_t>(1e5 / std::max(flops_per_unit, 1.0)) + 1;
}

constexpr int64_t blocks_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

// Large and small blocks in turn: under the causal rule every slice of them is about as much work.
int64_t interleaved(int64_t i, int64_t n) { return i % 2 == 0 ? i / 2 : n - 1 - i / 2; }

// Five products a tile; a head is one unit of work.
void backward_by_heads(const Gradients& g, const Problem& p) {
    const double flops = 10.0 * p.T * p.S * p.D;
    parallel_for(p.heads(), grain(flops), [&](int64_t begin, int64_t end) {
        for (int64_t bh = begin; bh < end; ++bh) {
            backward_part(g, p, {bh, 0, p.T, 0, p.S, true, true});
        }
    });
}

// Seven products a tile, since both passes need the scores, but as many units as there are blocks:
// first blocks of keys, then blocks of queries.
void backward_by_blocks(const Gradients& g, const Problem& p) {
    constexpr int64_t kKeys = 4 * kTile;  // so that packing the queries anew is a small part
    const int64_t key_blocks = blocks_of(p.S, kKeys), query_blocks = blocks_of(p.T, kTile);
    const double key_flops = 8.0 * p.T * kKeys * p.D, query_flops = 6.0 * kTile * p.S * p.D;
    parallel_for(p.heads() * key_blocks, grain(key_flops), [&](int64_t begin, int64_t end) {
        for (int64_t u = begin; u < end; ++u) {
            const int64_t j = interleaved(u % key_blocks, key_blocks) * kKeys;
            const int64_t j_end = std::min(j + kKeys, p.S);
            backward_part(g, p, {u / key_blocks, 0, p.T, j, j_end, false, true});
        }
    });
    parallel_for(p.heads() * query_blocks, grain(query_flops), [&](int64_t begin, int64_t end) {
        for (int64_t u = begin; u < end; ++u) {
            const int64_t i = interleaved(u % query_blocks, query_blocks) * kTile;
            const int64_t i_end = std::min(i + kTile, p.T);
            backward_part(g, p, {u / query_blocks, i, i_end, 0, p.S, true, false});
        }
    });
}

}  // namespace

void attention_forward(Out o, Out lse, StridedIn q, StridedIn k, StridedIn v, Maybe<StridedIn> mask,
                       double scale, bool causal, double dropout, std::uint64_t seed,
                       std::uint64_t offset, Stream) {
    const Problem p{q, k, v, mask, static_cast<float>(scale), causal, dropout, seed, offset};
    const bool few = p.T <= kFewQueries;
    const int64_t blocks = few ? std::min<int64_t>(p.T, 1) : blocks_of(p.T, kTile);
    const double flops = 4.0 * std::min(p.T, kTile) * p.S * p.D;
    parallel_for(p.heads() * blocks, grain(flops), [&](int64_t begin, int64_t end) {
        for (int64_t u = begin; u < end; ++u) {
            const int64_t bh = u / blocks, i0 = interleaved(u % blocks, blocks) * kTile;
            few ? forward_few(o, lse, p, bh) : forward_block(o, lse, p, bh, i0);
        }
    });
}

void attention_backward(StridedOut dq, StridedOut dk, StridedOut dv, In do_, StridedIn q,
                        StridedIn k, StridedIn v, In o, In lse, Maybe<StridedIn> mask, double scale,
                        bool causal, double dropout, std::uint64_t seed, std::uint64_t offset,
                        Stream) {
    const Problem p{q, k, v, mask, static_cast<float>(scale), causal, dropout, seed, offset};
    const Gradients g{dq, dk, dv, do_, o, lse};
    // The same bits either way, so the number of threads may choose: whole heads, unless some
    // threads would be idle for longer than computing the scores twice takes.
    const int64_t threads = num_threads(), rounds = blocks_of(p.heads(), threads);
    if (5 * rounds * threads <= 7 * p.heads()) {
        backward_by_heads(g, p);
    } else {
        backward_by_blocks(g, p);
    }
}

}  // namespace byhand
