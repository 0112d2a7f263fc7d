// Softmax and log-softmax over the last axis.
#pragma once

#include "core/array.h"

namespace byhand {

// MATH     y_j = exp(s x_j - m) / sum_k exp(s x_k - m), m = max_k s x_k, k over the seen keys
//          y_j = 0 where j is not seen;  dx = s y (dy - sum_k dy_k y_k), s = scale    (Bridle 1990)
// SHAPES   x,y,dy,dx (..., T, S) T   mask b8, as many dims as x, stride 0 = broadcast
//          key j is seen by query i where the mask is True and, if causal, j <= i + (S - T)
// EFFECTS  writes y | writes dx | y may be x, dx may be dy
// NUMERICS f32, maximum first, then the sum; a row without a seen key, or with only -inf, is all
//          zeros; NaN or +inf at a seen key makes its own row NaN, unseen values have no effect
// TRAFFIC  forward 2RC, backward 3RC elements
void softmax_forward(Out y, In x, Maybe<StridedIn> mask, double scale, bool causal, Stream stream);
void softmax_backward(Out dx, In dy, In y, double scale, Stream stream);

// MATH     y_j = x_j - m - log(sum_k exp(x_k - m)), m = max_k x_k
//          dx = dy - exp(y) sum_k dy_k
// SHAPES   x,y,dy,dx (..., C) T
// EFFECTS  writes y | writes dx | y may be x, dx may be dy
// NUMERICS f32, maximum first, then the sum; a row with NaN or +inf, or with only -inf, is NaN
// TRAFFIC  forward 2RC, backward 3RC elements
void log_softmax_forward(Out y, In x, Stream stream);
void log_softmax_backward(Out dx, In dy, In y, Stream stream);

}  // namespace byhand
