// The forward pass of attention for very few queries, as in decoding, where there may be fewer
// heads than threads: the keys are cut into chunks of a fixed length, whose results are merged in
// ascending order. Here the lanes of a vector are keys. A score is computed by the same sequence of
// fused multiply-adds as in a block of many queries, so that the scores which the backward pass
// recomputes have the same bits as those from which lse was computed.
#pragma once

#include "ops/attention/attention_forward.h"

namespace byhand {
namespace tiles {

// Up to this many queries the lanes of a vector are keys, not queries.
constexpr int64_t kFewQueries = Vec::width;

constexpr int64_t kChunk = 16 * kTile;

struct FewScratch {
    float* q;            // (T, D)
    float *k, *v;        // (D, keys), (keys, D)
    float *s, *factors;  // (T, keys), (keys)

    FewScratch(int64_t T, int64_t D) {
        const int64_t queries = Carver::room(T * padded(D)), keys = kTile * padded(D);
        Carver carver(
            scratch(static_cast<std::size_t>(queries + kTile * D + keys + (T + 1) * kTile)));
        q = carver.take(queries);
        k = carver.take(kTile * D);
        v = carver.take(keys);
        s = carver.take(T * kTile);
        factors = carver.take(kTile);
    }
};

// The results of one chunk of keys of one head: the largest scores, sums, weighted values.
constexpr int64_t partial_size(int64_t T, int64_t D) { return 2 * kTile + T * padded(D); }
inline Running partial(float* memory) {
    return {memory, memory + kTile, memory + 2 * kTile, false};
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

// One query's step of the online softmax (Milakov & Gimelshein 2018). Returns the factor by which
// the earlier sums must be multiplied.
inline Vec absorb_row(float* s, float& running_m, float& running_l) {
    Vec top = Vec::set(running_m);
    for (int64_t j = 0; j < kTile; j += Vec::width) top = max(top, Vec::load(s + j));
    const float m = top.max();
    const Vec base = Vec::set(m == kMinusInfinity ? 0.0f : m);
    Vec sum = Vec::zero();
    for (int64_t j = 0; j < kTile; j += Vec::width) {
        const Vec e = exp_score(Vec::load(s + j) - base);
        e.store(s + j);
        sum += e;
    }
    const Vec shrink = exp_score(Vec::set(running_m) - base);
    running_m = m;
    running_l = running_l * shrink.max() + sum.sum();
    return shrink;
}

inline void few_tile(const FewScratch& w, const Problem& p, int64_t bh, int64_t j0, int64_t j_end,
                     const Running& run) {
    const int64_t width = padded(p.D), keys = std::min(kTile, j_end - j0);
    const int64_t following = std::min(kTile, j_end - j0 - keys);
    const int64_t bg = p.group_of(bh);
    if (p.mask && hidden(p, tile_at(p, bh, 0, p.T, j0, j_end))) return;
    const Rows k = p.group(p.k, bg).from(j0), v = p.group(p.v, bg).from(j0);
    Ahead ahead(kTile / Vec::width);
    ahead.read(k.from(keys), following, p.D);
    ahead.read(v.from(keys), following, p.D);
    for (int64_t j = 0; j < keys; j += Vec::width) {
        const int64_t count = std::min<int64_t>(Vec::width, keys - j);
        pack_transposed(w.k + j, k.from(j), count, p.D, 1.0f);
        ahead.step();
    }
    product(w.s, kTile, Straight{w.q, width}, w.k, kTile, p.T, padded(keys), p.D, Start::zero);
    for (int64_t i = 0; i < p.T; ++i) {
        float* s = w.s + i * kTile;
        if (p.adjusts()) adjust_row(s, p, bh, i, j0, keys);
        mask_row(s, p, bh, i, j0, keys);
        scale_row(run.o + i * width, width, absorb_row(s, run.m[i], run.l[i]));
        if (p.dropout > 0) {
            draw_row(w.factors, p, bh, i, j0, keys);
            for (int64_t j = 0; j < keys; ++j) s[j] *= w.factors[j];
        }
    }
    const Rows whole = whole_words(w.v, v, keys, p.D);
    product(run.o, width, Straight{w.s, kTile}, whole.data, whole.stride, p.T, width, keys,
            Start::add);
}

// Processes the keys [j_begin, j_end) of one head.
inline void forward_few(const Problem& p, int64_t bh, int64_t j_begin, int64_t j_end, Running run) {
    const FewScratch w(p.T, p.D);
    pack_rows(w.q, p.head(p.q, bh), p.T, p.D, p.scale);
    run.start();
    fill_zero(run.o, p.T * padded(p.D));
    j_begin = std::max(j_begin, p.first_tile(p.whole(bh / p.H), 0));
    j_end = std::min(j_end, p.keys_end(bh, p.T - 1));
    for (int64_t j0 = j_begin; j0 < j_end; j0 += kTile) few_tile(w, p, bh, j0, j_end, run);
}

// Adds the next chunk's results to those of the chunks before it.
inline void merge(const Running& into, const Running& from, int64_t T, int64_t D) {
    const int64_t width = padded(D);
    for (int64_t i = 0; i < T; ++i) {
        const float m = std::max(into.m[i], from.m[i]), base = m == kMinusInfinity ? 0.0f : m;
        const Vec old = exp_score(Vec::set(into.m[i] - base));
        const Vec added = exp_score(Vec::set(from.m[i] - base));
        into.m[i] = m;
        into.l[i] = into.l[i] * old.max() + from.l[i] * added.max();
        float *y = into.o + i * width, *x = from.o + i * width;
        for (int64_t c = 0; c < width; c += Vec::width) {
            (Vec::load(y + c) * old + Vec::load(x + c) * added).store(y + c);
        }
    }
}

}  // namespace tiles
}  // namespace byhand
