// Cross entropy between logits and class numbers: forward, backward, and both in one kernel, which
// overwrites the logits with their gradient.
#pragma once

#include "core/array.h"

namespace byhand {

// MATH     loss_r = (1-e) (lse - x_t) + e (lse - mean_v x_v), lse = log(sum_v exp(x_v))
//          loss = sum of loss_r over the kept rows, divided by their count if mean
//          dx_v = k (exp(x_v - lse) - e/V - (1-e) [v = t]), k = dloss, divided by count if mean
//          t = targets[r], e = smoothing (Szegedy et al. 2016, section 7); a row is kept unless
//          t = ignore_index
// SHAPES   logits,dlogits (R,V) T   targets (R) i64   lse (R) f32   loss,count,dloss () f32
// EFFECTS  writes loss count lse | writes dlogits | writes loss count lse, logits become dlogits |
//          dlogits may be logits; a kept target outside 0..V-1: the CPU throws std::out_of_range
//          before anything is written, CUDA makes the loss and that row of dlogits NaN
// NUMERICS rows in f32 with a running maximum, their losses summed in f64 in row order; a row
//          that is not kept has lse = inf and zero dlogits; with no kept row the loss is 0
// TRAFFIC  forward RV, backward 2RV, gradient 2RV elements
void cross_entropy_forward(Out loss, Out count, Out lse, In logits, In targets,
                           std::int64_t ignore_index, double smoothing, bool mean, Stream stream);
void cross_entropy_backward(Out dlogits, In dloss, In count, In lse, In logits, In targets,
                            std::int64_t ignore_index, double smoothing, bool mean, Stream stream);
void cross_entropy_gradient(Out loss, Out count, Maybe<Out> lse, Mut logits, In dloss, In targets,
                            std::int64_t ignore_index, double smoothing, bool mean, Stream stream);

}  // namespace byhand
