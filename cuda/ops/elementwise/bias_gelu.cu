#include "core/column_sums.cuh"
#include "core/gelu.cuh"
#include "core/tile.cuh"
#include "ops/elementwise/bias_gelu.h"

namespace byhand {
namespace {

template <class T>
struct Inputs {
    const T *dy, *x, *b;  // dy and b may be null
    bool tanh;
    int64_t rows, cols;
};

// x + b, not rounded.
template <class T, class P>
BYHAND_DEVICE void load_biased(Tile<P>& u, const typename P::Team& team, const Inputs<T>& a,
                               int64_t row, int64_t start) {
    u.load(team, a.x + row * a.cols, start, a.cols, 0.0f);
    if (a.b == nullptr) return;
    Tile<P> bias;
    bias.load(team, a.b, start, a.cols, 0.0f);
    u.each([&](float& v, int k, int j) { v += bias.v[k][j]; });
}

template <class T, class P>
__global__ void __launch_bounds__(P::Team::kThreads, 1)
    bias_gelu_forward_rows(T* y, const Inputs<T> a) {
    typename P::Team team;
    for_rows(team, a.rows, [&](int64_t row, bool here) {
        if (!here) return;
        for_tiles<P>(team, a.cols, [&](int64_t start) {
            Tile<P> u;
            load_biased(u, team, a, row, start);
            u.each([&](float& v, int, int) { v = gelu<T>(v, a.tanh).value; });
            u.store(team, y + row * a.cols, start, a.cols);
        });
    });
}

template <class T, class P>
__global__ void __launch_bounds__(P::Team::kThreads, 1)
    bias_gelu_backward_rows(T* dx, const Inputs<T> a) {
    typename P::Team team;
    for_rows(team, a.rows, [&](int64_t row, bool here) {
        if (!here) return;
        for_tiles<P>(team, a.cols, [&](int64_t start) {
            Tile<P> u, d;
            d.load(team, a.dy + row * a.cols, start, a.cols, 0.0f);
            load_biased(u, team, a, row, start);
            d.each([&](float& v, int k, int j) { v *= gelu<T>(u.v[k][j], a.tanh).slope; });
            d.store(team, dx + row * a.cols, start, a.cols);
        });
    });
}

// The elements of dx, not rounded.
template <class T>
struct Gradients {
    Inputs<T> a;

    template <int V>
    BYHAND_DEVICE void load(float (&v)[V], int64_t row, int64_t col) const {
        float x[V], b[V] = {};
        byhand::load(v, a.dy + row * a.cols + col);
        byhand::load(x, a.x + row * a.cols + col);
        if (a.b != nullptr) byhand::load(b, a.b + col);
#pragma unroll
        for (int j = 0; j < V; ++j) v[j] *= gelu<T>(x[j] + b[j], a.tanh).slope;
    }
};

// One warp per row, or one block for long rows.
template <class T, class F>
void plan_elements(int64_t rows, int64_t cols, bool packed, F&& f) {
    const auto choose = [&](auto width) {
        constexpr int V = decltype(width)::value, K = 8 / V;
        if (cols <= 1024) {
            f(Plan<V, K, WarpTeam, true>{dim3(blocks_for(rows, WarpTeam::kTeams)),
                                         dim3(kWarp, WarpTeam::kTeams)});
        } else {
            f(Plan<V, K, BlockTeam<256>, true>{dim3(blocks_for(rows, 1)), dim3(256)});
        }
    };
    if (packed) {
        choose(std::integral_constant<int, kPack<T>>{});
    } else {
        choose(std::integral_constant<int, 1>{});
    }
}

}  // namespace

void bias_gelu_forward(Out y, In x, Maybe<In> b, bool tanh, Stream stream) {
    const int64_t rows = x.rows(), cols = x.cols();
    for_storage(x, [&](auto zero) {
        using T = decltype(zero);
        T* const to = y.as<T>();
        const Inputs<T> a = {nullptr, x.as<T>(), b.as<T>(), tanh, rows, cols};
        if (rows == 0 || cols == 0) return;
        plan_elements<T>(rows, cols, packable<T>(cols, to, a.x, a.b), [&](auto plan) {
            launch("bias_gelu_forward", bias_gelu_forward_rows<T, decltype(plan)>, plan.grid,
                   plan.block, stream, to, a);
        });
    });
}

void bias_gelu_backward(Out dx, Acc db, In dy, In x, Maybe<In> b, bool tanh, Stream stream) {
    const char* name = "bias_gelu_backward";
    const int64_t rows = x.rows(), cols = x.cols();
    for_storage(x, [&](auto zero) {
        using T = decltype(zero);
        T* const to = dx.as<T>();
        float* const sums = db.as<float>();
        const Inputs<T> a = {dy.as<T>(), x.as<T>(), b.as<T>(), tanh, rows, cols};
        if (rows == 0 || cols == 0) return;
        const bool packed = packable<T>(cols, to, a.dy, a.x, a.b);
        // Before dx is written, because dx may be dy.
        if (db) add_column_sums<T>(name, sums, Gradients<T>{a}, packed, rows, cols, stream);
        plan_elements<T>(rows, cols, packed, [&](auto plan) {
            launch(name, bias_gelu_backward_rows<T, decltype(plan)>, plan.grid, plan.block, stream,
                   to, a);
        });
    });
}

}  // namespace byhand
