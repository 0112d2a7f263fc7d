#include "core/tile.cuh"
#include "layernorm.h"

namespace byhand {
namespace {

template <class T, class P>
__global__ void __launch_bounds__(P::Team::kThreads, 1)
    layernorm_forward_rows(T* y, float* mean, float* rstd, const T* x, const T* w, const T* b,
                           float eps, int64_t rows, int64_t cols) {
    typename P::Team team;
    const float share = 1.0f / static_cast<float>(max(cols, int64_t{1}));  // an empty row: mean 0
    for_rows(team, rows, [&](int64_t row, bool here) {
        const T* x_row = x + row * cols;
        const int64_t end = here ? cols : 0;
        Tile<P> v;
        float mu = 0.0f, square = 0.0f;
        for_tiles<P>(team, cols, [&](int64_t start) {
            v.load(team, x_row, start, end, 0.0f);
            v.each([&](float e, int, int) { mu += e; });
        });
        mu = team.sum(mu) * share;
        for_tiles<P>(team, cols, [&](int64_t start) {
            if constexpr (P::kLong) v.load(team, x_row, start, end, 0.0f);
            v.each([&](float e, int k, int) {
                const float d = Tile<P>::column(team, start, k) < end ? e - mu : 0.0f;
                square = fmaf(d, d, square);
            });
        });
        const float scale = 1.0f / sqrtf(fmaf(team.sum(square), share, eps));
        if (here && team.rank() == 0) {
            mean[row] = mu;
            rstd[row] = scale;
        }
        for_tiles<P>(team, cols, [&](int64_t start) {
            if constexpr (P::kLong) v.load(team, x_row, start, end, 0.0f);
#pragma unroll
            for (int k = 0; k < P::K; ++k) {
                const int64_t column = Tile<P>::column(team, start, k);
                if (column >= end) continue;
                float weight[P::V], bias[P::V] = {};
                load(weight, w + column);
                if (b != nullptr) load(bias, b + column);
#pragma unroll
                for (int j = 0; j < P::V; ++j) {
                    weight[j] = fmaf((v.v[k][j] - mu) * scale, weight[j], bias[j]);
                }
                store(y + row * cols + column, weight);
            }
        });
    });
}

// What every form of the backward pass reads and writes; block g takes the rows of group g.
template <class T>
struct Backward {
    T* dx;
    float* work;
    const T *dy, *x, *w;
    const float *mean, *rstd;
    const T* add;
    int64_t rows, cols, group_rows;

    BYHAND_DEVICE int64_t first_row() const { return blockIdx.x * group_rows; }
    BYHAND_DEVICE int64_t last_row() const { return min(rows, first_row() + group_rows); }
    BYHAND_DEVICE float* partial_dw() const { return work + 2 * blockIdx.x * cols; }
    BYHAND_DEVICE float* partial_db() const { return partial_dw() + cols; }
};

// A row in the backward pass, a tile of it at a time.
template <class T, class P>
struct BackwardRow {
    using Team = typename P::Team;
    Tile<P> xhat, g;  // g is dy until it is weighed: w dy

    BYHAND_DEVICE void read(const Team& team, const Backward<T>& a, int64_t row, int64_t start,
                            int64_t end, float mu, float scale) {
        g.load(team, a.dy + row * a.cols, start, end, 0.0f);
        xhat.load(team, a.x + row * a.cols, start, end, mu);
        xhat.each([&](float& v, int, int) { v = (v - mu) * scale; });
    }

    BYHAND_DEVICE void add_to_parameters(Tile<P>& dw, Tile<P>& db) {
        g.each([&](float dy, int k, int j) {
            dw.v[k][j] = fmaf(dy, xhat.v[k][j], dw.v[k][j]);
            db.v[k][j] += dy;
        });
    }

    BYHAND_DEVICE void weigh(const Team& team, const Backward<T>& a, int64_t start, int64_t end,
                             float& sum_g, float& sum_gx) {
#pragma unroll
        for (int k = 0; k < P::K; ++k) {
            const int64_t column = Tile<P>::column(team, start, k);
            float weight[P::V] = {};
            if (column < end) load(weight, a.w + column);
#pragma unroll
            for (int j = 0; j < P::V; ++j) {
                g.v[k][j] *= weight[j];
                sum_g += g.v[k][j];
                sum_gx = fmaf(g.v[k][j], xhat.v[k][j], sum_gx);
            }
        }
    }

    BYHAND_DEVICE void write(const Team& team, const Backward<T>& a, int64_t row, int64_t start,
                             int64_t end, float scale, float mean_g, float mean_gx) const {
        const int64_t offset = row * a.cols;
#pragma unroll
        for (int k = 0; k < P::K; ++k) {
            const int64_t column = Tile<P>::column(team, start, k);
            if (column >= end) continue;
            float d[P::V] = {};
            if (a.add != nullptr) load(d, a.add + offset + column);
#pragma unroll
            for (int j = 0; j < P::V; ++j) {
                const float through = fmaf(xhat.v[k][j], mean_gx, mean_g);
                d[j] = fmaf(g.v[k][j] - through, scale, d[j]);
            }
            store(a.dx + offset + column, d);
        }
    }
};

template <class P>
BYHAND_DEVICE void store_partial(const typename P::Team& team, float* to, const Tile<P>& part,
                                 int64_t cols) {
#pragma unroll
    for (int k = 0; k < P::K; ++k) {
        const int64_t column = Tile<P>::column(team, 0, k);
#pragma unroll
        for (int j = 0; j < P::V; ++j) {
            if (column < cols) to[column + j] = part.v[k][j];
        }
    }
}

// Rows that one tile holds: the column sums stay in registers from the first row to the last.
template <class T, class P>
__global__ void __launch_bounds__(P::Team::kThreads, 1) layernorm_backward_rows(Backward<T> a) {
    using Team = typename P::Team;
    Team team;
    BackwardRow<T, P> r;
    Tile<P> dw, db;
    dw.each([](float& v, int, int) { v = 0.0f; });
    db.each([](float& v, int, int) { v = 0.0f; });
    const float share = 1.0f / static_cast<float>(a.cols);
    for (int64_t first = a.first_row(); first < a.last_row(); first += Team::kTeams) {
        const int64_t row = first + team.place();
        const bool here = row < a.last_row();
        const int64_t end = here ? a.cols : 0;
        const float mu = here ? a.mean[row] : 0.0f, scale = here ? a.rstd[row] : 0.0f;
        float sum_g = 0.0f, sum_gx = 0.0f;
        r.read(team, a, row, 0, end, mu, scale);
        r.add_to_parameters(dw, db);
        r.weigh(team, a, 0, end, sum_g, sum_gx);
        team.sum(sum_g, sum_gx);
        r.write(team, a, row, 0, end, scale, sum_g * share, sum_gx * share);
    }
    if constexpr (Team::kTeams > 1) {  // add up the warps, in order
        constexpr int kCols = kWarp * P::V * P::K;
        BYHAND_SHARED(float[2][kCols], total);
        for (int turn = 0; turn < Team::kTeams; ++turn) {
            if (team.place() == turn) {
                const auto merge = [&](float* sums) {
                    return [=](float& v, int k, int j) {
                        const int64_t at = Tile<P>::column(Team{}, 0, k) + j;
                        if (turn > 0) v += sums[at];
                        sums[at] = v;
                    };
                };
                dw.each(merge(total[0]));
                db.each(merge(total[1]));
            }
            sync_block();
        }
        if (team.place() != Team::kTeams - 1) return;
    }
    store_partial<P>(team, a.partial_dw(), dw, a.cols);
    store_partial<P>(team, a.partial_db(), db, a.cols);
}

// Longer rows: each thread keeps the sums of its own columns in `work`, which the cache holds, and
// reads x and dy twice.
template <class T, class P>
__global__ void __launch_bounds__(P::Team::kThreads, 1) layernorm_backward_long(Backward<T> a) {
    using Team = typename P::Team;
    Team team;
    BackwardRow<T, P> r;
    const float share = 1.0f / static_cast<float>(a.cols);
    const auto own_columns = [&](int64_t start, auto&& f) {
#pragma unroll
        for (int k = 0; k < P::K; ++k) {
            const int64_t column = Tile<P>::column(team, start, k);
#pragma unroll
            for (int j = 0; j < P::V; ++j) {
                if (column < a.cols)
                    f(a.partial_dw() + column + j, a.partial_db() + column + j, k, j);
            }
        }
    };
    for_tiles<P>(team, a.cols, [&](int64_t start) {
        own_columns(start, [](float* dw, float* db, int, int) { *dw = *db = 0.0f; });
    });
    for (int64_t row = a.first_row(); row < a.last_row(); ++row) {
        const float mu = a.mean[row], scale = a.rstd[row];
        float sum_g = 0.0f, sum_gx = 0.0f;
        for_tiles<P>(team, a.cols, [&](int64_t start) {
            r.read(team, a, row, start, a.cols, mu, scale);
            own_columns(start, [&](float* dw, float* db, int k, int j) {
                *dw = fmaf(r.g.v[k][j], r.xhat.v[k][j], *dw);
                *db += r.g.v[k][j];
            });
            r.weigh(team, a, start, a.cols, sum_g, sum_gx);
        });
        team.sum(sum_g, sum_gx);
        for_tiles<P>(team, a.cols, [&](int64_t start) {
            float known_g = 0.0f, known_gx = 0.0f;
            r.read(team, a, row, start, a.cols, mu, scale);
            r.weigh(team, a, start, a.cols, known_g, known_gx);
            r.write(team, a, row, start, a.cols, scale, sum_g * share, sum_gx * share);
        });
    }
}

// to[c] += sum over the groups of work[g][part][c]. Each of kSlices threads a column adds up its
// share of neighbouring groups in order, then one adds up the shares in order.
constexpr int kSlices = 32;

__global__ void __launch_bounds__(kWarp* kSlices)
    layernorm_add_partials(float* dw, float* db, const float* work, int64_t groups, int64_t cols) {
    BYHAND_SHARED(float[kSlices][kWarp + 1], share);
    float* to = blockIdx.y == 0 ? dw : db;
    if (to == nullptr) return;
    const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarp + threadIdx.x;
    const int64_t each = (groups + kSlices - 1) / kSlices;
    const int64_t first = threadIdx.y * each, last = min(groups, first + each);
    float sum = 0.0f;
    if (column < cols) {
#pragma unroll 4
        for (int64_t g = first; g < last; ++g) sum += work[(2 * g + blockIdx.y) * cols + column];
    }
    share[threadIdx.y][threadIdx.x] = sum;
    sync_block();
    if (threadIdx.y == 0 && column < cols) {
        for (int s = 1; s < kSlices; ++s) sum += share[s][threadIdx.x];
        to[column] += sum;
    }
}

}  // namespace

void layernorm_forward(Out y, Out mean, Out rstd, In x, In w, Maybe<In> b, double eps,
                       Stream stream) {
    const char* name = "layernorm_forward";
    const int64_t rows = x.rows(), cols = x.cols();
    if (rows == 0) return;
    for_storage(name, x, [&](auto zero) {
        using T = decltype(zero);
        T* to = y.as<T>();
        const T *from = x.as<T>(), *weight = w.as<T>(), *bias = b.as<T>();
        float *means = mean.as<float>(), *rstds = rstd.as<float>();
        const bool packed = packable<T>(cols, to, from, weight, bias);
        plan_rows<T>(rows, cols, packed, [&](auto plan) {
            launch(name, layernorm_forward_rows<T, decltype(plan)>, plan.grid, plan.block, stream,
                   to, means, rstds, from, weight, bias, eps, rows, cols);
        });
    });
}

void layernorm_backward(Out dx, Acc dw, Acc db, Out work, In dy, In x, In w, In mean, In rstd,
                        Maybe<In> add, Stream stream) {
    const char* name = "layernorm_backward";
    const int64_t rows = x.rows(), cols = x.cols(), groups = work.shape[0];
    if (groups < 1) throw std::invalid_argument("layernorm_backward: work must have a group");
    if (groups > kMaxGrid) throw std::invalid_argument("layernorm_backward: too many groups");
    if (cols == 0) return;
    float* partials = work.as<float>();
    for_storage(name, x, [&](auto zero) {
        using T = decltype(zero);
        Backward<T> a;
        a.dx = dx.as<T>();
        a.work = partials;
        a.dy = dy.as<T>();
        a.x = x.as<T>();
        a.w = w.as<T>();
        a.mean = mean.as<float>();
        a.rstd = rstd.as<float>();
        a.add = add.as<T>();
        a.rows = rows;
        a.cols = cols;
        a.group_rows = (rows + groups - 1) / groups;
        const bool packed = packable<T>(cols, a.dx, a.dy, a.x, a.w, a.add);
        // A thread keeps four tiles at once, so a block's tile holds half of what forward's does.
        plan_rows<T, 8>(groups, cols, packed, [&](auto plan) {
            using P = decltype(plan);
            const dim3 grid(static_cast<unsigned>(groups));
            if constexpr (P::kLong) {
                launch(name, layernorm_backward_long<T, P>, grid, plan.block, stream, a);
            } else {
                launch(name, layernorm_backward_rows<T, P>, grid, plan.block, stream, a);
            }
        });
    });
    if (dw || db) {
        const dim3 grid(blocks_for(cols, kWarp), 2);
        launch(name, layernorm_add_partials, grid, dim3(kWarp, kSlices), stream, dw.as<float>(),
               db.as<float>(), partials, groups, cols);
    }
}

}  // namespace byhand
