// The backward pass of attention over a range of keys of one head, and a range of queries of the
// heads that read it.
//
// p = exp(s - lse) is recomputed tile by tile (Dao et al. 2022). The outer loop is over blocks of
// queries, the inner one over the keys: dq of a block is complete after the inner loop. dk and dv
// of all keys of the range are accumulated in scratch memory, or in the caller's arrays if there is
// only one block. Every sum runs over keys, or over heads and their queries, in ascending order,
// whatever the ranges are.
//
// do is multiplied by `scale`, the factor of dq and dk, before the product with v, so that ds
// contains it.
#pragma once

#include "ops/attention/attention_adjust.h"
#include "threads/threads.h"

namespace byhand {
namespace tiles {

struct Gradients {
    StridedOut dq, dk, dv;
    Maybe<Out> dbias;
    In do_, o, lse;
};

struct QueryBlock {
    int64_t bh, i0, count;
};

// The unit of work of one thread: the queries [i_begin, i_end) of the heads [bh_begin, bh_end) and
// the keys [j_begin, j_end) of their group, for the gradients of the queries, of the keys, or of
// both.
struct Part {
    int64_t bg, bh_begin, bh_end, i_begin, i_end, j_begin, j_end;
    bool queries, keys;
    Piece piece;

    int64_t blocks_of_head() const { return (i_end - i_begin + kTile - 1) / kTile; }
    int64_t blocks() const { return (bh_end - bh_begin) * blocks_of_head(); }
    QueryBlock block(int64_t n) const {
        const int64_t i0 = i_begin + n % blocks_of_head() * kTile;
        return {bh_begin + n / blocks_of_head(), i0, std::min(kTile, i_end - i0)};
    }
    int64_t key_count() const { return j_end - j_begin; }
    bool one_block() const { return blocks() <= 1; }
    bool one_tile() const { return key_count() <= kTile; }
};

struct BackwardScratch {
    float *q_turned, *do_turned;  // (D, queries)
    float *q, *do_, *dq;          // (queries, D)
    float *p, *ds;                // (keys, queries)
    float *lse, *delta;           // per query
    float *factors, *work;        // one tile, two tiles
    float* cap;                   // one tile: the derivative of the cap of scores

    explicit BackwardScratch(int64_t D) {
        const int64_t turned = kTile * D, rows = kTile * padded(D), tile = kTile * kTile;
        Carver carver(
            scratch(static_cast<std::size_t>(2 * turned + 3 * rows + 6 * tile + 2 * kTile)));
        q_turned = carver.take(turned);
        do_turned = carver.take(turned);
        q = carver.take(rows);
        do_ = carver.take(rows);
        dq = carver.take(rows);
        p = carver.take(tile);
        ds = carver.take(tile);
        lse = carver.take(kTile);
        delta = carver.take(kTile);
        factors = carver.take(tile);
        work = carver.take(2 * tile);
        cap = carver.take(tile);
    }
};

// The keys of a part, and where the gradients of keys and values are accumulated.
struct KeyRows {
    Rows k, v;
    Target dk, dv;
    bool in_place;  // dk and dv are the caller's arrays

    KeyRows(const Gradients& g, const Problem& p, const Part& part) {
        const int64_t count = part.key_count(), width = padded(p.D), size = count * width;
        float* memory = scratch(static_cast<std::size_t>(4 * size), 1);
        k = p.group(p.k, part.bg).from(part.j_begin);
        v = p.group(p.v, part.bg).from(part.j_begin);
        // With one block of queries each key is used once: a copy is not worth its cost.
        if (!part.one_block() || width != p.D) {
            const int64_t used = std::min(count, p.keys(part.bg) - part.j_begin);
            k = packed_rows(memory, k, used, p.D);
            v = packed_rows(memory + size, v, used, p.D);
        }
        in_place = part.one_block() && width == p.D;
        if (in_place) {
            dk = p.group(g.dk, part.bg).from(part.j_begin);
            dv = p.group(g.dv, part.bg).from(part.j_begin);
        } else {
            dk = {memory + 2 * size, width};
            dv = {memory + 3 * size, width};
            if (part.keys) fill_zero(dk.data, 2 * size);
        }
    }
};

// A block of queries, padded to whole words, and where its gradient is accumulated.
struct QueryRows {
    Rows q, do_;
    Target dq;
    bool in_place;  // dq is the caller's array
    bool fresh = true;
};

// delta[i] = scale * x[i] . y[i], for whole words of i. The vectors of partial sums of several rows
// are transposed and then added, which sums the lanes of all rows at once.
inline void dots(float* delta, Rows x, Rows y, int64_t rows, int64_t columns, float scale) {
    for (int64_t i = 0; i < rows; i += Vec::width) {
        Vec sums[Vec::width];
        for (int64_t k = 0; k < Vec::width; ++k) {
            sums[k] = Vec::zero();
            for (int64_t c = 0; i + k < rows && c < columns; c += Vec::width) {
                const int64_t n = columns - c;
                sums[k] =
                    fma(Vec::load(x.row(i + k) + c, n), Vec::load(y.row(i + k) + c, n), sums[k]);
            }
        }
        transpose(sums);
        for (int64_t n = Vec::width / 2; n > 0; n /= 2) {
            for (int64_t k = 0; k < n; ++k) sums[k] += sums[k + n];
        }
        (Vec::set(scale) * sums[0]).store(delta + i);
    }
}

// What the scores and their gradients of a block of queries need; factor is that of the gradients.
BYHAND_INLINE void turn_queries(const BackwardScratch& w, const Gradients& g, const Problem& p,
                                const QueryBlock& block, float factor) {
    const auto [bh, i0, queries] = block;
    const Rows do_ = p.head(g.do_, bh).from(i0), o = p.head(g.o, bh).from(i0);
    pack_transposed(w.q_turned, p.head(p.q, bh).from(i0), queries, p.D, p.scale);
    pack_transposed(w.do_turned, do_, queries, p.D, factor);
    // Lanes without a query, and queries that see no key, get p = exp(s - inf) = 0.
    std::fill_n(w.lse, kTile, INFINITY);
    const float* lse = g.lse.as<float>() + bh * p.T + i0;
    for (int64_t i = 0; i < queries; ++i) {
        if (lse[i] != kMinusInfinity) w.lse[i] = lse[i];
    }
    dots(w.delta, do_, o, queries, p.D, factor);
}

inline QueryRows load_queries(const BackwardScratch& w, const Gradients& g, const Problem& p,
                              const Part& part, const QueryBlock& block) {
    const auto [bh, i0, queries] = block;
    turn_queries(w, g, p, block, p.scale);
    const Rows q = p.head(p.q, bh).from(i0), do_ = p.head(g.do_, bh).from(i0);
    const int64_t width = padded(p.D);
    const bool in_place = part.one_tile() && width == p.D;
    const Target dq = in_place ? p.head(g.dq, bh).from(i0) : Target{w.dq, width};
    if (part.one_tile()) {
        return {whole_words(w.q, q, queries, p.D), whole_words(w.do_, do_, queries, p.D), dq,
                in_place};
    }
    return {packed_rows(w.q, q, queries, p.D), packed_rows(w.do_, do_, queries, p.D), dq, in_place};
}

// Below this, probabilities of slopes times distances become 0: many are near the smallest float,
// and products with subnormal numbers take a processor many times as long.
constexpr float kNoProbability = 1e-27f;

// Replaces s by p and dp by ds = p * (dp - delta).
template <bool kSloped>
inline void softmax_gradient(const BackwardScratch& w, const Tile& t) {
    for (int64_t i = 0; i < t.columns(); i += Vec::width) {
        const Vec lse = Vec::load(w.lse + i), delta = Vec::load(w.delta + i);
        const int64_t end = t.word_end(i);
        for (int64_t j = t.keys_begin(i); j < end; ++j) {
            const int64_t at = j * kTile + i;
            Vec p = exp_score(Vec::load(w.p + at) - lse);
            if (kSloped) p = select(p < Vec::set(kNoProbability), Vec::zero(), p);
            p.store(w.p + at);
            (p * (Vec::load(w.ds + at) - delta)).store(w.ds + at);
        }
        zero_around(w.p, t, i);
        zero_around(w.ds, t, i);
    }
}

// p and ds of one tile from its keys and values; seen is what look() has found. ds is the gradient
// of the scores behind the cap.
BYHAND_INLINE void tile_gradient(const BackwardScratch& w, const Problem& p, const Tile& t,
                                 Seen seen, Rows k, Rows v, Ahead& ahead) {
    scores(w.p, t, k, w.q_turned, p.D, ahead);
    scores(w.ds, t, v, w.do_turned, p.D, ahead);
    if (p.adjusts()) adjust_tile(w.p, p, t, w.factors, w.cap);
    apply_staircases(w.p, t);
    if (seen == Seen::some) apply_mask(w.p, p, t, w.work);
    if (p.dropout > 0) {
        draw_tile(w.factors, p, t, w.work);
        multiply_tile(w.ds, t, w.factors);
    }
    p.slopes ? softmax_gradient<true>(w, t) : softmax_gradient<false>(w, t);
}

inline void clear_rows(Target y, int64_t rows, int64_t columns) {
    for (int64_t i = 0; i < rows; ++i) fill_zero(y.row(i), columns);
}

inline void backward_tile(const BackwardScratch& w, QueryRows& queries, const KeyRows& keys,
                          const Problem& p, const Tile& t, const Part& part, Ahead& ahead) {
    const int64_t width = padded(p.D), j = t.j0 - part.j_begin;
    const Target dk = keys.dk.from(j), dv = keys.dv.from(j);
    const Seen seen = p.mask ? look(p, t, w.work) : Seen::all;
    if (seen == Seen::none) {
        if (part.keys && keys.in_place) {
            clear_rows(dk, t.keys, p.D);
            clear_rows(dv, t.keys, p.D);
        }
        return;
    }
    tile_gradient(w, p, t, seen, keys.k.from(j), keys.v.from(j), ahead);
    if (p.softcap > 0) multiply_tile(w.ds, t, w.cap);
    if (part.queries) {
        const Start start = queries.fresh ? Start::zero : Start::add;
        sum_over_keys(queries.dq, t, w.ds, keys.k.from(j), width, start, ahead);
        queries.fresh = false;
    }
    if (part.keys) {
        const Start start = keys.in_place ? Start::zero : Start::add;
        sum_over_queries(dk, t, w.ds, queries.q, width, start, ahead);
        if (p.dropout > 0) multiply_tile(w.p, t, w.factors);
        sum_over_queries(dv, t, w.p, queries.do_, width, start, ahead);
    }
}

inline void write_rows(Target y, const float* x, int64_t rows, int64_t columns) {
    for (int64_t i = 0; i < rows; ++i) {
        std::memcpy(y.row(i), x + i * padded(columns),
                    static_cast<std::size_t>(columns) * sizeof(float));
    }
}

// The keys [begin, end) of a part that a block of queries may see; begin is the start of a tile.
struct Span {
    int64_t begin, end;
};

inline Span span_of(const Problem& p, const Part& part, const QueryBlock& block) {
    return {std::max(part.j_begin, p.first_tile(part.piece, block.i0)),
            std::min(part.j_end, p.keys_end(part.piece, block.bh, block.i0 + block.count - 1))};
}

// If there was only one block of queries, no query sees the keys outside its span: their gradients
// are zero.
inline void finish_keys(const Gradients& g, const Problem& p, const Part& part, const Span& met,
                        const KeyRows& keys) {
    const Target dk = p.group(g.dk, part.bg).from(part.j_begin);
    const Target dv = p.group(g.dv, part.bg).from(part.j_begin);
    if (!keys.in_place) {
        write_rows(dk, keys.dk.data, part.key_count(), p.D);
        write_rows(dv, keys.dv.data, part.key_count(), p.D);
        return;
    }
    const int64_t begin = met.begin - part.j_begin, end = met.end - part.j_begin;
    for (const Target& y : {dk, dv}) {
        clear_rows(y, begin, p.D);
        clear_rows(y.from(end), part.key_count() - end, p.D);
    }
}

// What to prefetch during block n: the next block of queries, and where the results are written.
inline Ahead what_follows(const Gradients& g, const Problem& p, const Part& part, int64_t n,
                          const Part* next) {
    Ahead ahead((part.key_count() + kTile - 1) / kTile * (5 * kTile / kStrip));
    const QueryBlock now = part.block(n);
    if (part.queries) ahead.write(p.head(g.dq, now.bh).from(now.i0), now.count, p.D);
    const bool last = n + 1 == part.blocks();
    if (last) {
        if (part.keys) {
            ahead.write(p.group(g.dk, part.bg).from(part.j_begin), part.key_count(), p.D);
            ahead.write(p.group(g.dv, part.bg).from(part.j_begin), part.key_count(), p.D);
        }
        if (next == nullptr) return ahead;
        ahead.read(p.group(p.k, next->bg).from(next->j_begin), next->key_count(), p.D);
        ahead.read(p.group(p.v, next->bg).from(next->j_begin), next->key_count(), p.D);
    }
    const QueryBlock following = last ? next->block(0) : part.block(n + 1);
    const auto [bh, i0, count] = following;
    ahead.read(p.head(p.q, bh).from(i0), count, p.D);
    ahead.read(p.head(g.do_, bh).from(i0), count, p.D);
    ahead.read(p.head(g.o, bh).from(i0), count, p.D);
    return ahead;
}

inline void backward_part(const Gradients& g, const Problem& p, const Part& part,
                          const Part* next) {
    const BackwardScratch w(p.D);
    const KeyRows keys(g, p, part);
    Span met{part.j_begin, part.j_begin};
    for (int64_t n = 0; n < part.blocks(); ++n) {
        const QueryBlock block = part.block(n);
        const Target dq = p.head(g.dq, block.bh).from(block.i0);
        const Span span = span_of(p, part, block);
        if (span.begin >= span.end) {
            if (part.queries) clear_rows(dq, block.count, p.D);
            continue;
        }
        met = span;
        Ahead ahead = what_follows(g, p, part, n, next);
        QueryRows queries = load_queries(w, g, p, part, block);
        for (int64_t j0 = span.begin; j0 < span.end; j0 += kTile) {
            const Tile tile = tile_at(p, block.bh, block.i0, block.count, j0, span.end);
            backward_tile(w, queries, keys, p, tile, part, ahead);
        }
        if (!part.queries) continue;
        if (queries.fresh) {
            clear_rows(dq, block.count, p.D);
        } else if (!queries.in_place) {
            write_rows(dq, queries.dq.data, block.count, p.D);
        }
    }
    if (part.keys) finish_keys(g, p, part, met, keys);
}

}  // namespace tiles
}  // namespace byhand
