#include "core/team.cuh"
#include "ops/attention/attention_call.cuh"
#include "ops/attention/linear_attention.h"

// A block has one head (forward, dq) or one head of keys (dk, dv) and goes through the positions in
// chunks, with the running sums of phi(k) v'T, or phi(q) g'T, in shared memory. A value is extended
// by a 1 and a gradient g by c, so that sums of weights are one more column. The sums are fused
// multiply-adds of float32 in a fixed order.
namespace byhand {
namespace {

constexpr int kChunk = 16;

template <class T>
struct Linear {
    Heads<const T> q, k, v;
    int B, queries, keys, H, G, D, E;
    int group;  // query heads per head of keys
    const int64_t* lengths;
    bool causal;

    Linear(const StridedIn& q, const StridedIn& k, const StridedIn& v, const Maybe<In>& lengths,
           bool causal)
        : q(q),
          k(k),
          v(v),
          B(checked("linear_attention", "batch entries", q.shape[0])),
          queries(checked("linear_attention", "queries", q.shape[1])),
          keys(checked("linear_attention", "keys", k.shape[1])),
          H(checked("linear_attention", "heads", q.shape[2])),
          G(checked("linear_attention", "heads", k.shape[2])),
          D(checked("linear_attention", "dimensions", q.shape[3])),
          E(checked("linear_attention", "dimensions", v.shape[3])),
          group(G == 0 ? 1 : H / G),
          lengths(lengths.as<int64_t>()),
          causal(causal) {
        if (q.shape[3] > kMostDepth || v.shape[3] > kMostDepth) {
            throw std::invalid_argument(
                "linear_attention: the CUDA kernels take heads of at most " +
                std::to_string(kMostDepth) + " dimensions, got " +
                std::to_string(std::max(q.shape[3], v.shape[3])));
        }
    }
    BYHAND_DEVICE int keys_of(int b) const {
        if (lengths == nullptr) return keys;
        return static_cast<int>(max(int64_t{0}, min(int64_t{keys}, lengths[b])));
    }
    // How many float32 numbers of shared memory a block needs.
    int shared_floats() const {
        return D * (E + 1) + kChunk * (3 * D + 3 * (E + 1)) + 2 * kChunk * kChunk;
    }
};

template <class T>
struct LinearGradients {
    Heads<T> dq, dk, dv;
    const T *dout, *o;  // (B, T, H, E)
    const float* norm;
};

BYHAND_DEVICE float features(float x) { return x > 0.0f ? x + 1.0f : expf(x); }
// The derivative, from the features themselves; NaN stays NaN.
BYHAND_DEVICE float slope(float features) { return features > 1.0f ? 1.0f : features; }

// The parts of a block's shared memory. sum (D, E + 1); q, k (kChunk, D); v, g (kChunk, E + 1);
// w, dw (kChunk, kChunk): weights of queries by keys. dk, dv: the gradients of a chunk of keys.
template <class T>
struct Parts {
    float *sum, *q, *k, *v, *g, *w, *dw, *dk, *dv;

    BYHAND_DEVICE Parts(const Linear<T>& p, unsigned char* bytes) {
        sum = reinterpret_cast<float*>(bytes);
        q = sum + p.D * (p.E + 1);
        k = q + kChunk * p.D;
        v = k + kChunk * p.D;
        g = v + kChunk * (p.E + 1);
        w = g + kChunk * (p.E + 1);
        dw = w + kChunk * kChunk;
        dk = dw + kChunk * kChunk;
        dv = dk + kChunk * p.D;
    }
};

// Calls f(i, j) for all elements of a matrix, which the block's threads share.
template <class F>
BYHAND_DEVICE void for_elements(int rows, int columns, F&& f) {
#pragma unroll 1
    for (int n = static_cast<int>(threadIdx.x); n < rows * columns; n += kThreads) {
        f(n / columns, n % columns);
    }
}

// phi of the rows from `first` on, 0 from row `end` on.
template <class T>
BYHAND_DEVICE void load_features(float* to, const Rows<const T>& from, int first, int end, int D) {
    for_elements(kChunk, D, [&](int i, int d) {
        to[i * D + d] = first + i < end ? features(to_float(from.row(first + i)[d])) : 0.0f;
    });
}

template <class T>
BYHAND_DEVICE void load_values(float* to, const Rows<const T>& from, int first, int end, int E) {
    for_elements(kChunk, E + 1, [&](int i, int e) {
        float x = 0.0f;
        if (first + i < end) x = e == E ? 1.0f : to_float(from.row(first + i)[e]);
        to[i * (E + 1) + e] = x;
    });
}

// g = do / norm and c = -(do . o) / norm of the queries from `first` on.
template <class T>
BYHAND_DEVICE void load_gradients(float* to, const LinearGradients<T>& g, const Linear<T>& p, int b,
                                  int h, int first) {
    for_elements(kChunk, p.E + 1, [&](int i, int e) {
        const int t = first + i;
        float x = 0.0f;
        if (t < p.queries) {
            const float norm = g.norm[(int64_t{b} * p.H + h) * p.queries + t];
            const int64_t row = ((int64_t{b} * p.queries + t) * p.H + h) * p.E;
            const float factor = norm == 0.0f ? 0.0f : 1.0f / norm;
            if (e < p.E) {
                x = factor * to_float(g.dout[row + e]);
            } else {
                for (int n = 0; n < p.E; ++n) {
                    x = fmaf(factor * to_float(g.dout[row + n]), -to_float(g.o[row + n]), x);
                }
            }
        }
        to[i * (p.E + 1) + e] = x;
    });
}

// sum += aT b over the rows of a chunk.
BYHAND_DEVICE void accumulate(float* sum, const float* a, const float* b, int D, int E1) {
    for_elements(D, E1, [&](int d, int e) {
        float x = sum[d * E1 + e];
#pragma unroll 4
        for (int i = 0; i < kChunk; ++i) x = fmaf(a[i * D + d], b[i * E1 + e], x);
        sum[d * E1 + e] = x;
    });
}

// The sums that the first chunk of queries begins with: 0, or without causality those of all keys.
template <class T>
BYHAND_DEVICE void begin_sums(const Parts<T>& s, const Linear<T>& p, const Rows<const T>& k,
                              const Rows<const T>& v, int end) {
    const int E1 = p.E + 1;
    for_elements(p.D, E1, [&](int d, int e) { s.sum[d * E1 + e] = 0.0f; });
    for (int j0 = 0; !p.causal && j0 < end; j0 += kChunk) {
        load_features(s.k, k, j0, end, p.D);
        load_values(s.v, v, j0, end, p.E);
        sync_block();
        accumulate(s.sum, s.k, s.v, p.D, E1);
        sync_block();
    }
}

// w[i][j] = a[i] . b[j], 0 where key j comes after query i.
BYHAND_DEVICE void causal_weights(float* w, const float* a, const float* b, int depth) {
    for_elements(kChunk, kChunk, [&](int i, int j) {
        float x = 0.0f;
        for (int n = 0; n < depth && j <= i; ++n) x = fmaf(a[i * depth + n], b[j * depth + n], x);
        w[i * kChunk + j] = x;
    });
}

template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    linear_attention_tokens(const __grid_constant__ Linear<T> p, T* o, float* norm) {
    BYHAND_DYNAMIC_SHARED(bytes);
    const Parts<T> s(p, bytes);
    const int b = static_cast<int>(blockIdx.x) / p.H, h = static_cast<int>(blockIdx.x) % p.H;
    const int E1 = p.E + 1, end = p.keys_of(b);
    const auto q = p.q.of(b, h), k = p.k.of(b, h / p.group), v = p.v.of(b, h / p.group);
    begin_sums(s, p, k, v, end);
    for (int i0 = 0; i0 < p.queries; i0 += kChunk) {
        sync_block();
        load_features(s.q, q, i0, p.queries, p.D);
        if (p.causal) {
            load_features(s.k, k, i0, end, p.D);
            load_values(s.v, v, i0, end, p.E);
            sync_block();
            causal_weights(s.w, s.q, s.k, p.D);
        }
        sync_block();
        for_elements(kChunk, E1, [&](int i, int e) {
            float x = 0.0f;
            for (int d = 0; d < p.D; ++d) x = fmaf(s.q[i * p.D + d], s.sum[d * E1 + e], x);
            for (int j = 0; p.causal && j <= i; ++j) {
                x = fmaf(s.w[i * kChunk + j], s.v[j * E1 + e], x);
            }
            s.g[i * E1 + e] = x;
        });
        sync_block();
        for_elements(kChunk, E1, [&](int i, int e) {
            const int t = i0 + i;
            if (t >= p.queries) return;
            const float total = s.g[i * E1 + p.E];
            if (e == p.E) {
                norm[(int64_t{b} * p.H + h) * p.queries + t] = total;
            } else {
                const float x = total == 0.0f ? 0.0f : s.g[i * E1 + e] / total;
                o[((int64_t{b} * p.queries + t) * p.H + h) * p.E + e] = from_float<T>(x);
            }
        });
        if (p.causal) accumulate(s.sum, s.k, s.v, p.D, E1);
    }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    linear_attention_dq(const __grid_constant__ Linear<T> p,
                        const __grid_constant__ LinearGradients<T> g) {
    BYHAND_DYNAMIC_SHARED(bytes);
    const Parts<T> s(p, bytes);
    const int b = static_cast<int>(blockIdx.x) / p.H, h = static_cast<int>(blockIdx.x) % p.H;
    const int E1 = p.E + 1, end = p.keys_of(b);
    const auto q = p.q.of(b, h), k = p.k.of(b, h / p.group), v = p.v.of(b, h / p.group);
    const auto dq = g.dq.of(b, h);
    begin_sums(s, p, k, v, end);
    for (int i0 = 0; i0 < p.queries; i0 += kChunk) {
        sync_block();
        load_features(s.q, q, i0, p.queries, p.D);
        load_gradients(s.g, g, p, b, h, i0);
        if (p.causal) {
            load_features(s.k, k, i0, end, p.D);
            load_values(s.v, v, i0, end, p.E);
            sync_block();
            causal_weights(s.dw, s.g, s.v, E1);
        }
        sync_block();
        for_elements(kChunk, p.D, [&](int i, int d) {
            if (i0 + i >= p.queries) return;
            float x = 0.0f;
            for (int e = 0; e < E1; ++e) x = fmaf(s.g[i * E1 + e], s.sum[d * E1 + e], x);
            for (int j = 0; p.causal && j <= i; ++j) {
                x = fmaf(s.dw[i * kChunk + j], s.k[j * p.D + d], x);
            }
            dq.row(i0 + i)[d] = from_float<T>(x * slope(s.q[i * p.D + d]));
        });
        if (p.causal) {
            sync_block();
            accumulate(s.sum, s.k, s.v, p.D, E1);
        }
    }
}

// The heads of a group read the same keys, so the running sums of all of them are one matrix.
template <class T>
__global__ void __launch_bounds__(kThreads, 1)
    linear_attention_dkv(const __grid_constant__ Linear<T> p,
                         const __grid_constant__ LinearGradients<T> g) {
    BYHAND_DYNAMIC_SHARED(bytes);
    const Parts<T> s(p, bytes);
    const int b = static_cast<int>(blockIdx.x) / p.G, own = static_cast<int>(blockIdx.x) % p.G;
    const int E1 = p.E + 1, end = p.keys_of(b);
    const auto k = p.k.of(b, own), v = p.v.of(b, own);
    const auto dk = g.dk.of(b, own), dv = g.dv.of(b, own);
    const auto load_queries = [&](int h, int i0) {
        sync_block();  // the previous ones are no longer read
        load_features(s.q, p.q.of(b, h), i0, p.queries, p.D);
        load_gradients(s.g, g, p, b, h, i0);
        sync_block();
    };
    for_elements(p.D, E1, [&](int d, int e) { s.sum[d * E1 + e] = 0.0f; });
    for (int n = 0; !p.causal && n < p.group; ++n) {
        for (int i0 = 0; i0 < p.queries; i0 += kChunk) {
            load_queries(own * p.group + n, i0);
            accumulate(s.sum, s.q, s.g, p.D, E1);
        }
    }
    for (int j0 = (p.keys - 1) / kChunk * kChunk; j0 >= 0; j0 -= kChunk) {
        sync_block();
        load_features(s.k, k, j0, end, p.D);
        load_values(s.v, v, j0, end, p.E);
        sync_block();
        for_elements(kChunk, p.D, [&](int j, int d) {
            float x = 0.0f;
            for (int e = 0; e < E1; ++e) x = fmaf(s.v[j * E1 + e], s.sum[d * E1 + e], x);
            s.dk[j * p.D + d] = x;
        });
        for_elements(kChunk, p.E, [&](int j, int e) {
            float x = 0.0f;
            for (int d = 0; d < p.D; ++d) x = fmaf(s.k[j * p.D + d], s.sum[d * E1 + e], x);
            s.dv[j * p.E + e] = x;
        });
        for (int n = 0; p.causal && n < p.group; ++n) {
            load_queries(own * p.group + n, j0);
            causal_weights(s.w, s.q, s.k, p.D);
            causal_weights(s.dw, s.g, s.v, E1);
            sync_block();
            // A thread has the same elements as above.
            for_elements(kChunk, p.D, [&](int j, int d) {
                float x = s.dk[j * p.D + d];
                for (int i = j; i < kChunk; ++i) {
                    x = fmaf(s.dw[i * kChunk + j], s.q[i * p.D + d], x);
                }
                s.dk[j * p.D + d] = x;
            });
            for_elements(kChunk, p.E, [&](int j, int e) {
                float x = s.dv[j * p.E + e];
                for (int i = j; i < kChunk; ++i) x = fmaf(s.w[i * kChunk + j], s.g[i * E1 + e], x);
                s.dv[j * p.E + e] = x;
            });
            accumulate(s.sum, s.q, s.g, p.D, E1);
        }
        for_elements(kChunk, p.D, [&](int j, int d) {
            if (j0 + j >= p.keys) return;
            const float x = s.dk[j * p.D + d] * slope(s.k[j * p.D + d]);
            dk.row(j0 + j)[d] = from_float<T>(j0 + j < end ? x : 0.0f);
        });
        for_elements(kChunk, p.E, [&](int j, int e) {
            if (j0 + j >= p.keys) return;
            dv.row(j0 + j)[e] = from_float<T>(j0 + j < end ? s.dv[j * p.E + e] : 0.0f);
        });
    }
}

// Launches a kernel with a block for each head.
template <class T, class Kernel, class... A>
void run(const char* name, Kernel kernel, const Linear<T>& p, int heads, Stream stream,
         const A&... arguments) {
    const int64_t blocks = int64_t{p.B} * heads;
    if (blocks == 0) return;
    launch_shared(name, kernel, dim3(blocks_for(blocks, 1)), dim3(kThreads),
                  p.shared_floats() * static_cast<int>(sizeof(float)), stream, p, arguments...);
}

}  // namespace

void linear_attention_forward(Out o, Out norm, StridedIn q, StridedIn k, StridedIn v,
                              Maybe<In> lengths, bool causal, Stream stream) {
    for_storage(q, [&](auto zero) {
        using T = decltype(zero);
        const Linear<T> p(q, k, v, lengths, causal);
        run("linear_attention_forward", linear_attention_tokens<T>, p, p.H, stream, o.as<T>(),
            norm.as<float>());
    });
}

void linear_attention_backward(StridedOut dq, StridedOut dk, StridedOut dv, In do_, StridedIn q,
                               StridedIn k, StridedIn v, In o, In norm, Maybe<In> lengths,
                               bool causal, Stream stream) {
    for_storage(q, [&](auto zero) {
        using T = decltype(zero);
        const Linear<T> p(q, k, v, lengths, causal);
        const LinearGradients<T> g{Heads<T>(dq), Heads<T>(dk), Heads<T>(dv),
                                   do_.as<T>(),  o.as<T>(),    norm.as<float>()};
        run("linear_attention_backward", linear_attention_dq<T>, p, p.H, stream, g);
        run("linear_attention_backward", linear_attention_dkv<T>, p, p.G, stream, g);
    });
}

}  // namespace byhand
