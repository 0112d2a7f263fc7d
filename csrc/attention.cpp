// Attention in tiles of 64 queries by 64 keys that live in the first caches.
//
// Forward, one block of queries at a time (Milakov & Gimelshein 2018; Dao et al. 2022). Per query
// the block carries the largest score m so far, l = sum exp(s - m) and o = sum exp(s - m) v. A new
// tile of keys with largest score m' turns them into
//     M = max(m, m'),  l = e^(m - M) l + sum_j e^(s_j - M),  o = e^(m - M) o + sum_j e^(s_j - M)
//     v_j
// and at the end o / l is the answer and lse = m + log l is all that the backward pass needs:
//
// Backward, p = exp(s - lse) is recomputed tile by tile. A block of queries stays while the keys
// pass by; its dq is finished when they have, dk and dv of a range of keys accumulate in scratch.
//
// Parallel work never shares a sum, and every sum runs over keys, or queries, in ascending order:
// the bits do not depend on the number of threads.
#include "attention.h"

#include "attention_scores.h"
#include "core/threads.h"
#include "core/vecmath.h"

namespace byhand {
namespace {

using namespace tiles;

// Queries so few that the lanes of a word are better spent on keys than on them.
constexpr int64_t kFewQueries = Vec::width;

// Cuts scratch memory into pieces.
class Carver {
  public:
    explicit Carver(float* memory) : next_(memory) {}
    float* take(int64_t floats) {
        float* piece = next_;
        next_ += round_up(floats, 16);
        return piece;
    }

  private:
    float* next_;
};

// Slices of less work than this are not worth waking a thread for.
int64_t grain(double flops_per_unit) {
    return static_cast<int64_t>(1e5 / std::max(flops_per_unit, 1.0)) + 1;
}

// Large and small blocks in turn: under the causal rule every slice of them is about as much work.
int64_t interleaved(int64_t i, int64_t n) { return i % 2 == 0 ? i / 2 : n - 1 - i / 2; }

void zero_below(float* s, const Tile& t, int64_t i) {
    const int64_t rows = t.rows_at(i), end = std::min(t.keys, rows + kStrip);
    for (int64_t j = rows; j < end; ++j) Vec::zero().store(s + j * kTile + i);
}

void multiply_tile(float* s, const Tile& t, const float* factors) {
    for (int64_t i = 0; i < t.columns(); i += Vec::width) {
        const int64_t rows = t.rows_at(i);
        for (int64_t j = 0; j < rows; ++j) {
            const int64_t at = j * kTile + i;
            (Vec::load(s + at) * Vec::load(factors + at)).store(s + at);
        }
    }
}

// ---- forward -----------------------------------------------------------------------------------

void start(float* m, float* l, float* o, int64_t size) {
    std::fill_n(m, kTile, kMinusInfinity);
    fill_zero(l, kTile);
    fill_zero(o, size);
}

// Divides by the sums and writes the queries from i0 on.
void finish(const Out& o, const Out& lse, const Problem& p, int64_t bh, int64_t i0, int64_t queries,
            const float* m, const float* l, const float* sums) {
    float* y = o.as<float>() + ((bh / p.H * p.T + i0) * p.H + bh % p.H) * p.D;
    for (int64_t i = 0; i < queries; ++i) {
        const float scale = l[i] == 0.0f ? 0.0f : 1.0f / l[i];
        unpack_row(y + i * p.H * p.D, sums + i * padded(p.D), p.D, Vec::set(scale));
    }
    float* z = lse.as<float>() + bh * p.T + i0;
    for (int64_t i = 0; i < queries; i += Vec::width) {
        (Vec::load(m + i) + log(Vec::load(l + i))).store(z + i, queries - i);
    }
}

struct ForwardScratch {
    float *q, *s, *v, *o, *work, *factors;
    float *m, *l, *shrink;  // per query

    static int64_t floats(int64_t D) { return kTile * (D + 2 * padded(D) + 4 * kTile + 3); }
    explicit ForwardScratch(int64_t D) {
        Carver carver(scratch(static_cast<std::size_t>(floats(D))));
        q = carver.take(D * kTile);
        s = carver.take(kTile * kTile);
        v = carver.take(kTile * padded(D));
        o = carver.take(kTile * padded(D));
        work = carver.take(2 * kTile * kTile);
        factors = carver.take(kTile * kTile);
        m = carver.take(kTile);
        l = carver.take(kTile);
        shrink = carver.take(kTile);
    }
};

// The largest of m and the scores of one word of queries.
Vec largest(const float* s, int64_t rows, Vec m) {
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
void absorb(const ForwardScratch& w, const Tile& t) {
    for (int64_t i = 0; i < t.columns(); i += Vec::width) {
        const int64_t rows = t.rows_at(i);
        const Vec before = Vec::load(w.m + i);
        const Vec m = largest(w.s + i, rows, before);
        // Nothing seen yet: any finite base keeps exp(-inf - base) at 0.
        const Vec base = select(m == Vec::set(kMinusInfinity), Vec::zero(), m);
        const Vec shrink = exp(before - base);
        Vec l = Vec::load(w.l + i) * shrink;
        for (int64_t j = 0; j < rows; ++j) {
            float* word = w.s + j * kTile + i;
            const Vec e = exp(Vec::load(word) - base);
            e.store(word);
            l += e;
        }
        zero_below(w.s, t, i);
        m.store(w.m + i);
        l.store(w.l + i);
        shrink.store(w.shrink + i);
    }
}

void forward_tile(const ForwardScratch& w, const Problem& p, const Tile& t) {
    const int64_t width = padded(p.D);
    const Rows k = p.head(p.k, t.bh).from(t.j0), v = p.head(p.v, t.bh).from(t.j0);
    scores(w.s, t, k, w.q, p.D);
    apply_masks(w.s, p, t, w.work);
    absorb(w, t);
    if (p.dropout > 0) {
        draw_tile(w.factors, p, t, w.work);
        multiply_tile(w.s, t, w.factors);
    }
    if (t.j0 > 0) {
        for (int64_t i = 0; i < t.queries; ++i) {
            scale_row(w.o + i * width, width, Vec::set(w.shrink[i]));
        }
    }
    add_over_keys(w.o, t, w.s, whole_words(w.v, v, t.keys, p.D), width);
}

void forward_block(const Out& o, const Out& lse, const Problem& p, int64_t bh, int64_t i0) {
    const ForwardScratch w(p.D);
    const int64_t queries = std::min(kTile, p.T - i0), j_end = p.keys_until(i0 + queries - 1);
    pack_transposed(w.q, p.head(p.q, bh).from(i0), queries, p.D, p.scale);
    start(w.m, w.l, w.o, queries * padded(p.D));
    for (int64_t j0 = 0; j0 < j_end; j0 += kTile) forward_tile(w, p, Tile(p, bh, i0, j0, j_end));
    finish(o, lse, p, bh, i0, queries, w.m, w.l, w.o);
}

// ---- forward, a handful of queries -------------------------------------------------------------
//
// Decoding has one query and many keys, so here the keys are in the lanes. Each score is the same
// chain of fused multiply-adds as in a tile: the backward pass finds the very bits that lse is of.

struct FewScratch {
    float *q, *o;        // (T, D)
    float *k, *v;        // (D, keys), (keys, D)
    float *s, *factors;  // (T, keys), (keys)
    float *m, *l;        // per query

    FewScratch(int64_t T, int64_t D) {
        const int64_t rows = round_up(T * padded(D), 16), keys = kTile * padded(D);
        Carver carver(
            scratch(static_cast<std::size_t>(2 * rows + kTile * D + keys + (T + 3) * kTile)));
        q = carver.take(rows);
        o = carver.take(rows);
        k = carver.take(kTile * D);
        v = carver.take(keys);
        s = carver.take(T * kTile);
        factors = carver.take(kTile);
        m = carver.take(kTile);
        l = carver.take(kTile);
    }
};

void apply_row_mask(float* s, const Problem& p, int64_t bh, int64_t i, int64_t j0, int64_t keys) {
    const int64_t seen = p.keys_until(i) - j0;
    for (int64_t j = std::max<int64_t>(seen, 0); j < kTile; ++j) s[j] = kMinusInfinity;
    if (!p.mask) return;
    const int64_t stride = p.mask.stride[3];
    const bool* mask = p.seen(bh, i, j0);
    for (int64_t j = 0; j < keys; ++j) {
        if (!mask[j * stride]) s[j] = kMinusInfinity;
    }
}

// The step of the online softmax for one query; returns by how much what was summed before shrinks.
Vec absorb_row(float* s, float* running_m, float* running_l) {
    Vec top = Vec::set(*running_m);
    for (int64_t j = 0; j < kTile; j += Vec::width) top = max(top, Vec::load(s + j));
    const float m = top.max();
    const Vec base = Vec::set(m == kMinusInfinity ? 0.0f : m);
    Vec sum = Vec::zero();
    for (int64_t j = 0; j < kTile; j += Vec::width) {
        const Vec e = exp(Vec::load(s + j) - base);
        e.store(s + j);
        sum += e;
    }
    const Vec shrink = exp(Vec::set(*running_m) - base);
    *running_m = m;
    *running_l = *running_l * shrink.max() + sum.sum();
    return shrink;
}

void few_tile(const FewScratch& w, const Problem& p, int64_t bh, int64_t j0) {
    const int64_t width = padded(p.D), keys = std::min(kTile, p.S - j0);
    const Rows k = p.head(p.k, bh).from(j0), v = p.head(p.v, bh).from(j0);
    pack_transposed(w.k, k, keys, p.D, 1.0f);
    product(w.s, kTile, Straight{w.q, width}, w.k, kTile, p.T, padded(keys), p.D, Start::zero);
    for (int64_t i = 0; i < p.T; ++i) {
        float* s = w.s + i * kTile;
        apply_row_mask(s, p, bh, i, j0, keys);
        scale_row(w.o + i * width, width, absorb_row(s, w.m + i, w.l + i));
        if (p.dropout > 0) {
            draw_row(w.factors, p, bh, i, j0, keys);
            for (int64_t j = 0; j < keys; ++j) s[j] *= w.factors[j];
        }
    }
    prefetch(k.from(kTile), std::min(kTile, p.S - j0 - keys), p.D);
    const Rows b = whole_words(w.v, v, keys, p.D);
    product(w.o, width, Straight{w.s, kTile}, b.data, b.stride, p.T, width, keys, Start::add);
}

void forward_few(const Out& o, const Out& lse, const Problem& p, int64_t bh) {
    const FewScratch w(p.T, p.D);
    const int64_t width = padded(p.D), j_end = p.keys_until(p.T - 1);
    pack_rows(w.q, p.head(p.q, bh), p.T, p.D, p.scale);
    start(w.m, w.l, w.o, p.T * width);
    for (int64_t j0 = 0; j0 < j_end; j0 += kTile) few_tile(w, p, bh, j0);
    finish(o, lse, p, bh, 0, p.T, w.m, w.l, w.o);
}

// ---- backward ----------------------------------------------------------------------------------

struct BackwardScratch {
    float *q_turned, *do_turned;        // (D, queries)
    float *q, *do_, *dq;                // (queries, D)
    float *p, *ds, *dropped, *factors;  // (keys, queries)
    float *lse, *delta, *work;

    static int64_t floats(int64_t D) { return kTile * (2 * D + 3 * padded(D) + 6 * kTile + 2); }
    explicit BackwardScratch(int64_t D) {
        Carver carver(scratch(static_cast<std::size_t>(floats(D))));
        q_turned = carver.take(D * kTile);
        do_turned = carver.take(D * kTile);
        q = carver.take(kTile * padded(D));
        do_ = carver.take(kTile * padded(D));
        dq = carver.take(kTile * padded(D));
        p = carver.take(kTile * kTile);
        ds = carver.take(kTile * kTile);
        work = carver.take(2 * kTile * kTile);
        dropped = carver.take(kTile * kTile);
        factors = carver.take(kTile * kTile);
        lse = carver.take(kTile);
        delta = carver.take(kTile);
    }
};

struct Gradients {
    StridedOut dq, dk, dv;
    In do_, o, lse;

    // The rows of head bh in an array laid out as o is.
    static Rows head(const In& x, const Problem& p, int64_t bh) {
        return {x.as<float>() + (bh / p.H * p.T * p.H + bh % p.H) * p.D, p.H * p.D};
    }
};

// What one thread works on: the queries [i_begin, i_end) against the keys [j_begin, j_end) of a
// head, for the gradients of the queries, of the keys, or of both.
struct Part {
    int64_t bh, i_begin, i_end, j_begin, j_end;
    bool queries, keys;
};

// The keys of a part, rows of whole words, and where the gradients of keys and values add up.
struct KeyRows {
    Rows k;
    float *dk, *dv;

    KeyRows(const Rows& k_, int64_t keys, int64_t D) {
        const int64_t size = keys * padded(D);
        dk = scratch(static_cast<std::size_t>(3 * size), 1);
        dv = dk + size;
        k = whole_words(dv + size, k_, keys, D);
        fill_zero(dk, 2 * size);
    }
};

// The queries of a tile, rows of whole words.
struct QueryRows {
    Rows q, do_;
};

QueryRows load_queries(const BackwardScratch& w, const Problem& p, const Gradients& g, int64_t bh,
                  int64_t i0, int64_t queries) {
    const Rows q = p.head(p.q, bh).from(i0);
    const Rows do_ = g.head(g.do_, p, bh).from(i0), o = g.head(g.o, p, bh).from(i0);
    pack_transposed(w.q_turned, q, queries, p.D, p.scale);
    pack_transposed(w.do_turned, do_, queries, p.D, 1.0f);
    fill_zero(w.dq, queries * padded(p.D));
    // Lanes without a query, and queries that saw no key, get p = exp(s - inf) = 0.
    std::fill_n(w.lse, kTile, INFINITY);
    fill_zero(w.delta, kTile);
    const float* lse = g.lse.as<float>() + bh * p.T + i0;
    for (int64_t i = 0; i < queries; ++i) {
        if (lse[i] != kMinusInfinity) w.lse[i] = lse[i];
        Vec sum = Vec::zero();
        for (int64_t d = 0; d < p.D; d += Vec::width) {
            const int64_t n = p.D - d;
            sum = fma(Vec::load(do_.row(i) + d, n), Vec::load(o.row(i) + d, n), sum);
        }
        w.delta[i] = sum.sum();
    }
    return {whole_words(w.q, q, queries, p.D), whole_words(w.do_, do_, queries, p.D)};
}

// s -> p and dp -> ds = p * (dp - delta).
void softmax_gradient(const BackwardScratch& w, const Tile& t) {
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

void backward_tile(const BackwardScratch& w, const QueryRows& queries, const KeyRows& keys, const Problem& p, const Tile& t,
                   const Part& part) {
    const int64_t width = padded(p.D), at = (t.j0 - part.j_begin) * width;
    scores(w.p, t, p.head(p.k, t.bh).from(t.j0), w.q_turned, p.D);
    scores(w.ds, t, p.head(p.v, t.bh).from(t.j0), w.do_turned, p.D);
    apply_masks(w.p, p, t, w.work);
    if (p.dropout > 0) {
        draw_tile(w.factors, p, t, w.work);
        multiply_tile(w.ds, t, w.factors);
    }
    softmax_gradient(w, t);
    if (part.queries) add_over_keys(w.dq, t, w.ds, keys.k.from(t.j0 - part.j_begin), width);
    if (part.keys) {
        add_over_queries(keys.dk + at, t, w.ds, queries.q, width);
        if (p.dropout > 0) multiply_tile(w.p, t, w.factors);
        add_over_queries(keys.dv + at, t, w.p, queries.do_, width);
    }
}

void backward_part(const Gradients& g, const Problem& p, const Part& part) {
    const BackwardScratch w(p.D);
    const int64_t width = padded(p.D), count = part.j_end - part.j_begin;
    const KeyRows keys(p.head(p.k, part.bh).from(part.j_begin), count, p.D);

    for (int64_t i0 = part.i_begin; i0 < part.i_end; i0 += kTile) {
        const int64_t queries = std::min(kTile, p.T - i0);
        const int64_t j_end = std::min(part.j_end, p.keys_until(i0 + queries - 1));
        const QueryRows rows = load_queries(w, p, g, part.bh, i0, queries);
        for (int64_t j0 = part.j_begin; j0 < j_end; j0 += kTile) {
            backward_tile(w, rows, keys, p, Tile(p, part.bh, i0, j0, j_end), part);
        }
        if (!part.queries) continue;
        float* dq = head(g.dq, part.bh, p.H) + i0 * g.dq.stride[1];
        for (int64_t i = 0; i < queries; ++i) {
            unpack_row(dq + i * g.dq.stride[1], w.dq + i * width, p.D, Vec::set(p.scale));
        }
    }
    if (!part.keys) return;
    float* dk = head(g.dk, part.bh, p.H) + part.j_begin * g.dk.stride[1];
    float* dv = head(g.dv, part.bh, p.H) + part.j_begin * g.dv.stride[1];
    for (int64_t j = 0; j < count; ++j) {
        unpack_row(dk + j * g.dk.stride[1], keys.dk + j * width, p.D, Vec::set(p.scale));
        unpack_row(dv + j * g.dv.stride[1], keys.dv + j * width, p.D, Vec::set(1.0f));
    }
}

// Heads are independent, so each is one unit of work: five products a tile.
void backward_by_heads(const Gradients& g, const Problem& p, double flops) {
    parallel_for(p.heads(), grain(flops), [&](int64_t begin, int64_t end) {
        for (int64_t bh = begin; bh < end; ++bh) {
            backward_part(g, p, {bh, 0, p.T, 0, p.S, true, true});
        }
    });
}

// With fewer heads than threads, blocks of keys and then blocks of queries are the units: seven
// products a tile, but all threads at work. Every sum is the same chain as above.
void backward_by_blocks(const Gradients& g, const Problem& p, double flops) {
    constexpr int64_t kKeys = 4 * kTile;  // so that packing the queries is a small part
    const int64_t key_blocks = (p.S + kKeys - 1) / kKeys, query_blocks = (p.T + kTile - 1) / kTile;
    parallel_for(
        p.heads() * key_blocks, grain(flops / key_blocks), [&](int64_t begin, int64_t end) {
            for (int64_t u = begin; u < end; ++u) {
                const int64_t j = interleaved(u % key_blocks, key_blocks) * kKeys;
                backward_part(g, p,
                              {u / key_blocks, 0, p.T, j, std::min(j + kKeys, p.S), false, true});
            }
        });
    parallel_for(p.heads() * query_blocks, 1, [&](int64_t begin, int64_t end) {
        for (int64_t u = begin; u < end; ++u) {
            const int64_t i = interleaved(u % query_blocks, query_blocks) * kTile;
            backward_part(g, p,
                          {u / query_blocks, i, std::min(i + kTile, p.T), 0, p.S, true, false});
        }
    });
}

}  // namespace

void attention_forward(Out o, Out lse, StridedIn q, StridedIn k, StridedIn v, Maybe<StridedIn> mask,
                       double scale, bool causal, double dropout, std::uint64_t seed,
                       std::uint64_t offset, Stream) {
    const Problem p(q, k, v, mask, scale, causal, dropout, seed, offset);
    const bool few = p.T <= kFewQueries;
    const int64_t blocks = few ? 1 : (p.T + kTile - 1) / kTile;
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
    const Problem p(q, k, v, mask, scale, causal, dropout, seed, offset);
    const Gradients g{dq, dk, dv, do_, o, lse};
    if (p.heads() == 0) return;
    const double flops = 10.0 * p.T * p.S * p.D;
    const int64_t threads = num_threads(), rounds = (p.heads() + threads - 1) / threads;
    if (5 * rounds * threads <= 7 * p.heads()) return backward_by_heads(g, p, flops);
    backward_by_blocks(g, p, flops);
}

}  // namespace byhand
