#include "core/exponentials.cuh"
#include "ops/loss/weighted_cross_entropy.h"

namespace byhand {
namespace {

// The distributions q of the rows.
template <class T>
struct Aims {
    const int64_t* ids;      // (R), or null where there are probabilities
    const T* probabilities;  // (R, V), or null
    const float* weight;     // (V), or null
    int64_t classes, ignore_index;
    float sharp, floor;  // 1 - e and e / V

    BYHAND_DEVICE bool kept(int64_t row) const {
        return ids == nullptr || ids[row] != ignore_index;
    }
    // Whether more than one class may have a share.
    BYHAND_DEVICE bool spreads() const { return probabilities != nullptr || floor > 0.0f; }
    BYHAND_DEVICE float weight_of(int64_t v) const { return weight == nullptr ? 1.0f : weight[v]; }
    // The weight of the target of a kept row; NaN, without a read, if that is not a class.
    BYHAND_DEVICE float share(int64_t row) const {
        if (probabilities != nullptr) return 1.0f;
        const int64_t target = ids[row];
        return target >= 0 && target < classes ? weight_of(target) : not_a_number();
    }
    // q of class v, without the part that only the target's class has.
    BYHAND_DEVICE float at(int64_t row, int64_t v) const {
        float q = floor;
        if (probabilities != nullptr)
            q = fmaf(sharp, to_float(probabilities[row * classes + v]), q);
        return q * weight_of(v);
    }
};

struct Rows {
    float *losses, *lse, *mass;
};

template <class T, class P>
__global__ void __launch_bounds__(P::Team::kThreads, 1)
    weighted_cross_entropy_forward_rows(Rows to, const T* logits, Aims<T> aims, bool normalise,
                                        int64_t rows) {
    typename P::Team team;
    for_rows(team, rows, [&](int64_t row, bool here) {
        const bool kept = here && aims.kept(row);
        const T* x = logits + row * aims.classes;
        const int64_t end = kept ? aims.classes : 0;
        Tile<P> z;
        float top = 0.0f, log_sum = 0.0f;
        if (normalise && aims.classes > 0) {
            Exponentials<T> all;
            for_tiles<P>(team, end, [&](int64_t start) {
                z.load(team, x, start, end, -infinity());
                all.add(z);
            });
            all.join(team);
            top = all.base(), log_sum = logf(all.sum);
        }
        float mass = 0.0f, away = 0.0f;
        if (aims.spreads()) {
            for_tiles<P>(team, end, [&](int64_t start) {
                z.load(team, x, start, end, top);
                z.each([&](float v, int k, int j) {
                    const int64_t column = Tile<P>::column(team, start, k) + j;
                    const float q = column < end ? aims.at(row, column) : 0.0f;
                    mass += q;
                    away += q == 0.0f ? 0.0f : q * (top - v);
                });
            });
            team.sum(mass, away);
        }
        if (!here || team.rank() != 0) return;
        if (!kept) {
            to.losses[row] = 0.0f, to.lse[row] = infinity(), to.mass[row] = 0.0f;
            return;
        }
        const float peak = aims.probabilities != nullptr ? 0.0f : aims.sharp * aims.share(row);
        if (peak != 0.0f) {  // NaN, without a read, if the target is not a class
            mass += peak;
            away += std::isnan(peak) ? peak : peak * (top - to_float(x[aims.ids[row]]));
        }
        to.losses[row] = fmaf(mass, log_sum, away);
        to.lse[row] = normalise ? top + log_sum : infinity();
        to.mass[row] = mass;
    });
}

constexpr int kFinish = 256;

template <class T>
__global__ void __launch_bounds__(kFinish, 1)
    weighted_cross_entropy_finish(float* loss, float* total, const float* losses, Aims<T> aims,
                                  bool mean, int64_t rows) {
    double sum = 0.0, shares = 0.0;
    for (int64_t r = threadIdx.x; r < rows; r += kFinish) {
        sum += losses[r];
        if (aims.kept(r)) shares += aims.share(r);
    }
    sum = sum_block<kFinish>(sum);
    shares = sum_block<kFinish>(shares);
    if (threadIdx.x != 0) return;
    *total = static_cast<float>(shares);
    *loss = static_cast<float>(mean && shares > 0.0 ? sum / shares : sum);
}

// dloss and dlosses may be null.
struct Upstream {
    const float *dloss, *dlosses, *total;
    bool mean;

    BYHAND_DEVICE float of_all() const {
        if (dloss == nullptr) return 0.0f;
        return mean && *total > 0.0f ? *dloss / *total : *dloss;
    }
};

template <class T, class P>
__global__ void __launch_bounds__(P::Team::kThreads, P::Team::kBlocks)
    weighted_cross_entropy_backward_rows(T* dlogits, Upstream upstream, const float* lse,
                                         const float* mass, const T* logits, Aims<T> aims,
                                         int64_t rows) {
    typename P::Team team;
    const float same = upstream.of_all();
    const int64_t cols = aims.classes;
    for_rows(team, rows, [&](int64_t row, bool here) {
        if (!here) return;
        const bool kept = aims.kept(row), spreads = aims.spreads();
        const float share = kept ? aims.share(row) : 0.0f;
        const float wrong = std::isnan(share) ? share : 0.0f;
        const float peak = aims.sharp * share;
        const int64_t target = aims.probabilities != nullptr ? -1 : aims.ids[row];
        const float d = same + (upstream.dlosses == nullptr ? 0.0f : upstream.dlosses[row]);
        const float shift = kept ? lse[row] : 0.0f, m = mass[row];
        Tile<P> z;
        for_tiles<P>(team, cols, [&](int64_t start) {
            if (kept) z.load(team, logits + row * cols, start, cols, 0.0f);
            z.each([&](float& v, int k, int j) {
                const int64_t column = Tile<P>::column(team, start, k) + j;
                float q = column == target ? peak : 0.0f;
                if (kept && spreads && column < cols) q += aims.at(row, column);
                v = kept ? (m * exp_for<T>(v - shift) - q) * d + wrong : 0.0f;
            });
            z.store(team, dlogits + row * cols, start, cols);
        });
    });
}

template <class T>
Aims<T> aims_of(const char* name, const Maybe<In>& targets, const Maybe<In>& probabilities,
                const Maybe<In>& weight, int64_t classes, int64_t ignore_index, double smoothing) {
    const Aims<T> aims = {targets.as<int64_t>(),
                          probabilities.as<T>(),
                          weight.as<float>(),
                          classes,
                          ignore_index,
                          static_cast<float>(1.0 - smoothing),
                          classes > 0 ? static_cast<float>(smoothing / classes) : 0.0f};
    if (aims.ids == nullptr && aims.probabilities == nullptr) {
        throw std::invalid_argument(std::string(name) + ": targets or probabilities must be given");
    }
    return aims;
}

}  // namespace

void weighted_cross_entropy_forward(Out loss, Out total, Out losses, Out lse, Out mass, In logits,
                                    Maybe<In> targets, Maybe<In> probabilities, Maybe<In> weight,
                                    int64_t ignore_index, double smoothing, bool mean,
                                    bool normalise, Stream stream) {
    const char* name = "weighted_cross_entropy_forward";
    const int64_t rows = logits.rows(), cols = logits.cols();
    const Rows to = {losses.as<float>(), lse.as<float>(), mass.as<float>()};
    float *const loss_to = loss.as<float>(), *const total_to = total.as<float>();
    for_storage(logits, [&](auto zero) {
        using T = decltype(zero);
        const T* const x = logits.as<T>();
        const Aims<T> aims =
            aims_of<T>(name, targets, probabilities, weight, cols, ignore_index, smoothing);
        if (rows > 0) {
            plan_tiles<1, 8>(rows, cols, [&](auto plan) {
                launch(name, weighted_cross_entropy_forward_rows<T, decltype(plan)>, plan.grid,
                       plan.block, stream, to, x, aims, normalise, rows);
            });
        }
        launch(name, weighted_cross_entropy_finish<T>, dim3(1), dim3(kFinish), stream, loss_to,
               total_to, static_cast<const float*>(to.losses), aims, mean, rows);
    });
}

void weighted_cross_entropy_backward(Out dlogits, Maybe<In> dloss, Maybe<In> dlosses, In total,
                                     In lse, In mass, In logits, Maybe<In> targets,
                                     Maybe<In> probabilities, Maybe<In> weight,
                                     int64_t ignore_index, double smoothing, bool mean,
                                     Stream stream) {
    const char* name = "weighted_cross_entropy_backward";
    const int64_t rows = logits.rows(), cols = logits.cols();
    const Upstream upstream = {dloss.as<float>(), dlosses.as<float>(), total.as<float>(), mean};
    const float *const lses = lse.as<float>(), *const masses = mass.as<float>();
    for_storage(logits, [&](auto zero) {
        using T = decltype(zero);
        T* const to = dlogits.as<T>();
        const T* const x = logits.as<T>();
        const Aims<T> aims =
            aims_of<T>(name, targets, probabilities, weight, cols, ignore_index, smoothing);
        if (rows == 0 || cols == 0) return;
        plan_tiles<1, 8>(rows, cols, [&](auto plan) {
            launch(name, weighted_cross_entropy_backward_rows<T, decltype(plan)>, plan.grid,
                   plan.block, stream, to, upstream, lses, masses, x, aims, rows);
        });
    });
}

}  // namespace byhand
