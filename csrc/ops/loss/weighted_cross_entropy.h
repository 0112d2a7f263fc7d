// Cross entropy of each row and of all, with class weights, and with class numbers or
// probabilities as targets.
#pragma once

#include "core/array.h"

namespace byhand {

// MATH     losses_r = -sum_v q_v log p_v,  q_v = w_v ((1-e) y_v + e/V),
//          log p_v = x_v - log(sum_u exp(x_u)), or x_v itself unless normalise
//          y = probabilities[r], without which y_v = [v = t]; without a weight w = 1
//          e = smoothing (Szegedy et al. 2016, section 7); a row is kept unless its
//          target t = targets[r] is ignore_index
//          loss = sum_r losses_r, divided by total if mean and total > 0
//          total = the sum of w_t over the kept rows; with probabilities, how many there are
//          dx_v = k_r (m exp(x_v - lse_r) - q_v), m = sum_v q_v
//          k_r = dlosses_r + dloss, dloss divided by total if mean and total > 0
// SHAPES   logits,dlogits,probabilities (R,V) T   targets (R) i64   weight (V) f32
//          losses,dlosses,lse,mass (R) f32   loss,total,dloss () f32
// EFFECTS  writes loss total losses lse mass | writes dlogits, which may be logits | dloss or
//          dlosses that are None count as 0; throws unless targets or probabilities are given; a
//          kept target outside 0..V-1: the CPU throws std::out_of_range before anything is written,
//          CUDA, without probabilities, makes the loss and that row of dlogits NaN
// NUMERICS rows in f32 with a running maximum, their losses and weights summed in f64 in an order
//          fixed by R; 0 log p is 0, and so is the loss of no classes; mass is m; lse is inf unless
//          normalise and in rows that are not kept, whose losses and dlogits are 0 whatever they
//          hold
// TRAFFIC  forward RV (2RV with probabilities), backward 2RV (3RV with probabilities) elements
void weighted_cross_entropy_forward(Out loss, Out total, Out losses, Out lse, Out mass, In logits,
                                    Maybe<In> targets, Maybe<In> probabilities, Maybe<In> weight,
                                    std::int64_t ignore_index, double smoothing, bool mean,
                                    bool normalise, Stream stream);
void weighted_cross_entropy_backward(Out dlogits, Maybe<In> dloss, Maybe<In> dlosses, In total,
                                     In lse, In mass, In logits, Maybe<In> targets,
                                     Maybe<In> probabilities, Maybe<In> weight,
                                     std::int64_t ignore_index, double smoothing, bool mean,
                                     Stream stream);

}  // namespace byhand
