// Attention on the CPU, in tiles of queries by keys that fit in the first caches:
//
//     attention_tiles.h     the small matrix products, packing and prefetching
//     attention_scores.h    one tile of scores: causality and window, mask, dropout
//     attention_adjust.h    what acts on scores before: cap, slopes, bias
//     attention_forward.h   the softmax over the tiles of a range of queries
//     attention_few.h       the same for very few queries, as in decoding
//     attention_backward.h  the gradients of a range of queries and a range of keys
//     attention_bias.h      the gradient of the bias
//
// This file divides the work among the threads. No sum is shared between two threads, and the order
// of the sums of a query depends on its keys alone, so its bits do not depend on the number of
// threads, on the other queries, or on how many of them there are.
#include "ops/attention/attention.h"

#include "ops/attention/attention_bias.h"
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

template <class Unit>
void forward_ranges(const Out& o, const Out& lse, const Problem& p, int64_t count, double flops,
                    Unit unit) {
    parallel_for(count, grain(flops), [&](int64_t begin, int64_t end) {
        in_turn(begin, end, unit, [&](const Range& range, const Range* next) {
            forward_range(o, lse, p, range, next);
        });
    });
}

void forward_many(const Out& o, const Out& lse, const Problem& p) {
    // The results do not depend on the length of a range, so it may depend on the number of
    // threads: long ranges, unless some threads would be idle.
    int64_t length = kBlocks * kTile;
    const auto ranges = [&] { return blocks_of(p.T, length); };
    while (length > kTile && p.heads() * ranges() < 4 * num_threads()) length /= 2;
    const double flops = 4.0 * std::min(p.T, length) * p.S * p.D;
    forward_ranges(o, lse, p, p.heads() * ranges(), flops, [&](int64_t u) {
        const int64_t bh = u / ranges(), i = interleaved(u % ranges(), ranges()) * length;
        return Range{bh, i, std::min(i + length, p.T), p.whole(bh / p.H)};
    });
}

// The mean of a number of operations over the units, given that of each piece.
template <class Flops>
double mean(const std::vector<Piece>& pieces, std::size_t units, Flops flops) {
    double sum = 0;
    for (const Piece& piece : pieces) sum += flops(piece);
    return sum / static_cast<double>(std::max<std::size_t>(units, 1));
}

void forward_packed(const Out& o, const Out& lse, const Problem& p) {
    const std::vector<Piece> pieces = p.packed();
    std::vector<Range> ranges;
    for (const Piece& piece : pieces) {
        const int64_t count = blocks_of(piece.queries(), kBlocks * kTile);
        for (int64_t h = 0; h < p.H; ++h) {
            for (int64_t n = 0; n < count; ++n) {
                const int64_t i = piece.i_begin + interleaved(n, count) * kBlocks * kTile;
                const int64_t end = std::min(i + kBlocks * kTile, piece.i_end);
                ranges.push_back({piece.b * p.H + h, i, end, piece});
            }
        }
    }
    const double flops = mean(pieces, ranges.size(), [&](const Piece& piece) {
        return 4.0 * p.H * piece.queries() * piece.keys() * p.D;
    });
    forward_ranges(o, lse, p, static_cast<int64_t>(ranges.size()), flops,
                   [&](int64_t u) { return ranges[static_cast<std::size_t>(u)]; });
}

void forward_few(const Out& o, const Out& lse, const Problem& p) {
    if (p.shared == 0) return;  // no query heads
    const int64_t chunks = std::max<int64_t>(blocks_of(p.S, kChunk), 1), size = partial_size(p);
    float* memory = scratch(static_cast<std::size_t>(p.groups() * chunks * size), 1);
    const int64_t begin = p.first_tile(p.whole(0), 0);
    const auto end = [&](int64_t bg) { return p.keys_end(p.first_head(bg), p.T - 1); };
    const double flops = 4.0 * p.shared * p.T * std::min(p.S, kChunk) * p.D;
    parallel_for(p.groups() * chunks, grain(flops), [&](int64_t u, int64_t u_end) {
        for (; u < u_end; ++u) {
            const int64_t bg = u / chunks, j = u % chunks * kChunk;
            forward_few(p, bg, std::max(j, begin), std::min(j + kChunk, end(bg)),
                        partial(p, memory + u * size));
        }
    });
    for (int64_t bg = 0; bg < p.groups(); ++bg) {
        const int64_t first = begin / kChunk, last = blocks_of(end(bg), kChunk);
        const auto chunk = [&](int64_t c) { return partial(p, memory + (bg * chunks + c) * size); };
        for (int64_t n = 0; n < p.shared; ++n) {
            const Running run = of_head(p, chunk(first), n);
            for (int64_t c = first + 1; c < last; ++c) {
                merge(run, of_head(p, chunk(c), n), p.T, p.D);
            }
            finish(o, lse, p, p.first_head(bg) + n, 0, p.T, run);
        }
    }
}

template <class Unit>
void backward_parts(const Gradients& g, const Problem& p, int64_t count, double flops, Unit unit) {
    parallel_for(count, grain(flops), [&](int64_t begin, int64_t end) {
        in_turn(begin, end, unit,
                [&](const Part& part, const Part* next) { backward_part(g, p, part, next); });
    });
}

// All queries and keys of a piece, for one head of keys and all query heads that read it.
Part part_of(const Problem& p, int64_t bg, const Piece& piece) {
    const int64_t bh = p.first_head(bg);
    return {bg,          bh,   bh + p.shared, piece.i_begin, piece.i_end, piece.j_begin,
            piece.j_end, true, true,          piece};
}

// Five products per tile; one head of keys with all query heads that read it is a unit of work.
void backward_by_groups(const Gradients& g, const Problem& p) {
    const double flops = 10.0 * p.shared * p.T * p.S * p.D;
    backward_parts(g, p, p.groups(), flops,
                   [&](int64_t bg) { return part_of(p, bg, p.whole(bg / p.G)); });
}

// The same for each sequence packed in a row.
void backward_packed(const Gradients& g, const Problem& p) {
    const std::vector<Piece> pieces = p.packed();
    const auto count = static_cast<int64_t>(pieces.size()) * p.G;
    const double flops = mean(pieces, static_cast<std::size_t>(count), [&](const Piece& piece) {
        return 10.0 * p.H * piece.queries() * piece.keys() * p.D;
    });
    backward_parts(g, p, count, flops, [&](int64_t u) {
        const Piece& piece = pieces[static_cast<std::size_t>(u / p.G)];
        return part_of(p, piece.b * p.G + u % p.G, piece);
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
            const int64_t bg = u / key_blocks;
            Part part = part_of(p, bg, p.whole(bg / p.G));
            part.j_begin = interleaved(u % key_blocks, key_blocks) * kKeys;
            part.j_end = std::min(part.j_begin + kKeys, p.S);
            part.queries = false;
            backward_part(g, p, part, nullptr);
        }
    });
    parallel_for(p.heads() * query_blocks, grain(query_flops), [&](int64_t begin, int64_t end) {
        for (int64_t u = begin; u < end; ++u) {
            const int64_t bh = u / query_blocks;
            Part part = part_of(p, p.group_of(bh), p.whole(bh / p.H));
            part.bh_begin = bh, part.bh_end = bh + 1;
            part.i_begin = interleaved(u % query_blocks, query_blocks) * kTile;
            part.i_end = std::min(part.i_begin + kTile, p.T);
            part.keys = false;
            backward_part(g, p, part, nullptr);
        }
    });
}

// In a pass of its own, because the other ones divide the heads among the threads, which share the
// bias: a unit is a rectangle of the bias, whose sums over the heads one thread computes.
void bias_gradients(const Gradients& g, const Problem& p) {
    constexpr int64_t kKeys = 4 * kTile;
    const int64_t batches = g.dbias.shape[0], heads = g.dbias.shape[1];
    const int64_t key_blocks = blocks_of(p.S, kKeys), query_blocks = blocks_of(p.T, kTile);
    std::vector<Piece> pieces = p.sequences ? p.packed() : std::vector<Piece>();
    for (int64_t b = 0; !p.sequences && b < p.B; ++b) pieces.push_back(p.whole(b));
    const int64_t blocks = query_blocks * key_blocks;
    const double flops = 4.0 * kTile * kKeys * p.D * p.heads() / (batches * heads + 1);
    parallel_for(batches * heads * blocks, grain(flops), [&](int64_t begin, int64_t end) {
        for (int64_t u = begin; u < end; ++u) {
            const int64_t bh = u / blocks, i0 = u % blocks / key_blocks * kTile;
            const int64_t j0 = u % key_blocks * kKeys;
            bias_gradient(g, p, pieces,
                          {bh / heads, bh % heads, i0, std::min(kTile, p.T - i0), j0,
                           std::min(kKeys, p.S - j0)});
        }
    });
}

}  // namespace

void attention_forward(Out o, Out lse, Out, StridedIn q, StridedIn k, StridedIn v,
                       Maybe<StridedIn> mask, Maybe<In> lengths, Maybe<In> slopes,
                       Maybe<StridedIn> bias, Maybe<In> sequences, double scale, bool causal,
                       std::int64_t window, double softcap, double dropout, std::uint64_t seed,
                       Offset offset, Stream) {
    const Problem p{q,       k,         v,
                    mask,    lengths,   slopes,
                    bias,    sequences, static_cast<float>(scale),
                    causal,  window,    static_cast<float>(softcap),
                    dropout, seed,      offset.value()};
    if (p.sequences) {
        forward_packed(o, lse, p);
    } else {
        p.T <= kFewQueries ? forward_few(o, lse, p) : forward_many(o, lse, p);
    }
}

void attention_backward(StridedOut dq, StridedOut dk, StridedOut dv, Maybe<Out> dbias, Out, In do_,
                        StridedIn q, StridedIn k, StridedIn v, In o, In lse, Maybe<StridedIn> mask,
                        Maybe<In> lengths, Maybe<In> slopes, Maybe<StridedIn> bias,
                        Maybe<In> sequences, double scale, bool causal, std::int64_t window,
                        double softcap, double dropout, std::uint64_t seed, Offset offset, Stream) {
    const Problem p{q,       k,         v,
                    mask,    lengths,   slopes,
                    bias,    sequences, static_cast<float>(scale),
                    causal,  window,    static_cast<float>(softcap),
                    dropout, seed,      offset.value()};
    const Gradients g{dq, dk, dv, dbias, do_, o, lse};
    // The first two give the same bits, so the choice may depend on the number of threads: whole
    // groups, unless some threads would be idle for longer than computing the scores twice takes.
    const int64_t threads = num_threads(), rounds = blocks_of(p.groups(), threads);
    if (p.sequences) {
        backward_packed(g, p);
    } else if (5 * rounds * threads <= 7 * p.groups()) {
        backward_by_groups(g, p);
    } else {
        backward_by_blocks(g, p);
    }
    if (dbias) bias_gradients(g, p);
}

}  // namespace byhand
