// Root mean square normalisation over the last axis, of x or of a residual sum.
#pragma once

#include "core/array.h"

namespace byhand {

// MATH     y = w shat, shat = s rstd, rstd = 1 / sqrt(mean(s^2) + eps), s = x + add
//          dx = rstd (g - shat mean(g shat)) + ds, g = w dy;  dw += sum_r dy shat
//                                                                  (Zhang and Sennrich 2019, eq. 4)
// SHAPES   x,add,y,s,dy,dx,ds (R,C) T   w (C) T   dw (C) f32   rstd (R) f32
//          work (G,C) f32, any G >= 1
// EFFECTS  writes y s rstd | writes dx work, adds into dw | s may be x or add, dx may be dy or ds;
//          s is given if add is, else s is x; the x of backward is this s
// NUMERICS sums in f32; s is rounded to T before its norm is taken; work[g] holds the partial dw of
//          the rows [g ceil(R/G), (g+1) ceil(R/G)), which are then added in group order
// TRAFFIC  forward 2RC (4RC with add), backward 3RC (4RC with ds) elements
void rmsnorm_forward(Out y, Maybe<Out> s, Out rstd, In x, In w, Maybe<In> add, double eps,
                     Stream stream);
void rmsnorm_backward(Out dx, Acc dw, Out work, In dy, In x, In w, In rstd, Maybe<In> ds,
                      Stream stream);

}  // namespace byhand
