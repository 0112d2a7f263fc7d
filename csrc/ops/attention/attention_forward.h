// The forward pass of attention over a range of queries.
//
// For each query a base m, l = sum exp(s - m) and o = sum exp(s - m) v are updated tile by tile
// over the keys; the result is o / l and the log-sum-exp m + log l. In the online softmax the base
// is the largest score so far (Milakov & Gimelshein 2018; Dao et al. 2022), but any number near it
// gives the same result. Changing it from m to M means multiplying l and o by exp(m - M), so it is
// changed only when a score exceeds it by more than kSlack.
//
// All blocks of a range of queries are multiplied by one tile of keys before the next one is
// packed. After every kChunk keys the sums begin anew and are merged with those of the chunks
// before, so that in attention_few.h several threads can divide the keys of a query.
#pragma once

#include <utility>

#include "ops/attention/attention_adjust.h"
#include "threads/threads.h"

namespace byhand {
namespace tiles {

// The keys whose sums are computed one after the other.
constexpr int64_t kChunk = 16 * kTile;

// exp(kSlack) is far from the limits of a float's range.
constexpr float kSlack = 8.0f;

// The state of a block's queries after the keys so far.
struct Running {
    float *m, *l;  // kTile each
    float* o;      // (queries, D), undefined while fresh
    bool fresh;    // no key has been processed yet

    void start() {
        std::fill_n(m, kTile, kMinusInfinity);
        fill_zero(l, kTile);
        fresh = true;
    }
};

// Divides by the sums and writes the results of the queries from i0 on.
inline void finish(const Out& o, const Out& lse, const Problem& p, int64_t bh, int64_t i0,
                   int64_t queries, const Running& run) {
    if (run.fresh) fill_zero(run.o, queries * padded(p.D));
    const Target y = p.head(o, bh).from(i0);
    for (int64_t i = 0; i < queries; ++i) {
        const float scale = run.l[i] == 0.0f ? 0.0f : 1.0f / run.l[i];
        unpack_row(y.row(i), run.o + i * padded(p.D), p.D, Vec::set(scale));
    }
    float* z = lse.as<float>() + bh * p.T + i0;
    for (int64_t i = 0; i < queries; i += Vec::width) {
        (Vec::load(run.m + i) + log(Vec::load(run.l + i))).store(z + i, queries - i);
    }
}

// Adds the next chunk's results to those of the chunks before it.
inline void merge(const Running& into, const Running& from, int64_t queries, int64_t D) {
    const int64_t width = padded(D);
    for (int64_t i = 0; i < queries; i += Vec::width) {
        const Vec before = Vec::load(into.m + i), next = Vec::load(from.m + i);
        const Vec m = max(before, next);
        const Vec base = select(m == Vec::set(kMinusInfinity), Vec::zero(), m);
        const Vec kept = exp_score(before - base), added = exp_score(next - base);
        m.store(into.m + i);
        (Vec::load(into.l + i) * kept + Vec::load(from.l + i) * added).store(into.l + i);
        float of_before[Vec::width], of_next[Vec::width];
        kept.store(of_before);
        added.store(of_next);
        for (int64_t n = 0; n < std::min<int64_t>(Vec::width, queries - i); ++n) {
            const Vec x = Vec::set(of_before[n]), y = Vec::set(of_next[n]);
            float* sum = into.o + (i + n) * width;
            const float* o = from.o + (i + n) * width;
            for (int64_t c = 0; c < width; c += Vec::width) {
                (Vec::load(sum + c) * x + Vec::load(o + c) * y).store(sum + c);
            }
        }
    }
}

// The queries [i_begin, i_end) of one head, of one piece of its row.
struct Range {
    int64_t bh, i_begin, i_end;
    Piece piece;

    int64_t blocks() const { return (i_end - i_begin + kTile - 1) / kTile; }
};

struct Block {
    int64_t i0, queries;
    int64_t j_begin, j_end;  // no query sees a key outside [j_begin, j_end)
    float* q;                // (D, queries), multiplied by the scale
    Running run, before;     // of the present chunk of keys, and of the chunks before it

    // Adds the sums of the present chunk to those before it.
    void end_chunk(int64_t D) {
        if (run.fresh) return;
        if (before.fresh) {
            std::swap(run, before);
        } else {
            merge(before, run, queries, D);
        }
        run.start();
    }
};

// The most blocks of a range: enough to make the cost of packing the keys small.
constexpr int64_t kBlocks = 8;

struct ForwardScratch {
    Block blocks[kBlocks];
    float* s;               // (keys, queries)
    float *k, *v;           // (keys, D)
    float* shrink;          // per query
    float *factors, *work;  // one tile, two tiles

    ForwardScratch(int64_t D, bool chunks) {
        const int64_t turned = kTile * D, rows = kTile * padded(D);
        const int64_t keys = kTile * padded(D), tile = kTile * kTile;
        const int64_t block = turned + (chunks ? 2 : 1) * (rows + 2 * kTile);
        Carver carver(
            scratch(static_cast<std::size_t>(kBlocks * block + 2 * keys + kTile + 4 * tile)));
        const auto running = [&]() -> Running {
            return {carver.take(kTile), carver.take(kTile), carver.take(rows), true};
        };
        for (Block& b : blocks) {
            b.q = carver.take(turned);
            b.run = running();
            b.before = chunks ? running() : Running{nullptr, nullptr, nullptr, true};
        }
        s = carver.take(tile);
        k = carver.take(keys);
        v = carver.take(keys);
        shrink = carver.take(kTile);
        factors = carver.take(tile);
        work = carver.take(2 * tile);
    }
};

// The largest of the scores of one word of queries, keys [j, end).
inline Vec largest(const float* s, int64_t j, int64_t end) {
    Vec even = Vec::set(kMinusInfinity), odd = even;
    for (; j + 2 <= end; j += 2) {
        even = max(even, Vec::load(s + j * kTile));
        odd = max(odd, Vec::load(s + (j + 1) * kTile));
    }
    if (j < end) even = max(even, Vec::load(s + j * kTile));
    return max(even, odd);
}

// Replaces scores by exp(s - m) and updates m and l. Returns whether some m has changed; then
// shrink holds the factors by which earlier sums must be multiplied.
inline bool absorb(const ForwardScratch& w, const Tile& t, const Running& run) {
    bool moved = false;
    for (int64_t i = 0; i < t.columns(); i += Vec::width) {
        const int64_t begin = t.keys_begin(i), end = t.word_end(i);
        const Vec before = Vec::load(run.m + i), top = largest(w.s + i, begin, end);
        const Mask move = top > before + Vec::set(kSlack);
        const Vec m = select(move, top, before);
        // While every score is -inf, any finite base gives exp(-inf - base) = 0.
        const Vec base = select(m == Vec::set(kMinusInfinity), Vec::zero(), m);
        Vec l = Vec::load(run.l + i);
        if (any(move)) {
            const Vec shrink = exp_score(before - base);
            shrink.store(w.shrink + i);
            m.store(run.m + i);
            l *= shrink;
            moved = true;
        } else {
            Vec::set(1.0f).store(w.shrink + i);
        }
        for (int64_t j = begin; j < end; ++j) {
            float* word = w.s + j * kTile + i;
            const Vec e = exp_score(Vec::load(word) - base);
            e.store(word);
            l += e;
        }
        zero_around(w.s, t, i);
        l.store(run.l + i);
    }
    return moved;
}

inline void forward_tile(const ForwardScratch& w, const Problem& p, const Tile& t, Seen seen,
                         Rows k, Rows v, Block& block, Ahead& ahead) {
    Running& run = block.run;
    const int64_t width = padded(p.D);
    scores(w.s, t, k, block.q, p.D, ahead);
    if (p.adjusts()) adjust_tile(w.s, p, t, w.factors, nullptr);
    apply_staircases(w.s, t);
    if (seen == Seen::some) apply_mask(w.s, p, t, w.work);
    const bool moved = absorb(w, t, run);
    if (p.dropout > 0) {
        draw_tile(w.factors, p, t, w.work);
        multiply_tile(w.s, t, w.factors);
    }
    for (int64_t i = 0; moved && !run.fresh && i < t.queries; ++i) {
        scale_row(run.o + i * width, width, Vec::set(w.shrink[i]));
    }
    const Start start = run.fresh ? Start::zero : Start::add;
    sum_over_keys({run.o, width}, t, w.s, v, width, start, ahead);
    run.fresh = false;
}

inline void start(ForwardScratch& w, const Problem& p, const Range& range) {
    const Rows q = p.head(p.q, range.bh);
    for (int64_t n = 0; n < range.blocks(); ++n) {
        Block& b = w.blocks[n];
        b.i0 = range.i_begin + n * kTile;
        b.queries = std::min(kTile, range.i_end - b.i0);
        b.j_begin = p.first_tile(range.piece, b.i0);
        b.j_end = p.keys_end(range.piece, range.bh, b.i0 + b.queries - 1);
        b.run.start();
        pack_transposed(b.q, q.from(b.i0), b.queries, p.D, p.scale);
    }
}

// What to prefetch while the keys before j0 are processed: the following keys of the range, or the
// memory of its results and the next range.
inline Ahead what_follows(const Out& o, const Problem& p, const Range& range, int64_t j0,
                          int64_t j_end, const Range* next) {
    Ahead ahead(range.blocks() * 2 * kTile / kStrip);
    int64_t bg = p.group_of(range.bh), keys = std::min(kTile, j_end - j0);
    if (keys <= 0) {
        ahead.write(p.head(o, range.bh).from(range.i_begin), range.i_end - range.i_begin, p.D);
        if (next == nullptr) return ahead;
        bg = p.group_of(next->bh);
        ahead.read(p.head(p.q, next->bh).from(next->i_begin), next->i_end - next->i_begin, p.D);
        j0 = p.first_tile(next->piece, next->i_begin);
        keys = std::min(kTile, std::min(p.keys(bg), next->piece.j_end) - j0);
    }
    ahead.read(p.group(p.k, bg).from(j0), keys, p.D);
    ahead.read(p.group(p.v, bg).from(j0), keys, p.D);
    return ahead;
}

inline void forward_range(const Out& o, const Out& lse, const Problem& p, const Range& range,
                          const Range* next) {
    ForwardScratch w(p.D, range.piece.keys() > kChunk);
    start(w, p, range);
    const int64_t blocks = range.blocks(), j_end = w.blocks[blocks - 1].j_end;
    const int64_t bg = p.group_of(range.bh);
    for (int64_t j0 = w.blocks[0].j_begin; j0 < j_end; j0 += kTile) {
        if ((j0 - range.piece.j_begin) % kChunk == 0) {
            for (int64_t n = 0; n < blocks; ++n) w.blocks[n].end_chunk(p.D);
        }
        Ahead ahead = what_follows(o, p, range, j0 + kTile, j_end, next);
        const int64_t keys = std::min(kTile, j_end - j0);
        Rows k = p.group(p.k, bg).from(j0), v = p.group(p.v, bg).from(j0);
        bool ready = false;  // keys that the mask hides from every query are not packed
        for (int64_t n = 0; n < blocks; ++n) {
            Block& b = w.blocks[n];
            if (j0 < b.j_begin || j0 >= b.j_end) continue;
            const Tile t = tile_at(p, range.bh, b.i0, b.queries, j0, b.j_end);
            const Seen seen = p.mask ? look(p, t, w.work) : Seen::all;
            if (seen == Seen::none) continue;
            if (!ready) {
                if (blocks > 1) k = packed_rows(w.k, k, keys, p.D);
                v = blocks > 1 ? packed_rows(w.v, v, keys, p.D) : whole_words(w.v, v, keys, p.D);
                ready = true;
            }
            forward_tile(w, p, t, seen, k, v, b, ahead);
        }
    }
    for (int64_t n = 0; n < blocks; ++n) {
        Block& b = w.blocks[n];
        if (!b.before.fresh) b.end_chunk(p.D);
        finish(o, lse, p, range.bh, b.i0, b.queries, b.before.fresh ? b.run : b.before);
    }
}

}  // namespace tiles
}  // namespace byhand
