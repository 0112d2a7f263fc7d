#include "core/exponentials.cuh"
#include "ops/attention/softmax.h"

namespace byhand {
namespace {

// Which keys a query may see: the mask, with any strides, and the causal limit.
struct Sight {
    const unsigned char* mask;
    int leading;
    int64_t shape[kMaxDims - 1], stride[kMaxDims - 1];  // of the leading dimensions
    int64_t step;                                       // stride from key to key
    int64_t queries;
    bool causal;

    // By causality this row may see the keys 0 .. limit-1.
    BYHAND_DEVICE int64_t limit(int64_t row, int64_t keys) const {
        if (!causal) return keys;
        const int64_t seen = row % queries + keys - queries + 1;
        return seen < 0 ? 0 : seen < keys ? seen : keys;
    }
    BYHAND_DEVICE const unsigned char* row(int64_t row) const {
        const unsigned char* p = mask;
#pragma unroll 1
        for (int d = leading - 1; d >= 0; --d) {
            p += row % shape[d] * stride[d];
            row /= shape[d];
        }
        return p;
    }
};

Sight sight(const Array& x, const Array& mask, bool causal) {
    Sight s = {};
    s.mask = static_cast<const unsigned char*>(mask.data);
    const auto stride = [&](int d) { return mask && mask.shape[d] != 1 ? mask.stride[d] : 0; };
    s.leading = std::max(x.ndim - 1, 0);
    for (int d = 0; d < s.leading; ++d) {
        s.shape[d] = x.shape[d];
        s.stride[d] = stride(d);
    }
    s.step = x.ndim >= 1 ? stride(x.ndim - 1) : 0;
    s.queries = x.ndim >= 2 ? x.shape[x.ndim - 2] : 1;
    s.causal = causal;
    return s;
}

template <class T, class P, bool log>
__global__ void __launch_bounds__(P::Team::kThreads, P::Team::kBlocks)
    softmax_forward_rows(T* y, const T* x, const __grid_constant__ Sight sight, int64_t rows,
                         int64_t cols, float scale) {
    typename P::Team team;
    for_rows(team, rows, [&](int64_t row, bool here) {
        const T* x_row = x + row * cols;
        const int64_t limit = here ? sight.limit(row, cols) : 0, end = here ? cols : 0;
        const unsigned char* mask = !log && sight.mask != nullptr ? sight.row(row) : nullptr;

        // Scaled values, with -inf at unseen keys, whose own values have no effect.
        Tile<P> z;
        const auto read = [&](int64_t start, bool first) {
            T* const kept = shared_row<P, T>();
            z.load(team, P::kShared && !first ? kept : x_row, start, limit, -infinity());
            if (P::kShared && first) z.keep(team, kept, start, limit);
            z.each([&](float& v, int k, int j) {
                const int64_t column = Tile<P>::column(team, start, k) + j;
                const bool seen =
                    column < limit && (log || mask == nullptr || mask[column * sight.step] != 0);
                v = seen ? v * scale : -infinity();
            });
        };

        Exponentials<T> all;
        if constexpr (P::kLong) {
            for_tiles<P>(team, limit, [&](int64_t start) {
                read(start, true);
                all.add(z);
            });
            all.join(team);
        } else {
            read(0, true);
            z.each([&](float v, int, int) { all.top = fmaxf(all.top, v); });
            all.top = team.max(all.top);
        }
        // With only -inf in a row softmax gives zeros, log_softmax NaN.
        const float base = log ? all.top : all.base();
        if constexpr (!P::kLong) {
            z.each([&](float& v, int, int) {
                const float e = exp_for<T>(v - base);
                all.sum += e;
                if constexpr (!log) v = e;
            });
            all.sum = team.sum(all.sum);
        }
        const float sum = all.sum;

        const float log_sum = log ? logf(sum) : 0.0f;
        const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
        for_tiles<P>(team, cols, [&](int64_t start) {
            if constexpr (P::kLong) read(start, false);
            z.each([&](float& v, int, int) {
                if constexpr (log) {
                    v = v - base - log_sum;
                } else {
                    v = (P::kLong ? exp_for<T>(v - base) : v) * inverse;
                }
            });
            z.store(team, y + row * cols, start, end);
        });
    });
}

// dx = scale y (dy - sum dy y), or for log_softmax dx = dy - exp(y) sum dy.
template <class T, class P, bool log>
__global__ void __launch_bounds__(P::Team::kThreads, P::Team::kBlocks)
    softmax_backward_rows(T* dx, const T* dy, const T* y, int64_t rows, int64_t cols, float scale) {
    typename P::Team team;
    for_rows(team, rows, [&](int64_t row, bool here) {
        const int64_t offset = row * cols, end = here ? cols : 0;
        T *const kept_g = shared_row<P, T>(), *const kept_p = kept_g + (P::kShared ? cols : 0);
        Tile<P> g, p;
        float dot = 0.0f;
        for_tiles<P>(team, cols, [&](int64_t start) {
            g.load(team, dy + offset, start, end, 0.0f);
            if constexpr (!log || !P::kLong) p.load(team, y + offset, start, end, 0.0f);
            if constexpr (P::kShared) {
                g.keep(team, kept_g, start, end);
                if constexpr (!log) p.keep(team, kept_p, start, end);
            }
            g.each([&](float v, int k, int j) {
                if constexpr (log) {
                    dot += v;
                } else {
                    dot = fmaf(v, p.v[k][j], dot);
                }
            });
        });
        dot = team.sum(dot);
        for_tiles<P>(team, cols, [&](int64_t start) {
            if constexpr (P::kLong) {
                g.load(team, P::kShared ? kept_g : dy + offset, start, end, 0.0f);
                p.load(team, P::kShared && !log ? kept_p : y + offset, start, end, 0.0f);
            }
            g.each([&](float& v, int k, int j) {
                if constexpr (log) {
                    v -= exp_for<T>(p.v[k][j]) * dot;
                } else {
                    v = scale * p.v[k][j] * (v - dot);
                }
            });
            g.store(team, dx + offset, start, end);
        });
    });
}

template <bool log>
void forward(const char* name, Out y, In x, const Array& mask, double scale, bool causal,
             Stream stream) {
    const int64_t rows = x.rows(), cols = x.cols();
    if (rows == 0 || cols == 0) return;
    const Sight seen = sight(x, mask, causal);
    for_storage(x, [&](auto zero) {
        using T = decltype(zero);
        T* to = y.as<T>();
        const T* from = x.as<T>();
        const auto kept = cols * static_cast<int64_t>(sizeof(T));
        plan_rows<T>(rows, cols, packable<T>(cols, to, from), kept, [&](auto plan) {
            launch_shared(name, softmax_forward_rows<T, decltype(plan), log>, plan.grid, plan.block,
                          plan.shared, stream, to, from, seen, rows, cols, scale);
        });
    });
}

template <bool log>
void backward(const char* name, Out dx, In dy, In y, double scale, Stream stream) {
    const int64_t rows = y.rows(), cols = y.cols();
    if (rows == 0 || cols == 0) return;
    for_storage(y, [&](auto zero) {
        using T = decltype(zero);
        T* to = dx.as<T>();
        const T *g = dy.as<T>(), *p = y.as<T>();
        // log_softmax reads y only once.
        const auto kept = (log ? 1 : 2) * cols * static_cast<int64_t>(sizeof(T));
        plan_rows<T>(rows, cols, packable<T>(cols, to, g, p), kept, [&](auto plan) {
            launch_shared(name, softmax_backward_rows<T, decltype(plan), log>, plan.grid,
                          plan.block, plan.shared, stream, to, g, p, rows, cols, scale);
        });
    });
}

}  // namespace

void softmax_forward(Out y, In x, Maybe<StridedIn> mask, double scale, bool causal, Stream stream) {
    if (mask) mask.as<bool>();
    forward<false>("softmax_forward", y, x, mask, scale, causal, stream);
}

void softmax_backward(Out dx, In dy, In y, double scale, Stream stream) {
    backward<false>("softmax_backward", dx, dy, y, scale, stream);
}

void log_softmax_forward(Out y, In x, Stream stream) {
    forward<true>("log_softmax_forward", y, x, Array{}, 1.0, false, stream);
}

void log_softmax_backward(Out dx, In dy, In y, Stream stream) {
    backward<true>("log_softmax_backward", dx, dy, y, 1.0, stream);
}

}  // namespace byhand
