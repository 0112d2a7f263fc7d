// Linear attention on the CPU, in chunks of kTile positions. A value is extended by a 1, so that
// the sum of the weights is one more column of the sums, and a gradient g by c.
//
// The keys of a chunk act on its own queries by their weights, and on the following ones by the sum
// of phi(k) v'T. All products are those of attention's tiles.
#include "ops/attention/linear_attention.h"

#include "ops/attention/attention_tiles.h"
#include "simd/vecmath.h"
#include "threads/threads.h"

namespace byhand {
namespace {

using namespace tiles;

Vec phi(Vec x) {
    const Vec one = Vec::set(1.0f);
    return select(x > Vec::zero(), x + one, exp_normal(min(Vec::zero(), x)));
}

// The arguments of a call, except the arrays that it writes.
struct Linear {
    StridedIn q, k, v;
    Maybe<In> lengths;
    bool causal;

    int64_t B = q.shape[0], T = q.shape[1], H = q.shape[2], D = q.shape[3];
    int64_t S = k.shape[1], G = k.shape[2], E = v.shape[3];
    int64_t shared = H / std::max<int64_t>(G, 1);
    int64_t depth = padded(D), width = padded(E + 1);  // of rows of features and of values

    int64_t keys(int64_t b) const {
        const int64_t* length = lengths.as<int64_t>();
        return length == nullptr ? S : std::clamp<int64_t>(length[b], 0, S);
    }
    template <class A>
    static auto rows(const A& x, int64_t b, int64_t h) {
        using Found = std::conditional_t<std::is_base_of_v<Writable, A>, Target, Rows>;
        return Found{x.template as<float>() + b * x.stride[0] + h * x.stride[2], x.stride[1]};
    }
};

// The gradients that the backward pass reads and writes.
struct Gradients {
    StridedOut dq, dk, dv;
    In do_, o, norm;
};

// Rows of a chunk of one head: features, extended values or gradients, and products of both.
struct Chunk {
    float *q, *k;         // (queries, D), (keys, D)
    float* k_turned;      // (D, keys)
    float *v, *v_turned;  // (keys, E + 1), (E + 1, keys)
    float* g;             // (queries, E + 1)
    float *w, *dw;        // (queries, keys)
    float *out, *more;    // (queries or keys, E + 1 or D)
    float *sum, *turned;  // (D, E + 1), (E + 1, D): running sums of phi(k) v' or phi(q) g'

    explicit Chunk(const Linear& p) {
        const int64_t deep = kTile * p.depth, wide = kTile * p.width, tile = kTile * kTile;
        const int64_t most = std::max(deep, wide);
        const int64_t all = 2 * deep + kTile * p.D + 2 * wide + kTile * (p.E + 1) + 2 * tile +
                            2 * most + p.D * p.width + (p.E + 1) * p.depth + 12 * 16;
        Carver carver(scratch(static_cast<std::size_t>(all)));
        q = carver.take(deep);
        k = carver.take(deep);
        k_turned = carver.take(kTile * p.D);
        v = carver.take(wide);
        v_turned = carver.take(kTile * (p.E + 1));
        g = carver.take(wide);
        w = carver.take(tile);
        dw = carver.take(tile);
        out = carver.take(most);
        more = carver.take(most);
        sum = carver.take(p.D * p.width);
        turned = carver.take((p.E + 1) * p.depth);
    }
};

// tile[i] = phi(x[i]), 0 in the padding of a row.
void load_features(float* tile, Rows x, int64_t rows, int64_t columns) {
    const int64_t width = padded(columns);
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t c = 0; c < columns; c += Vec::width) {
            const Vec y = phi(Vec::load(x.row(i) + c, columns - c));
            select(Mask::first(columns - c), y, Vec::zero()).store(tile + i * width + c);
        }
    }
}

// tile[i] = (x[i], 1), 0 in the padding of a row.
void load_values(float* tile, Rows x, int64_t rows, int64_t columns, int64_t width) {
    for (int64_t i = 0; i < rows; ++i) {
        float* row = tile + i * width;
        fill_zero(row, width);
        std::memcpy(row, x.row(i), static_cast<std::size_t>(columns) * sizeof(float));
        row[columns] = 1.0f;
    }
}

// tile[i] = (g, c) of query i.
void load_gradients(float* tile, const Gradients& g, const Linear& p, int64_t bh, int64_t i0,
                    int64_t rows) {
    const int64_t start = (bh / p.H * p.T * p.H + bh % p.H) * p.E, stride = p.H * p.E;
    const float* norm = g.norm.as<float>() + bh * p.T + i0;
    for (int64_t i = 0; i < rows; ++i) {
        const float* dy = g.do_.as<float>() + start + (i0 + i) * stride;
        const float* o = g.o.as<float>() + start + (i0 + i) * stride;
        float* row = tile + i * p.width;
        fill_zero(row, p.width);
        if (norm[i] == 0.0f) continue;
        const Vec factor = Vec::set(1.0f / norm[i]);
        Vec dot = Vec::zero();
        for (int64_t c = 0; c < p.E; c += Vec::width) {
            const Vec x = factor * Vec::load(dy + c, p.E - c);
            dot = fma(x, Vec::load(o + c, p.E - c), dot);
            x.store(row + c, p.E - c);
        }
        row[p.E] = -dot.sum();
    }
}

// The keys [j0, j0 + count) of one head.
void load_keys(const Chunk& w, const Linear& p, int64_t b, int64_t group, int64_t j0,
               int64_t count) {
    load_features(w.k, Linear::rows(p.k, b, group).from(j0), count, p.D);
    load_values(w.v, Linear::rows(p.v, b, group).from(j0), count, p.E, p.width);
}

// a[queries, keys] = x yT over the columns of both, 0 where the key comes after the query.
void causal_product(float* a, const float* x, int64_t stride, const float* turned, int64_t queries,
                    int64_t keys, int64_t depth) {
    product(a, kTile, Straight{x, stride}, turned, kTile, queries, padded(keys), depth,
            Start::zero);
    for (int64_t i = 0; i < queries; ++i) {
        if (i + 1 < keys) fill_zero(a + i * kTile + i + 1, padded(keys) - i - 1);
    }
}

void forward_head(const Out& o, const Out& norm, const Linear& p, int64_t bh) {
    const Chunk w(p);
    const int64_t b = bh / p.H, h = bh % p.H, group = h / p.shared, keys = p.keys(b);
    const auto add_keys = [&](int64_t count) {
        product(w.sum, p.width, Transposed{w.k, p.depth}, w.v, p.width, p.D, p.width, count,
                Start::add);
    };
    fill_zero(w.sum, p.D * p.width);
    for (int64_t j0 = 0; !p.causal && j0 < keys; j0 += kTile) {
        const int64_t count = std::min(kTile, keys - j0);
        load_keys(w, p, b, group, j0, count);
        add_keys(count);
    }
    for (int64_t i0 = 0; i0 < p.T; i0 += kTile) {
        const int64_t rows = std::min(kTile, p.T - i0);
        const int64_t count = p.causal ? std::clamp<int64_t>(keys - i0, 0, rows) : 0;
        load_features(w.q, Linear::rows(p.q, b, h).from(i0), rows, p.D);
        product(w.out, p.width, Straight{w.q, p.depth}, w.sum, p.width, rows, p.width, p.D,
                Start::zero);
        if (count > 0) {
            load_keys(w, p, b, group, i0, count);
            pack_transposed(w.k_turned, {w.k, p.depth}, count, p.D, 1.0f);
            causal_product(w.w, w.q, p.depth, w.k_turned, rows, count, p.D);
            product(w.out, p.width, Straight{w.w, kTile}, w.v, p.width, rows, p.width, count,
                    Start::add);
            add_keys(count);
        }
        for (int64_t i = 0; i < rows; ++i) {
            const float* sums = w.out + i * p.width;
            const float total = sums[p.E];
            float* y = o.as<float>() + ((b * p.T + i0 + i) * p.H + h) * p.E;
            unpack_row(y, sums, p.E, Vec::set(total == 0.0f ? 0.0f : 1.0f / total));
            norm.as<float>()[bh * p.T + i0 + i] = total;
        }
    }
}

// y[i] = dphi[i] * phi'(x[i]); phi' = min(phi, 1).
void write_features(Target y, const float* dphi, const float* features, int64_t rows,
                    int64_t columns) {
    const int64_t width = padded(columns);
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t c = 0; c < columns; c += Vec::width) {
            const Vec slope = min(Vec::set(1.0f), Vec::load(features + i * width + c));
            const Vec x = slope * Vec::load(dphi + i * width + c);
            x.store(y.row(i) + c, columns - c);
        }
    }
}

// dq of one head, over ascending chunks.
void backward_queries(const Gradients& g, const Linear& p, int64_t bh) {
    const Chunk w(p);
    const int64_t b = bh / p.H, h = bh % p.H, group = h / p.shared, keys = p.keys(b);
    const auto add_keys = [&](int64_t count) {
        product(w.turned, p.depth, Transposed{w.v, p.width}, w.k, p.depth, p.E + 1, p.depth, count,
                Start::add);
    };
    fill_zero(w.turned, (p.E + 1) * p.depth);
    for (int64_t j0 = 0; !p.causal && j0 < keys; j0 += kTile) {
        const int64_t count = std::min(kTile, keys - j0);
        load_keys(w, p, b, group, j0, count);
        add_keys(count);
    }
    for (int64_t i0 = 0; i0 < p.T; i0 += kTile) {
        const int64_t rows = std::min(kTile, p.T - i0);
        const int64_t count = p.causal ? std::clamp<int64_t>(keys - i0, 0, rows) : 0;
        load_features(w.q, Linear::rows(p.q, b, h).from(i0), rows, p.D);
        load_gradients(w.g, g, p, bh, i0, rows);
        product(w.out, p.depth, Straight{w.g, p.width}, w.turned, p.depth, rows, p.depth, p.E + 1,
                Start::zero);
        if (count > 0) {
            load_keys(w, p, b, group, i0, count);
            pack_transposed(w.v_turned, {w.v, p.width}, count, p.E + 1, 1.0f);
            causal_product(w.dw, w.g, p.width, w.v_turned, rows, count, p.E + 1);
            product(w.out, p.depth, Straight{w.dw, kTile}, w.k, p.depth, rows, p.depth, count,
                    Start::add);
            add_keys(count);
        }
        write_features(Linear::rows(g.dq, b, h).from(i0), w.out, w.q, rows, p.D);
    }
}

// dk and dv of one head of keys, over descending chunks. The heads that read it share the running
// sums, because they share the keys.
void backward_keys(const Gradients& g, const Linear& p, int64_t bg) {
    const Chunk w(p);
    const int64_t b = bg / p.G, group = bg % p.G, keys = p.keys(b);
    const Target dk = Linear::rows(g.dk, b, group), dv = Linear::rows(g.dv, b, group);
    const auto load_queries = [&](int64_t h, int64_t i0, int64_t rows) {
        load_features(w.q, Linear::rows(p.q, b, h).from(i0), rows, p.D);
        load_gradients(w.g, g, p, b * p.H + h, i0, rows);
    };
    const auto add_queries = [&](int64_t rows) {
        product(w.sum, p.width, Transposed{w.q, p.depth}, w.g, p.width, p.D, p.width, rows,
                Start::add);
        product(w.turned, p.depth, Transposed{w.g, p.width}, w.q, p.depth, p.E + 1, p.depth, rows,
                Start::add);
    };
    fill_zero(w.sum, p.D * p.width);
    fill_zero(w.turned, (p.E + 1) * p.depth);
    for (int64_t n = 0; !p.causal && n < p.shared; ++n) {
        for (int64_t i0 = 0; i0 < p.T; i0 += kTile) {
            const int64_t rows = std::min(kTile, p.T - i0);
            load_queries(group * p.shared + n, i0, rows);
            add_queries(rows);
        }
    }
    for (int64_t j = keys; j < p.S; ++j) {  // padding
        fill_zero(dk.row(j), p.D);
        fill_zero(dv.row(j), p.E);
    }
    for (int64_t j0 = round_down(std::max<int64_t>(p.S - 1, 0), kTile); j0 >= 0; j0 -= kTile) {
        const int64_t rows = p.causal ? std::min(kTile, p.T - j0) : 0;
        const int64_t count = std::clamp<int64_t>(keys - j0, 0, kTile);
        if (count > 0) {
            load_keys(w, p, b, group, j0, count);
            pack_transposed(w.k_turned, {w.k, p.depth}, count, p.D, 1.0f);
            pack_transposed(w.v_turned, {w.v, p.width}, count, p.E + 1, 1.0f);
            product(w.out, p.depth, Straight{w.v, p.width}, w.turned, p.depth, count, p.depth,
                    p.E + 1, Start::zero);
            product(w.more, p.width, Straight{w.k, p.depth}, w.sum, p.width, count, p.width, p.D,
                    Start::zero);
        }
        for (int64_t n = 0; rows > 0 && n < p.shared; ++n) {
            load_queries(group * p.shared + n, j0, rows);
            if (count > 0) {
                causal_product(w.w, w.q, p.depth, w.k_turned, rows, count, p.D);
                causal_product(w.dw, w.g, p.width, w.v_turned, rows, count, p.E + 1);
                product(w.out, p.depth, Transposed{w.dw, kTile}, w.q, p.depth, count, p.depth, rows,
                        Start::add);
                product(w.more, p.width, Transposed{w.w, kTile}, w.g, p.width, count, p.width, rows,
                        Start::add);
            }
            add_queries(rows);
        }
        write_features(dk.from(j0), w.out, w.k, count, p.D);
        for (int64_t j = 0; j < count; ++j) {
            unpack_row(dv.row(j0 + j), w.more + j * p.width, p.E, Vec::set(1.0f));
        }
    }
}

int64_t grain(double flops_per_unit) {
    return static_cast<int64_t>(1e5 / std::max(flops_per_unit, 1.0)) + 1;
}

}  // namespace

void linear_attention_forward(Out o, Out norm, StridedIn q, StridedIn k, StridedIn v,
                              Maybe<In> lengths, bool causal, Stream) {
    const Linear p{q, k, v, lengths, causal};
    const double flops = 2.0 * (p.T + p.S) * p.D * p.E;
    parallel_for(p.B * p.H, grain(flops), [&](int64_t begin, int64_t end) {
        for (int64_t bh = begin; bh < end; ++bh) forward_head(o, norm, p, bh);
    });
}

void linear_attention_backward(StridedOut dq, StridedOut dk, StridedOut dv, In do_, StridedIn q,
                               StridedIn k, StridedIn v, In o, In norm, Maybe<In> lengths,
                               bool causal, Stream) {
    const Linear p{q, k, v, lengths, causal};
    const Gradients g{dq, dk, dv, do_, o, norm};
    const double flops = 10.0 * p.shared * (p.T + p.S) * p.D * p.E;
    parallel_for(p.B * p.G, grain(flops), [&](int64_t begin, int64_t end) {
        for (int64_t bg = begin; bg < end; ++bg) {
            const int64_t first = bg / p.G * p.H + bg % p.G * p.shared;
            for (int64_t n = 0; n < p.shared; ++n) backward_queries(g, p, first + n);
            backward_keys(g, p, bg);
        }
    });
}

}  // namespace byhand
