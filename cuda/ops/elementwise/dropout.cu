#include "core/pack.cuh"
#include "ops/elementwise/dropout.h"
#include "random/philox.h"

namespace byhand {
namespace {

constexpr int kThreads = 256;
constexpr int kGroup = static_cast<int>(kPhiloxElements);
constexpr int kUnroll = 2;  // groups that a thread loads at the same time

// Loads elements first .. first + kGroup-1 of n, V at a time; v is 0 past the end.
template <int V, class T>
BYHAND_DEVICE void load_group(float (&v)[kGroup], const T* x, int64_t first, int64_t n) {
    const bool whole = first + kGroup <= n;
#pragma unroll
    for (int i = 0; i < kGroup; i += V) {
        float part[V] = {};
        if (V == 1 ? first + i < n : whole) {
            load(part, x + first + i);
        } else if (V > 1) {
#pragma unroll
            for (int j = 0; j < V; ++j)
                part[j] = first + i + j < n ? to_float(x[first + i + j]) : 0.0f;
        }
#pragma unroll
        for (int j = 0; j < V; ++j) v[i + j] = part[j];
    }
}

template <int V, class T>
BYHAND_DEVICE void store_group(T* y, const float (&v)[kGroup], int64_t first, int64_t n) {
    const bool whole = first + kGroup <= n;
#pragma unroll
    for (int i = 0; i < kGroup; i += V) {
        float part[V];
#pragma unroll
        for (int j = 0; j < V; ++j) part[j] = v[i + j];
        if (V == 1 ? first + i < n : whole) {
            store(y + first + i, part);
        } else if (V > 1) {
#pragma unroll
            for (int j = 0; j < V; ++j) {
                if (first + i + j < n) y[first + i + j] = from_float<T>(part[j]);
            }
        }
    }
}

// A thread draws the random bits for its elements while they are being loaded.
template <class T, int V>
__global__ void __launch_bounds__(kThreads, 1)
    dropout_groups(T* y, const T* x, const T* add, DropoutRule rule, std::uint64_t seed,
                   Offset offset, int64_t n) {
    constexpr int64_t kBlock = static_cast<int64_t>(kThreads) * kUnroll;
    const int64_t groups = (n + kGroup - 1) / kGroup;
    const std::uint64_t mask = offset.value();
    for (int64_t start = blockIdx.x * kBlock; start < groups; start += gridDim.x * kBlock) {
        float v[kUnroll][kGroup], a[kUnroll][kGroup];
        const auto group = [&](int u) { return start + u * kThreads + threadIdx.x; };
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
            load_group<V>(v[u], x, group(u) * kGroup, n);
            if (add != nullptr) load_group<V>(a[u], add, group(u) * kGroup, n);
        }
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
            const PhiloxGroup drawn = philox(seed, static_cast<std::uint64_t>(group(u)), mask);
#pragma unroll
            for (int i = 0; i < kGroup; ++i) {
                // Not multiplied by 0, so that a dropped NaN becomes 0 too.
                v[u][i] = drawn.bits(i) < rule.threshold ? 0.0f : v[u][i] * rule.scale;
                if (add != nullptr) v[u][i] += a[u][i];
            }
            store_group<V>(y, v[u], group(u) * kGroup, n);
        }
    }
}

void drop(const char* name, const Writable& y, const ReadOnly& x, const ReadOnly& add, double p,
          std::uint64_t seed, Offset offset, Stream stream) {
    const int64_t n = x.size();
    const DropoutRule rule(p);
    if (n == 0) return;
    const dim3 grid(blocks_for(n, static_cast<int64_t>(kThreads) * kUnroll * kGroup));
    for_storage(x, [&](auto zero) {
        using T = decltype(zero);
        T* to = y.as<T>();
        const T *from = x.as<T>(), *more = add.as<T>();
        const auto kernel =
            packable<T>(0, to, from, more) ? dropout_groups<T, kPack<T>> : dropout_groups<T, 1>;
        launch(name, kernel, grid, dim3(kThreads), stream, to, from, more, rule, seed, offset, n);
    });
}

}  // namespace

void dropout_forward(Out y, In x, Maybe<In> add, double p, std::uint64_t seed, Offset offset,
                     Stream stream) {
    drop("dropout_forward", y, x, add, p, seed, offset, stream);
}

void dropout_backward(Out dx, In dy, double p, std::uint64_t seed, Offset offset, Stream stream) {
    drop("dropout_backward", dx, dy, ReadOnly{}, p, seed, offset, stream);
}

}  // namespace byhand
