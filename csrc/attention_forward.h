// The forward pass of attention over one block of queries.
//
// Per query the block carries the largest score m so far, l = sum exp(s - m) and o = sum exp(s - m)
// v. A new tile of keys with largest score m' turns them into
//
//     M = max(m, m')
//     l = exp(m - M) l + sum_j exp(s_j - M)
//     o = exp(m - M) o + sum_j exp(s_j - M) v_j
//
// and at the end the answer is o / l and the log-sum-exp m + log l (Milakov & Gimelshein 2018; Dao
// et al. 2022). A block of many queries has them in the lanes of its words, a handful of queries
// the keys; a score is the same chain of fused multiply-adds in both, so that the backward pass
// finds the very bits again that lse was made of.
#pragma once

#include "attention_scores.h"
#include "core/threads.h"
#include "core/vecmath.h"

namespace byhand {
namespace tiles {

// Queries so few that the lanes of a word are better spent on keys than on them.
constexpr int64_t kFewQueries = Vec::width;

// What is known of a block's queries so far.
struct Running {
    float *m, *l;  // kTile each
    float* o;      // (queries, D)

    void start(int64_t queries, int64_t D) const {
        std::fill_n(m, kTile, kMinusInfinity);
        fill_zero(l, kTile);
        fill_zero(o, queries * padded(D));
    }
};

// Divides by the sums and writes the queries from i0 on.
inline void finish(const Out& o, const Out& lse, const Problem& p, int64_t bh, int64_t i0,
                   int64_t queries, const Running& run) {
    float* y = o.as<float>() + ((bh / p.H * p.T + i0) * p.H + bh % p.H) * p.D;
    for (int64_t i = 0; i < queries; ++i) {
        const float scale = run.l[i] == 0.0f ? 0.0f : 1.0f / run.l[i];
        unpack_row(y + i * p.H * p.D, run.o + i * padded(p.D), p.D, Vec::set(scale));
    }
    float* z = lse.as<float>() + bh * p.T + i0;
    for (int64_t i = 0; i < queries; i += Vec::width) {
        (Vec::load(run.m + i) + log(Vec::load(run.l + i))).store(z + i, queries - i);
    }
}

// ---- a block of queries ------------------------------------------------------------------------

struct ForwardScratch {
    float *q, *s;           // (D, queries), (keys, queries)
    float *v, *shrink;      // (keys, D), per query
    float *factors, *work;  // one tile and two
    Running run;

    explicit ForwardScratch(int64_t D) {
        const int64_t turned = kTile * D, rows = kTile * padded(D), tile = kTile * kTile;
        Carver carver(scratch(static_cast<std::size_t>(turned + 2 * rows + 4 * tile + 3 * kTile)));
        q = carver.take(turned);
        s = carver.take(tile);
        v = carver.take(rows);
        shrink = carver.take(kTile);
        factors = carver.take(tile);
        work = carver.take(2 * tile);
        run = {carver.take(kTile), carver.take(kTile), carver.take(rows)};
    }
};

// The largest of m and the scores of one word of queries.
inline Vec largest(const float* s, int64_t rows, Vec m) {
    Vec even = m, odd = m;
    int64_t j = 0;
    for (; j + 2 <= rows; j += 2) {
        even = max(even, Vec::load(s + j * kTile));
        odd = max(odd, Vec::load(s + (j + 1) * kTile));
    }
    if (j < rows) even = max(even, Vec::load(s + j * kTile));
    return max(even, odd);
}

// One step of the online softmax: scores become exp(s - m), m and l move on, and shrink says by how
// much what was summed before has to.
inline void absorb(const ForwardScratch& w, const Tile& t) {
    for (int64_t i = 0; i < t.columns(); i += Vec::width) {
        const int64_t rows = t.rows_at(i);
        const Vec before = Vec::load(w.run.m + i);
        const Vec m = largest(w.s + i, rows, before);
        // Nothing seen yet: any finite base keeps exp(-inf - base) at 0.
        const Vec base = select(m == Vec::set(kMinusInfinity), Vec::zero(), m);
        const Vec shrink = exp(before - base);
        Vec l = Vec::load(w.run.l + i) * shrink;
        for (int64_t j = 0; j < rows; ++j) {
            float* word = w.s + j * kTile + i;
            const Vec e = exp(Vec::load(word) - base);
            e.store(word);
            l += e;
        }
        zero_below(w.s, t, i);
        m.store(w.run.m + i);
        l.store(w.run.l + i);
        shrink.store(w.shrink + i);
    }
}

inline void forward_tile(const ForwardScratch& w, const Problem& p, const Tile& t) {
    const int64_t width = padded(p.D);
    scores(w.s, t, p.head(p.k, t.bh).from(t.j0), w.q, p.D);
    apply_masks(w.s, p, t, w.work);
    absorb(w, t);
    if (p.dropout > 0) {
        draw_tile(w.factors, p, t, w.work);
        multiply_tile(w.s, t, w.factors);
    }
    for (int64_t i = 0; t.j0 > 0 && i < t.queries; ++i) {
        scale_row(w.run.o + i * width, width, Vec::set(w.shrink[i]));
    }
    const Rows v = whole_words(w.v, p.head(p.v, t.bh).from(t.j0), t.keys, p.D);
    add_over_keys(w.run.o, t, w.s, v, width);
}

// While the rows from i0 on of head bh are worked on, those of the next head are on their way.
inline void prefetch_next_head(const Problem& p, int64_t bh, int64_t i0) {
    if (bh + 1 == p.heads()) return;
    prefetch(p.head(p.q, bh + 1).from(i0), std::min(kTile, p.T - i0), p.D);
    prefetch(p.head(p.k, bh + 1).from(i0), std::min(kTile, p.S - i0), p.D);
    prefetch(p.head(p.v, bh + 1).from(i0), std::min(kTile, p.S - i0), p.D);
}

inline void forward_block(const Out& o, const Out& lse, const Problem& p, int64_t bh, int64_t i0) {
    const ForwardScratch w(p.D);
    const int64_t queries = std::min(kTile, p.T - i0), j_end = p.keys_seen(i0 + queries - 1);
    prefetch_next_head(p, bh, i0);
    pack_transposed(w.q, p.head(p.q, bh).from(i0), queries, p.D, p.scale);
    w.run.start(queries, p.D);
    for (int64_t j0 = 0; j0 < j_end; j0 += kTile) {
        forward_tile(w, p, tile_at(p, bh, i0, j0, j_end));
    }
    finish(o, lse, p, bh, i0, queries, w.run);
}

// ---- a handful of queries, as in decoding ------------------------------------------------------

struct FewScratch {
    float* q;            // (T, D)
    float *k, *v;        // (D, keys), (keys, D)
    float *s, *factors;  // (T, keys), (keys)
    Running run;

    FewScratch(int64_t T, int64_t D) {
        const int64_t queries = Carver::room(T * padded(D)), keys = kTile * padded(D);
        Carver carver(
            scratch(static_cast<std::size_t>(2 * queries + kTile * D + keys + (T + 3) * kTile)));
        q = carver.take(queries);
        k = carver.take(kTile * D);
        v = carver.take(keys);
        s = carver.take(T * kTile);
        factors = carver.take(kTile);
        run = {carver.take(kTile), carver.take(kTile), carver.take(queries)};
    }
};

// Scores of keys that query i does not see, or that do not exist, become -inf.
inline void mask_row(float* s, const Problem& p, int64_t bh, int64_t i, int64_t j0, int64_t keys) {
    const int64_t seen = std::clamp<int64_t>(p.keys_seen(i) - j0, 0, keys);
    std::fill(s + seen, s + kTile, kMinusInfinity);
    if (!p.mask) return;
    const int64_t stride = p.mask.stride[3];
    const bool* mask = p.seen(bh, i, j0);
    for (int64_t j = 0; j < seen; ++j) {
        if (!mask[j * stride]) s[j] = kMinusInfinity;
    }
}

// The step of the online softmax for one query; returns by how much what was summed before shrinks.
inline Vec absorb_row(float* s, float& running_m, float& running_l) {
    Vec top = Vec::set(running_m);
    for (int64_t j = 0; j < kTile; j += Vec::width) top = max(top, Vec::load(s + j));
    const float m = top.max();
    const Vec base = Vec::set(m == kMinusInfinity ? 0.0f : m);
    Vec sum = Vec::zero();
    for (int64_t j = 0; j < kTile; j += Vec::width) {
        const Vec e = exp(Vec::load(s + j) - base);
        e.store(s + j);
        sum += e;
    }
    const Vec shrink = exp(Vec::set(running_m) - base);
    running_m = m;
    running_l = running_l * shrink.max() + sum.sum();
    return shrink;
}

inline void few_tile(const FewScratch& w, const Problem& p, int64_t bh, int64_t j0) {
    const int64_t width = padded(p.D), keys = std::min(kTile, p.S - j0);
    const Rows k = p.head(p.k, bh).from(j0);
    pack_transposed(w.k, k, keys, p.D, 1.0f);
    prefetch(k.from(keys), std::min(kTile, p.S - j0 - keys), p.D);
    product(w.s, kTile, Straight{w.q, width}, w.k, kTile, p.T, padded(keys), p.D, Start::zero);
    for (int64_t i = 0; i < p.T; ++i) {
        float* s = w.s + i * kTile;
        mask_row(s, p, bh, i, j0, keys);
        scale_row(w.run.o + i * width, width, absorb_row(s, w.run.m[i], w.run.l[i]));
        if (p.dropout > 0) {
            draw_row(w.factors, p, bh, i, j0, keys);
            for (int64_t j = 0; j < keys; ++j) s[j] *= w.factors[j];
        }
    }
    const Rows v = whole_words(w.v, p.head(p.v, bh).from(j0), keys, p.D);
    product(w.run.o, width, Straight{w.s, kTile}, v.data, v.stride, p.T, width, keys, Start::add);
}

inline void forward_few(const Out& o, const Out& lse, const Problem& p, int64_t bh) {
    const FewScratch w(p.T, p.D);
    pack_rows(w.q, p.head(p.q, bh), p.T, p.D, p.scale);
    w.run.start(p.T, p.D);
    const int64_t j_end = p.keys_seen(p.T - 1);
    for (int64_t j0 = 0; j0 < j_end; j0 += kTile) few_tile(w, p, bh, j0);
    finish(o, lse, p, bh, 0, p.T, w.run);
}

}  // namespace tiles
}  // namespace byhand
