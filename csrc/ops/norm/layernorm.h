// Layer normalisation over the last axis, of x or of a residual sum.
#pragma once

#include "core/array.h"

namespace byhand {

// MATH     y = w shat + b, shat = (s - mean) rstd, rstd = 1 / sqrt(var + eps), s = x + add
//          dx = rstd (g - mean(g) - shat mean(g shat)) + ds, g = w dy
//          dw += sum_r dy shat;  db += sum_r dy                (Ba, Kiros and Hinton 2016, eq. 3)
// SHAPES   x,add,y,s,dy,dx,ds (R,C) T   w,b (C) T   dw,db (C) f32   mean,rstd (R) f32
//          work (G,2,C) f32, any G >= 1
// EFFECTS  writes y s mean rstd | writes dx work, adds into dw db | s may be x or add, dx dy or ds;
//          s is given if add is, else s is x; the x of backward is this s
// NUMERICS sums in f32, two-pass variance; s is rounded to T before its norm is taken;
//          work[g] holds the partial dw and db of the rows [g ceil(R/G), (g+1) ceil(R/G)), which
//          are then added in group order
// TRAFFIC  forward 2RC (4RC with add), backward 3RC (4RC with ds) elements
void layernorm_forward(Out y, Maybe<Out> s, Out mean, Out rstd, In x, In w, Maybe<In> b,
                       Maybe<In> add, double eps, Stream stream);
void layernorm_backward(Out dx, Acc dw, Acc db, Out work, In dy, In x, In w, In mean, In rstd,
                        Maybe<In> ds, Stream stream);

}  // namespace byhand
