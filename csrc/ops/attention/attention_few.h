// The forward pass of attention for very few queries, as in decoding, where there may be fewer
// heads than threads: each chunk of keys of each head of keys is a unit of work. All query heads
// that read it are done together, so that keys and values are read once.
//
// Here the lanes of a vector are keys. Every score, maximum and sum is computed by the same
// sequence of operations as in a block of many queries, so that a query has the same bits in both.
#pragma once

#include "ops/attention/attention_forward.h"

namespace byhand {
namespace tiles {

// Up to this many queries the lanes of a vector are keys, not queries.
constexpr int64_t kFewQueries = Vec::width;

// Query i of head n of a group is row n * T + i of the arrays (rows, ...); its m and l are at
// n * kFewQueries + i, so that those of a head begin on a vector.
struct FewScratch {
    float* q;            // (rows, D)
    float *k, *v;        // (D, keys), (keys, D)
    float *s, *factors;  // (rows, keys), (keys)

    FewScratch(int64_t rows, int64_t D) {
        const int64_t queries = Carver::room(rows * padded(D)), keys = kTile * padded(D);
        Carver carver(
            scratch(static_cast<std::size_t>(queries + kTile * D + keys + (rows + 1) * kTile)));
        q = carver.take(queries);
        k = carver.take(kTile * D);
        v = carver.take(keys);
        s = carver.take(rows * kTile);
        factors = carver.take(kTile);
    }
};

// The results of one chunk of keys of one group: bases, sums, weighted values.
inline int64_t partial_size(const Problem& p) {
    return p.shared * (2 * kFewQueries + p.T * padded(p.D));
}
inline Running partial(const Problem& p, float* memory) {
    float* l = memory + p.shared * kFewQueries;
    return {memory, l, l + p.shared * kFewQueries, false};
}
// The part of head n of the group.
inline Running of_head(const Problem& p, const Running& run, int64_t n) {
    return {run.m + n * kFewQueries, run.l + n * kFewQueries, run.o + n * p.T * padded(p.D),
            run.fresh};
}

// Scores of keys that query i does not see, or that do not exist, become -inf.
inline void mask_row(float* s, const Problem& p, int64_t bh, int64_t i, int64_t j0, int64_t keys) {
    const int64_t begin = std::clamp<int64_t>(p.keys_begin(i) - j0, 0, keys);
    const int64_t end = std::clamp<int64_t>(p.keys_end(bh, i) - j0, 0, keys);
    std::fill(s, s + begin, kMinusInfinity);
    std::fill(s + end, s + kTile, kMinusInfinity);
    if (!p.mask) return;
    const int64_t stride = p.mask.stride[3];
    const bool* mask = p.seen(bh, i, j0);
    for (int64_t j = 0; j < end; j += Vec::width) {
        const Mask word = seen_word(mask + j * stride, stride, end - j);
        select(word, Vec::load(s + j), Vec::set(kMinusInfinity)).store(s + j);
    }
}

// absorb() for one query: replaces scores by exp(s - m) and updates m and l. Returns whether m has
// changed; then shrink is the factor by which earlier sums must be multiplied.
inline bool absorb_row(float* s, float& running_m, float& running_l, Vec& shrink) {
    Vec tops = Vec::load(s);
    for (int64_t j = Vec::width; j < kTile; j += Vec::width) tops = max(tops, Vec::load(s + j));
    const float top = tops.max(), before = running_m;
    const bool moved = top > before + kSlack;
    const float m = moved ? top : before;
    const Vec base = Vec::set(m == kMinusInfinity ? 0.0f : m);
    for (int64_t j = 0; j < kTile; j += Vec::width) {
        exp_score(Vec::load(s + j) - base).store(s + j);
    }
    float l = running_l;
    if (moved) {
        shrink = exp_score(Vec::set(before) - base);
        running_m = m;
        l *= shrink.max();
    }
    for (int64_t j = 0; j < kTile; ++j) l += s[j];
    running_l = l;
    return moved;
}

// Whether the mask hides all keys from all queries of all heads of the group.
inline bool hidden_from_group(const Problem& p, int64_t bh, int64_t j0, int64_t j_end) {
    for (int64_t n = 0; n < p.shared; ++n) {
        if (!hidden(p, tile_at(p, bh + n, 0, p.T, j0, j_end))) return false;
    }
    return true;
}

inline void few_tile(const FewScratch& w, const Problem& p, int64_t bg, int64_t j0, int64_t j_end,
                     const Running& run) {
    const int64_t width = padded(p.D), keys = std::min(kTile, j_end - j0);
    const int64_t following = std::min(kTile, j_end - j0 - keys), first = p.first_head(bg);
    if (p.mask && hidden_from_group(p, first, j0, j_end)) return;
    const Rows k = p.group(p.k, bg).from(j0), v = p.group(p.v, bg).from(j0);
    Ahead ahead(kTile / Vec::width);
    ahead.read(k.from(keys), following, p.D);
    ahead.read(v.from(keys), following, p.D);
    for (int64_t j = 0; j < keys; j += Vec::width) {
        const int64_t count = std::min<int64_t>(Vec::width, keys - j);
        pack_transposed(w.k + j, k.from(j), count, p.D, 1.0f);
        ahead.step();
    }
    const int64_t rows = p.shared * p.T;
    product(w.s, kTile, Straight{w.q, width}, w.k, kTile, rows, padded(keys), p.D, Start::zero);
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t n = r / p.T, i = r % p.T, bh = first + n;
        float* s = w.s + r * kTile;
        if (p.adjusts()) adjust_row(s, p, bh, i, j0, keys);
        mask_row(s, p, bh, i, j0, keys);
        Vec shrink;
        const int64_t at = n * kFewQueries + i;
        if (absorb_row(s, run.m[at], run.l[at], shrink)) {
            scale_row(run.o + r * width, width, shrink);
        }
        if (p.dropout > 0) {
            draw_row(w.factors, p, bh, i, j0, keys);
            for (int64_t j = 0; j < keys; ++j) s[j] *= w.factors[j];
        }
    }
    const Rows whole = whole_words(w.v, v, keys, p.D);
    product(run.o, width, Straight{w.s, kTile}, whole.data, whole.stride, rows, width, keys,
            Start::add);
}

// Processes the keys [j_begin, j_end), part of one chunk, of one group.
inline void forward_few(const Problem& p, int64_t bg, int64_t j_begin, int64_t j_end,
                        const Running& run) {
    const int64_t width = padded(p.D), first = p.first_head(bg);
    const FewScratch w(p.shared * p.T, p.D);
    for (int64_t n = 0; n < p.shared; ++n) {
        pack_rows(w.q + n * p.T * width, p.head(p.q, first + n), p.T, p.D, p.scale);
    }
    std::fill_n(run.m, p.shared * kFewQueries, kMinusInfinity);
    fill_zero(run.l, p.shared * kFewQueries);
    fill_zero(run.o, p.shared * p.T * width);
    for (int64_t j0 = j_begin; j0 < j_end; j0 += kTile) few_tile(w, p, bg, j0, j_end, run);
}

}  // namespace tiles
}  // namespace byhand
