// Bias and GELU in one pass.
#pragma once

#include "core/array.h"

namespace byhand {

// MATH     y = gelu(u), u = x + b;  dx = dy gelu'(u);  db += sum_r dx
//          gelu(u) = u Phi(u), or with tanh: u/2 (1 + tanh(sqrt(2/pi) (u + 0.044715 u^3)))
//          (Hendrycks and Gimpel 2016, section 2)
// SHAPES   x,y,dy,dx (R,C) T   b (C) T   db (C) f32
// EFFECTS  writes y | writes dx, adds into db | y may be x, dx may be dy
// NUMERICS f32; the error bound of gelu is in simd/vecmath.h; db sums fixed blocks of rows, which
//          are then added in order
// TRAFFIC  forward 2RC, backward 3RC elements
void bias_gelu_forward(Out y, In x, Maybe<In> b, bool tanh, Stream stream);
void bias_gelu_backward(Out dx, Acc db, In dy, In x, Maybe<In> b, bool tanh, Stream stream);

}  // namespace byhand
