// Activation functions, element by element.
#pragma once

#include <cstdint>

#include "core/array.h"

namespace byhand {

// The functions by number, in the order of NUMBERED in python/byhand/ops/activation.py.
enum class Activation : std::int64_t {
    step,
    sigmoid,
    tanh,
    relu,
    leaky_relu,
    elu,
    gelu,
    gelu_tanh,
    silu,
    softplus
};

// MATH     y = f(x);  dx = dy f'(x), where f' is computed from x or from y
//          step        x >= 0 ? 1 : 0                    f' = 0
//          sigmoid     1 / (1 + exp(-x))                 f' = y (1 - y)
//          tanh        tanh x                            f' = (1 - y)(1 + y)
//          relu        max(x, 0)                         f' = y > 0
//          leaky_relu  x > 0 ? x : a x, a >= 0           f' = y > 0 ? 1 : a
//          elu         x > 0 ? b x : a (exp(x) - 1)      f' = y > 0 ? b : y + a; a, b >= 0
//                      (ELU: b = 1, Clevert et al. 2016, equation 15; SELU: Klambauer et al. 2017,
//                      equation 2)
//          gelu        as in bias_gelu.h                 f' from x; gelu_tanh likewise
//          silu        x s, s = sigmoid x                f' = s (1 + x (1 - s))
//                      (Elfwing et al. 2018, equations 7 and 9)
//          softplus    z = a x;  z > b ? x : log(1 + exp(z)) / a   f' = z > b ? 1 : sigmoid z
// SHAPES   x,y,dy,dx any shape, all the same, T
// EFFECTS  writes y | writes dx | y may be x, dx may be dy; x or y is None where f' does not need
//          it; throws for another number
// NUMERICS f32; the error bounds are in simd/vecmath.h; NaN gives NaN in the same element, except
//          that dx is 0 for step, and for relu where y <= 0, whatever dy holds
// TRAFFIC  forward 2RC, backward 3RC elements
void activation_forward(Out y, In x, std::int64_t function, double a, double b, Stream stream);
void activation_backward(Out dx, In dy, Maybe<In> x, Maybe<In> y, std::int64_t function, double a,
                         double b, Stream stream);

}  // namespace byhand
