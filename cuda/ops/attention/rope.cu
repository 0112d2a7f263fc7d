#include "core/pack.cuh"
#include "ops/attention/rope.h"
#include "ops/attention/rope_sizes.h"

namespace byhand {
namespace {

constexpr int kThreads = 256;
constexpr int kAhead = 2;  // groups of pairs that a thread loads before it uses the first

template <class T>
struct Rope {
    RopeSizes n;
    T* y;
    const T* x;
    const float *cos, *sin;
    const int64_t* positions;
    int64_t start;
    float sign;  // of sin

    // The row of the tables for vector t of batch entry b, or -1.
    BYHAND_DEVICE int64_t position(int64_t b, int64_t t) const {
        if (positions == nullptr) return start + t;
        const int64_t p = positions[b * n.T + t];
        return p >= 0 && p < n.N ? p : -1;
    }
};

// V pairs: the elements a[j] and b[j] of a head, from its pair i on.
template <class T, int V, bool kInterleaved>
struct Pairs {
    float a[V], b[V];

    BYHAND_DEVICE void read(const T* head, int i, int F) {
        if constexpr (kInterleaved) {
            load(a, head + 2 * i);
            load(b, head + 2 * i + V);
            deal();
        } else {
            load(a, head + i);
            load(b, head + F + i);
        }
    }
    BYHAND_DEVICE void write(T* head, int i, int F) {
        if constexpr (kInterleaved) {
            gather();
            store(head + 2 * i, a);
            store(head + 2 * i + V, b);
        } else {
            store(head + i, a);
            store(head + F + i, b);
        }
    }
    BYHAND_DEVICE void rotate(const float (&c)[V], const float (&s)[V], float sign) {
#pragma unroll
        for (int j = 0; j < V; ++j) {
            const float turn = sign * s[j], first = a[j];
            a[j] = fmaf(first, c[j], -(b[j] * turn));
            b[j] = fmaf(b[j], c[j], first * turn);
        }
    }
    BYHAND_DEVICE void fill(float v) {
#pragma unroll
        for (int j = 0; j < V; ++j) a[j] = b[j] = v;
    }

  private:
    // a and b hold 2 V neighbours; then the first and the second elements of the pairs.
    BYHAND_DEVICE void deal() {
        float all[2 * V];
#pragma unroll
        for (int j = 0; j < V; ++j) all[j] = a[j], all[V + j] = b[j];
#pragma unroll
        for (int j = 0; j < V; ++j) a[j] = all[2 * j], b[j] = all[2 * j + 1];
    }
    BYHAND_DEVICE void gather() {
        float all[2 * V];
#pragma unroll
        for (int j = 0; j < V; ++j) all[2 * j] = a[j], all[2 * j + 1] = b[j];
#pragma unroll
        for (int j = 0; j < V; ++j) a[j] = all[j], b[j] = all[V + j];
    }
};

// blockDim.y rows of all heads at a time, a row being one position of one batch entry. The threads
// of a row share its groups of V pairs; what is not rotated is copied by the same threads.
template <class T, int V, bool kInterleaved>
__global__ void __launch_bounds__(kThreads, 2) rope_rotate(Rope<T> r) {
    const int F = static_cast<int>(r.n.F), D = static_cast<int>(r.n.D);
    const int each = F / V, groups = each * static_cast<int>(r.n.H);
    const int threads = static_cast<int>(blockDim.x), rank = static_cast<int>(threadIdx.x);
    const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.y;
    for (int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
         row < r.n.B * r.n.T; row += step) {
        const int64_t b = row / r.n.T, t = row % r.n.T, p = r.position(b, t);
        const T* const from = r.x + b * r.n.from.batch + t * r.n.from.row;
        T* const to = r.y + b * r.n.to.batch + t * r.n.to.row;
        for (int first = rank; first < groups; first += kAhead * threads) {
            Pairs<T, V, kInterleaved> v[kAhead];
#pragma unroll
            for (int u = 0; u < kAhead; ++u) {
                const int g = first + u * threads;
                if (g < groups) v[u].read(from + g / each * r.n.from.head, g % each * V, F);
            }
#pragma unroll
            for (int u = 0; u < kAhead; ++u) {
                const int g = first + u * threads, i = g % each * V;
                if (g >= groups) continue;
                if (p >= 0) {
                    float c[V], s[V];
                    load_floats(c, r.cos + p * F + i);
                    load_floats(s, r.sin + p * F + i);
                    v[u].rotate(c, s, r.sign);
                } else {
                    v[u].fill(not_a_number());
                }
                v[u].write(to + g / each * r.n.to.head, i, F);
            }
        }
        if (from == to) continue;
        const int rest = (D - 2 * F) / V, all = rest * static_cast<int>(r.n.H);
        for (int g = rank; g < all; g += threads) {
            const int64_t h = g / rest;
            const int at = 2 * F + g % rest * V;
            float v[V];
            load(v, from + h * r.n.from.head + at);
            store(to + h * r.n.to.head + at, v);
        }
    }
}

template <class T>
bool packed(const Rope<T>& r) {
    const HeadStrides &to = r.n.to, &from = r.n.from;
    const int64_t strides[] = {to.batch, to.row, to.head, from.batch, from.row, from.head, r.n.D};
    for (const int64_t stride : strides) {
        if (stride % kPack<T> != 0) return false;
    }
    return packable<T>(r.n.F, r.y, r.x) && packable<float>(r.n.F, r.cos, r.sin);
}

void rotate(const char* name, const StridedOut& y, const StridedIn& x, const In& cos, const In& sin,
            const Maybe<In>& positions, int64_t start, bool interleaved, float sign,
            Stream stream) {
    const RopeSizes n(name, y, x, cos, positions, start);
    const int elements = checked(name, "elements in a position", n.H * n.D);
    for_storage(x, [&](auto zero) {
        using T = decltype(zero);
        const Rope<T> r{
            n,     y.as<T>(), x.as<T>(), cos.as<float>(), sin.as<float>(), positions.as<int64_t>(),
            start, sign};
        if (x.size() == 0) return;
        const auto run = [&](auto v, auto kind) {
            constexpr int V = decltype(v)::value;
            // As many threads as a row has groups, up to a block; a thread takes several.
            unsigned threads = kWarp;
            while (threads < kThreads && static_cast<int>(threads) * 2 * V * kAhead < elements)
                threads *= 2;
            const dim3 block(threads, kThreads / threads);
            launch(name, rope_rotate<T, V, decltype(kind)::value>,
                   dim3(blocks_for(n.B * n.T, block.y)), block, stream, r);
        };
        const auto choose = [&](auto v) {
            if (interleaved) {
                run(v, std::true_type{});
            } else {
                run(v, std::false_type{});
            }
        };
        if (packed(r)) {
            choose(std::integral_constant<int, kPack<T>>{});
        } else {
            choose(std::integral_constant<int, 1>{});
        }
    });
}

}  // namespace

void rope_forward(StridedOut y, StridedIn x, In cos, In sin, Maybe<In> positions,
                  std::int64_t start, bool interleaved, Stream stream) {
    rotate("rope_forward", y, x, cos, sin, positions, start, interleaved, 1.0f, stream);
}

void rope_backward(StridedOut dx, StridedIn dy, In cos, In sin, Maybe<In> positions,
                   std::int64_t start, bool interleaved, Stream stream) {
    rotate("rope_backward", dx, dy, cos, sin, positions, start, interleaved, -1.0f, stream);
}

}  // namespace byhand
