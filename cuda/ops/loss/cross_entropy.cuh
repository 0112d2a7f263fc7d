// Shared by the kernels of cross_entropy: the arithmetic of a row's loss, and the sum over the
// rows.
#pragma once

#include "core/exponentials.cuh"
#include "core/slots.h"
#include "ops/loss/cross_entropy.h"

namespace byhand {
namespace {

// Each team sums the losses of its rows in order; a second kernel adds the teams' sums in order.
constexpr int kPartials = 4096;

struct Partial {
    double loss;
    long long count;
};
__device__ Partial partials[kSlots][kPartials];

struct Options {
    int64_t ignore_index;
    float smoothing;
    bool mean;
};

// The sum of the logits of a tile, without elements past the end.
template <class P>
BYHAND_DEVICE float sum_of(Tile<P>& z, const typename P::Team& team, int64_t start, int64_t end) {
    float total = 0.0f;
    z.each([&](float v, int k, int) {
        if (Tile<P>::column(team, start, k) < end) total += v;
    });
    return total;
}

// The logit of the target; NaN, without a read, if the target is not a class.
template <class T>
BYHAND_DEVICE float logit_at(const T* x, int64_t target, int64_t cols) {
    return target >= 0 && target < cols ? to_float(x[target]) : not_a_number();
}

// Adds the loss of a kept row and writes its lse. Logits are subtracted from the maximum and not
// from lse, whose rounding error is large when lse is large.
template <class T>
BYHAND_DEVICE void add_row(Partial& mine, float* lse, const Exponentials<T>& row, float total,
                           float at_target, float smoothing, int64_t cols) {
    const double e = smoothing, log_sum = logf(row.sum), top = row.top;
    double loss = log_sum + (1.0 - e) * (top - at_target);
    if (e > 0.0) loss += e * (top - total / static_cast<double>(cols));
    if (lse != nullptr) *lse = static_cast<float>(top + log_sum);
    mine.loss += loss;
    mine.count += 1;
}

constexpr int kFinish = 256;

__global__ void __launch_bounds__(kFinish, 1)
    cross_entropy_finish(float* loss, float* count, Options options, int slot, int teams) {
    BYHAND_SHARED(Partial[kFinish], shared);
    Partial mine = {0.0, 0};
    const int each = (teams + kFinish - 1) / kFinish, rank = static_cast<int>(threadIdx.x);
    for (int i = rank * each; i < min(teams, (rank + 1) * each); ++i) {
        mine.loss += partials[slot][i].loss;
        mine.count += partials[slot][i].count;
    }
    shared[rank] = mine;
    for (int half = kFinish / 2; half > 0; half /= 2) {
        sync_block();
        if (rank < half) {
            shared[rank].loss += shared[rank + half].loss;
            shared[rank].count += shared[rank + half].count;
        }
    }
    if (rank != 0) return;
    const double sum = shared[0].loss, kept = static_cast<double>(shared[0].count);
    *count = static_cast<float>(kept);
    *loss = static_cast<float>(options.mean && kept > 0.0 ? sum / kept : sum);
}

Options options_of(int64_t ignore_index, double smoothing, bool mean) {
    return {ignore_index, static_cast<float>(smoothing), mean};
}

}  // namespace
}  // namespace byhand
