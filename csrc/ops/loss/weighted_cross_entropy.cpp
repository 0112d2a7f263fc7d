#include "ops/loss/weighted_cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "core/ids.h"
#include "ops/loss/cross_entropy_rows.h"

namespace byhand {
namespace {

struct Weighted {
    float loss, lse, mass;
};

// The distributions q of the rows.
struct Aims {
    const std::int64_t* ids;              // (R), or null where there are probabilities
    const float *probabilities, *weight;  // (R, V) and (V), or null
    std::int64_t classes, ignore_index;
    float sharp, floor;    // 1 - e and e / V
    float uniform = 0.0f;  // with ids: the sum of `at` over all classes, the same in every row

    Aims(const char* kernel, const Maybe<In>& targets, const Maybe<In>& given,
         const Maybe<In>& weights, std::int64_t V, std::int64_t ignore, double smoothing)
        : ids(targets.as<std::int64_t>()),
          probabilities(given.as<float>()),
          weight(weights.as<float>()),
          classes(V),
          ignore_index(ignore),
          sharp(static_cast<float>(1.0 - smoothing)),
          floor(static_cast<float>(V > 0 ? smoothing / static_cast<double>(V) : 0.0)) {
        if (ids == nullptr && probabilities == nullptr) {
            throw std::invalid_argument(std::string(kernel) +
                                        ": targets or probabilities must be given");
        }
        if (ids != nullptr) require_ids(targets, V, ignore);
        if (probabilities == nullptr && spreads()) uniform = spread(0);
    }

    bool kept(std::int64_t r) const { return ids == nullptr || ids[r] != ignore_index; }
    // Whether more than one class may have a share.
    bool spreads() const { return probabilities != nullptr || floor > 0.0f; }
    // q of the class ids[r] is `at` plus this.
    float peak(std::int64_t r) const {
        if (probabilities != nullptr) return 0.0f;
        return weight == nullptr ? sharp : sharp * weight[ids[r]];
    }
    // The weight of row r in the mean.
    float share(std::int64_t r) const {
        if (!kept(r)) return 0.0f;
        return probabilities != nullptr || weight == nullptr ? 1.0f : weight[ids[r]];
    }
    // q of row r at classes v .. v + lanes - 1, without the peak; 0 past the end.
    BYHAND_INLINE Vec at(std::int64_t r, std::int64_t v, std::int64_t lanes) const {
        Vec q = Vec::set(floor);
        if (probabilities != nullptr) {
            q = fma(Vec::set(sharp), Vec::load(probabilities + r * classes + v, lanes), q);
        }
        if (weight != nullptr) q *= Vec::load(weight + v, lanes);
        return keep_first(q, lanes, 0.0f);
    }
    // The sum of `at` over all classes.
    float spread(std::int64_t r) const {
        return sum_words(classes, [=](Vec sum, std::int64_t v, std::int64_t lanes) {
            return sum + at(r, v, lanes);
        });
    }

    // Logits are subtracted from the maximum and not from lse, whose rounding error is large when
    // lse is large.
    Weighted loss(const float* x, std::int64_t r, bool normalise) const {
        if (!kept(r)) return {0.0f, kInfinity, 0.0f};
        float top = 0.0f;
        double log_total = 0.0;
        if (normalise && classes > 0) {
            LogSumExp all;
            for (std::int64_t i = 0; i < classes; i += kLogitBlock)
                all.add(x + i, std::min(kLogitBlock, classes - i));
            top = all.top;
            log_total = std::log(static_cast<double>(all.total));
        }
        double mass = peak(r);
        double away = mass == 0.0 ? 0.0 : mass * (double{top} - x[ids[r]]);
        if (spreads()) {
            mass += probabilities == nullptr ? uniform : spread(r);
            away += sum_words(classes, [=](Vec sum, std::int64_t v, std::int64_t lanes) {
                const Vec q = at(r, v, lanes), down = Vec::set(top) - Vec::load(x + v, lanes, top);
                return sum + select(q == Vec::zero(), Vec::zero(), q * down);
            });
        }
        return {static_cast<float>(mass * log_total + away),
                normalise ? static_cast<float>(top + log_total) : kInfinity,
                static_cast<float>(mass)};
    }

    // dx may be x. k: the gradient of the row's loss.
    void gradient(float* dx, const float* x, std::int64_t r, float k, float lse, float mass,
                  Into place) const {
        if (!kept(r)) {
            std::fill_n(dx, classes, 0.0f);
            return;
        }
        const auto softmax = [=](std::int64_t v, std::int64_t lanes) {
            return Vec::set(mass) * exp_score(Vec::load(x + v, lanes) - Vec::set(lse));
        };
        if (probabilities != nullptr) {
            write_words(dx, classes, place, [=](std::int64_t v, std::int64_t lanes) {
                return (softmax(v, lanes) - at(r, v, lanes)) * Vec::set(k);
            });
            return;
        }
        const auto word = [=](std::int64_t v, std::int64_t lanes) {
            const Vec p = softmax(v, lanes);
            return (spreads() ? p - at(r, v, lanes) : p) * Vec::set(k);
        };
        const std::int64_t target = ids[r];
        const Vec at_target = word(target, 1) - Vec::set(k * peak(r));
        write_words(dx, classes, place, word);
        at_target.store(dx + target, 1);
    }
};

}  // namespace

void weighted_cross_entropy_forward(Out loss, Out total, Out losses, Out lse, Out mass, In logits,
                                    Maybe<In> targets, Maybe<In> probabilities, Maybe<In> weight,
                                    std::int64_t ignore_index, double smoothing, bool mean,
                                    bool normalise, Stream) {
    const float* const x = logits.as<float>();
    float *const each = losses.as<float>(), *const lses = lse.as<float>();
    float *const masses = mass.as<float>(), *const sum_to = loss.as<float>();
    float* const total_to = total.as<float>();
    const std::int64_t rows = logits.rows(), classes = logits.cols();
    const Aims aims("weighted_cross_entropy_forward", targets, probabilities, weight, classes,
                    ignore_index, smoothing);
    for_rows(rows, classes, [=](std::int64_t r) {
        const Weighted row = aims.loss(x + r * classes, r, normalise);
        each[r] = row.loss;
        lses[r] = row.lse;
        masses[r] = row.mass;
    });
    double sum = 0.0, shares = 0.0;
    for (std::int64_t r = 0; r < rows; ++r) {
        sum += each[r];
        shares += aims.share(r);
    }
    *total_to = static_cast<float>(shares);
    *sum_to = static_cast<float>(mean && shares > 0.0 ? sum / shares : sum);
}

void weighted_cross_entropy_backward(Out dlogits, Maybe<In> dloss, Maybe<In> dlosses, In total,
                                     In lse, In mass, In logits, Maybe<In> targets,
                                     Maybe<In> probabilities, Maybe<In> weight,
                                     std::int64_t ignore_index, double smoothing, bool mean,
                                     Stream) {
    const float *const x = logits.as<float>(), *const lses = lse.as<float>();
    const float *const masses = mass.as<float>(), *const each = dlosses.as<float>();
    const float *const all = dloss.as<float>(), *const shares = total.as<float>();
    float* const dx = dlogits.as<float>();
    const std::int64_t rows = logits.rows(), classes = logits.cols();
    const Aims aims("weighted_cross_entropy_backward", targets, probabilities, weight, classes,
                    ignore_index, smoothing);
    const float same = all == nullptr ? 0.0f : mean && *shares > 0.0f ? *all / *shares : *all;
    const Into place = place_for(dx, logits.size(), {x, aims.probabilities});
    for_rows(rows, classes, [=](std::int64_t r) {
        const float k = same + (each == nullptr ? 0.0f : each[r]);
        aims.gradient(dx + r * classes, x + r * classes, r, k, lses[r], masses[r], place);
    });
}

}  // namespace byhand
