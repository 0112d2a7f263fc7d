// The backward pass of attention over a range of queries and a range of keys of one head.
//
// p = exp(s - lse) is made again tile by tile (Dao et al. 2022). A block of queries stays in place
// while the keys pass by: its dq is complete when they have. dk and dv of all keys of the range add
// up in scratch meanwhile. Every sum runs over keys, or over queries, in ascending order, however
// the ranges are cut.
#pragma once

#include "attention_scores.h"
#include "core/threads.h"
#include "core/vecmath.h"

namespace byhand {
namespace tiles {

struct Gradients {
    StridedOut dq, dk, dv;
    In do_, o, lse;
};

// What one thread works on: the queries [i_begin, i_end) against the keys [j_begin, j_end) of a
// head, for the gradients of the queries, of the keys, or of both.
struct Part {
    int64_t bh, i_begin, i_end, j_begin, j_end;
    bool queries, keys;
};

struct BackwardScratch {
    float *q_turned, *do_turned;  // (D, queries)
    float *q, *do_, *dq;          // (queries, D)
    float *p, *ds;                // (keys, queries)
    float *lse, *delta;           // per query
    float *factors, *work;        // one tile and two

    explicit BackwardScratch(int64_t D) {
        const int64_t turned = kTile * D, rows = kTile * padded(D), tile = kTile * kTile;
        Carver carver(
            scratch(static_cast<std::size_t>(2 * turned + 3 * rows + 5 * tile + 2 * kTile)));
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
    }
};

// The keys of a part in whole words, and where the gradients of keys and values add up.
struct KeyRows {
    Rows k;
    float *dk, *dv;

    KeyRows(Rows source, int64_t keys, int64_t D) {
        const int64_t size = keys * padded(D);
        dk = scratch(static_cast<std::size_t>(3 * size), 1);
        dv = dk + size;
        k = whole_words(dv + size, source, keys, D);
        fill_zero(dk, 2 * size);
    }
};

// The queries of a block in whole words.
struct QueryRows {
    Rows q, do_;
};

// Head bh of a contiguous (B, T, H, D) tensor, from query i0 on.
inline Rows contiguous(const In& x, const Problem& p, int64_t bh, int64_t i0) {
    return {x.as<float>() + ((bh / p.H * p.T + i0) * p.H + bh % p.H) * p.D, p.H * p.D};
}

inline float dot(const float* x, const float* y, int64_t n) {
    Vec sum = Vec::zero();
    for (int64_t i = 0; i < n; i += Vec::width) {
        sum = fma(Vec::load(x + i, n - i), Vec::load(y + i, n - i), sum);
    }
    return sum.sum();
}

inline QueryRows load_queries(const BackwardScratch& w, const Problem& p, const Gradients& g,
                              int64_t bh, int64_t i0, int64_t queries) {
    const Rows q = p.head(p.q, bh).from(i0);
    const Rows do_ = contiguous(g.do_, p, bh, i0), o = contiguous(g.o, p, bh, i0);
    pack_transposed(w.q_turned, q, queries, p.D, p.scale);
    pack_transposed(w.do_turned, do_, queries, p.D, 1.0f);
    fill_zero(w.dq, queries * padded(p.D));
    // Lanes without a query, and queries that saw no key, get p = exp(s - inf) = 0.
    std::fill_n(w.lse, kTile, INFINITY);
    fill_zero(w.delta, kTile);
    const float* lse = g.lse.as<float>() + bh * p.T + i0;
    for (int64_t i = 0; i < queries; ++i) {
        if (lse[i] != kMinusInfinity) w.lse[i] = lse[i];
        w.delta[i] = dot(do_.row(i), o.row(i), p.D);
    }
    return {whole_words(w.q, q, queries, p.D), whole_words(w.do_, do_, queries, p.D)};
}

// s -> p and dp -> ds = p * (dp - delta).
inline void softmax_gradient(const BackwardScratch& w, const Tile& t) {
    for (int64_t i = 0; i < t.columns(); i += Vec::width) {
        const Vec lse = Vec::load(w.lse + i), delta = Vec::load(w.delta + i);
        const int64_t rows = t.rows_at(i);
        for (int64_t j = 0; j < rows; ++j) {
            const int64_t at = j * kTile + i;
            const Vec p = exp(Vec::load(w.p + at) - lse);
            p.store(w.p + at);
            (p * (Vec::load(w.ds + at) - delta)).store(w.ds + at);
        }
        zero_below(w.p, t, i);
        zero_below(w.ds, t, i);
    }
}

inline void backward_tile(const BackwardScratch& w, const QueryRows& queries, const KeyRows& keys,
                          const Problem& p, const Tile& t, const Part& part) {
    const int64_t width = padded(p.D), j = t.j0 - part.j_begin;
    scores(w.p, t, p.head(p.k, t.bh).from(t.j0), w.q_turned, p.D);
    scores(w.ds, t, p.head(p.v, t.bh).from(t.j0), w.do_turned, p.D);
    apply_masks(w.p, p, t, w.work);
    if (p.dropout > 0) {
        draw_tile(w.factors, p, t, w.work);
        multiply_tile(w.ds, t, w.factors);
    }
    softmax_gradient(w, t);
    if (part.queries) add_over_keys(w.dq, t, w.ds, keys.k.from(j), width);
    if (part.keys) {
        add_over_queries(keys.dk + j * width, t, w.ds, queries.q, width);
        if (p.dropout > 0) multiply_tile(w.p, t, w.factors);
        add_over_queries(keys.dv + j * width, t, w.p, queries.do_, width);
    }
}

// Writes rows [begin, begin + count) of head bh.
inline void write_rows(const StridedOut& y, const Problem& p, int64_t bh, int64_t begin,
                       int64_t count, const float* x, float scale) {
    float* head = y.as<float>() + bh / p.H * y.stride[0] + bh % p.H * y.stride[2];
    for (int64_t i = 0; i < count; ++i) {
        unpack_row(head + (begin + i) * y.stride[1], x + i * padded(p.D), p.D, Vec::set(scale));
    }
}

inline void backward_part(const Gradients& g, const Problem& p, const Part& part) {
    const BackwardScratch w(p.D);
    const int64_t count = part.j_end - part.j_begin;
    const KeyRows keys(p.head(p.k, part.bh).from(part.j_begin), count, p.D);
    for (int64_t i0 = part.i_begin; i0 < part.i_end; i0 += kTile) {
        const int64_t count_i = std::min(kTile, p.T - i0);
        const int64_t j_end = std::min(part.j_end, p.keys_seen(i0 + count_i - 1));
        const QueryRows queries = load_queries(w, p, g, part.bh, i0, count_i);
        for (int64_t j0 = part.j_begin; j0 < j_end; j0 += kTile) {
            backward_tile(w, queries, keys, p, tile_at(p, part.bh, i0, j0, j_end), part);
        }
        if (part.queries) write_rows(g.dq, p, part.bh, i0, count_i, w.dq, p.scale);
    }
    if (!part.keys) return;
    write_rows(g.dk, p, part.bh, part.j_begin, count, keys.dk, p.scale);
    write_rows(g.dv, p, part.bh, part.j_begin, count, keys.dv, 1.0f);
}

}  // namespace tiles
}  // namespace byhand
