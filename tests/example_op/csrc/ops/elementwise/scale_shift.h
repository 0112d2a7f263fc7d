// A linear function of every element.
#pragma once

#include "core/array.h"

namespace byhand {

// MATH     y = scale x + shift;  dx = scale dy
// SHAPES   x,y,dy,dx (R,C) T
// EFFECTS  writes y | writes dx | y may be x, dx may be dy
// NUMERICS f32
// TRAFFIC  forward 2RC, backward 2RC elements
void scale_shift_forward(Out y, In x, double scale, double shift, Stream stream);
void scale_shift_backward(Out dx, In dy, double scale, Stream stream);

}  // namespace byhand
