// Attention on the CPU, in tiles of queries by keys that fit in the first caches:
//
//     attention_tiles.h     the small matrix products, packing and prefetching
//     attention_scores.h    one tile of scores: causality and window, mask, dropout
//     attention_forward.h   the softmax over the tiles of a range of queries
//     attention_few.h       the same for very few queries, as in decoding
//     attention_backward.h  the gradients of a range of queries and a range of keys
//
// This file divides the work among the threads. No sum is shared between two threads, and the order
// of every sum depends on the shape alone, so the bits do not depend on the number of threads.
#include "ops/attention/attention.h"

#include "ops/attention/attention_backward.h"
#include "ops/attention/attention_few.h"
#include "ops/attention/attention_forward.h"
#include "threads/threads.h"

namespace byhand {
namespace {

using namespace tiles;

// The least number of units in a slice: less work is not worth waking a thread for.
int64_t grain(double flops_per_unit) {
    return static_cast<int64_t>(1e5 / std::max(flops_per_unit, 1.0)) + 1;
}

constexpr int64_t blocks_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

// Alternates large and small blocks, so that with causality every slice has about as much work.
int64_t interleaved(int64_t i, int64_t n) { return i % 2 == 0 ? i / 2 : n - 1 - i / 2; }

// Calls work(unit, next unit or null) for the units [begin, end).
template <class Unit, class Work>
void in_turn(int64_t begin, int64_t end, Unit unit, Work work) {
    auto now = unit(begin);
    for (int64_t u = begin; u < end; ++u) {
        const bool last = u + 1 == end;
        const auto next = unit(last ? u : u + 1);
        work(now, last ? nullptr : &next);
        now = next;
    }
}

void forward_many(const Out& o, const Out& lse, const Problem& p) {
    // The results do not depend on the length of a range, so it may depend on the number of
    // threads: long ranges, unless some threads would be idle.
    int64_t length = kBlocks * kTile;
    const auto ranges = [&] { return blocks_of(p.T, length); };
    while (length > kTile && p.heads() * ranges() < 4 * num_threads()) length /= 2;
    const double flops = 4.0 * std::min(p.T, length) * p.S * p.D;
    const auto unit = [&](int64_t u) {
        const int64_t i = interleaved(u % ranges(), ranges()) * length;
        return Range{u / ranges(), i, std::min(i + length, p.T)};
    };
    parallel_for(p.heads() * ranges(), grain(flops), [&](int64_t begin, int64_t end) {
        in_turn(begin, end, unit, [&](const Range& range, const Range* next) {
            forward_range(o, lse, p, range, next);
        });
    });
}

void forward_few(const Out& o, const Out& lse, const Problem& p) {
    const int64_t chunks = std::max<int64_t>(blocks_of(p.S, kChunk), 1);
    const int64_t size = partial_size(p.T, p.D);
    float* memory = scratch(static_cast<std::size_t>(p.heads() * chunks * size), 1);
    const double flops = 4.0 * p.T * std::min(p.S, kChunk) * p.D;
    parallel_for(p.heads() * chunks, grain(flops), [&](int64_t begin, int64_t end) {
        for (int64_t u = begin; u < end; ++u) {
            const int64_t j = u % chunks * kChunk;
            forward_few(p, u / chunks, j, std::min(j + kChunk, p.S), partial(memory + u * size));
        }
    });
    for (int64_t bh = 0; bh < p.heads(); ++bh) {
        const Running run = partial(memory + bh * chunks * size);
        for (int64_t n = 1; n < chunks; ++n) {
            merge(run, partial(memory + (bh * chunks + n) * size), p.T, p.D);
        }
        finish(o, lse, p, bh, 0, p.T, run);
    }
}

// Five products per tile; one head of keys with all query heads that read it is a unit of work.
void backward_by_groups(const Gradients& g, const Problem& p) {
    const double flops = 10.0 * p.shared * p.T * p.S * p.D;
    const auto unit = [&](int64_t bg) {
        const int64_t bh = p.first_head(bg);
        return Part{bg, bh, bh + p.shared, 0, p.T, 0, p.S, true, true};
    };
    parallel_for(p.groups(), grain(flops), [&](int64_t begin, int64_t end) {
        in_turn(begin, end, unit,
                [&](const Part& part, const Part* next) { backward_part(g, p, part, next); });
    });
}

// Seven products per tile, because both passes need the scores, but one unit per block: first
// blocks of keys, then blocks of queries.
void backward_by_blocks(const Gradients& g, const Problem& p) {
    constexpr int64_t kKeys = 4 * kTile;  // packing the queries again is then a small part
    const int64_t key_blocks = blocks_of(p.S, kKeys), query_blocks = blocks_of(p.T, kTile);
    const double key_flops = 8.0 * p.shared * p.T * kKeys * p.D;
    const double query_flops = 6.0 * kTile * p.S * p.D;
    parallel_for(p.groups() * key_blocks, grain(key_flops), [&](int64_t begin, int64_t end) {
        for (int64_t u = begin; u < end; ++u) {
            const int64_t j = interleaved(u % key_blocks, key_blocks) * kKeys;
            const int64_t j_end = std::min(j + kKeys, p.S);
            const int64_t bg = u / key_blocks, bh = p.first_head(bg);
            backward_part(g, p, {bg, bh, bh + p.shared, 0, p.T, j, j_end, false, true}, nullptr);
        }
    });
    parallel_for(p.heads() * query_blocks, grain(query_flops), [&](int64_t begin, int64_t end) {
        for (int64_t u = begin; u < end; ++u) {
            const int64_t i = interleaved(u % query_blocks, query_blocks) * kTile;
            const int64_t i_end = std::min(i + kTile, p.T);
            const int64_t bh = u / query_blocks, bg = p.group_of(bh);
            backward_part(g, p, {bg, bh, bh + 1, i, i_end, 0, p.S, true, false}, nullptr);
        }
    });
}

}  // namespace

void attention_forward(Out o, Out lse, Out, StridedIn q, StridedIn k, StridedIn v,
                       Maybe<StridedIn> mask, Maybe<In> lengths, double scale, bool causal,
                       std::int64_t window, double dropout, std::uint64_t seed, Offset offset,
                       Stream) {
    const Problem p{q,      k,      v,       mask, lengths,       static_cast<float>(scale),
                    causal, window, dropout, seed, offset.value()};
    p.T <= kFewQueries ? forward_few(o, lse, p) : forward_many(o, lse, p);
}

void attention_backward(StridedOut dq, StridedOut dk, StridedOut dv, Out, In do_, StridedIn q,
                        StridedIn k, StridedIn v, In o, In lse, Maybe<StridedIn> mask,
                        Maybe<In> lengths, double scale, bool causal, std::int64_t window,
                        double dropout, std::uint64_t seed, Offset offset, Stream) {
    const Problem p{q,      k,      v,       mask, lengths,       static_cast<float>(scale),
                    causal, window, dropout, seed, offset.value()};
    const Gradients g{dq, dk, dv, do_, o, lse};
    // Both give the same bits, so the choice may depend on the number of threads: whole groups,
    // unless some threads would be idle for longer than computing the scores twice takes.
    const int64_t threads = num_threads(), rounds = blocks_of(p.groups(), threads);
    if (5 * rounds * threads <= 7 * p.groups()) {
        backward_by_groups(g, p);
    } else {
        backward_by_blocks(g, p);
    }
}

}  // namespace byhand
