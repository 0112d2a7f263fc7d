// Losses of each element of a prediction and their sum.
#pragma once

#include <cstdint>

#include "core/array.h"

namespace byhand {

// The functions by number, in the order of NAMES in python/byhand/ops/pointwise_loss.py.
enum class PointwiseLoss : std::int64_t { squared, huber, bce };

// MATH     losses_i = l(x_i, t_i);  loss = sum_i losses_i, divided by N if mean
//          dx_i = (dlosses_i + k) l'(x_i, t_i), k = dloss, divided by N if mean
//          squared  a d^2, d = x - t                         l' = 2 a d
//          huber    |d| <= a ? d^2 / 2 : a (|d| - a / 2)     l' = max(-a, min(a, d))
//                   (Huber 1964, his function rho)
//          bce      (1-t) log(1 + exp(x)) + a t log(1 + exp(-x))
//                   l' = (1-t) s(x) - a t s(-x), s(x) = 1 / (1 + exp(-x))
//                   (Bishop 2006, equation 4.90, with the weight a of the positive class)
// SHAPES   prediction x, target t, dx any shape with N elements, T
//          losses,dlosses the same shape, f32   loss,dloss () f32
// EFFECTS  writes loss losses | writes dx | results that are None are not written, gradients that
//          are None count as 0; throws std::invalid_argument for another function
// NUMERICS f32; at most 4096 losses are summed in f32 and those sums in f64, in an order fixed by
//          N and the alignment; the mean of no elements is 0; NaN gives NaN in the same element
// TRAFFIC  forward 2N (2N + N f32 with losses), backward 3N (3N + N f32 with dlosses) elements
void pointwise_loss_forward(Maybe<Out> loss, Maybe<Out> losses, In prediction, In target,
                            std::int64_t function, double a, bool mean, Stream stream);
void pointwise_loss_backward(Out dx, Maybe<In> dloss, Maybe<In> dlosses, In prediction, In target,
                             std::int64_t function, double a, bool mean, Stream stream);

}  // namespace byhand
