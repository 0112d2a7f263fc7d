// Layer normalisation over the last axis.
#pragma once

#include "core/array.h"

namespace byhand {

// MATH     y = w xhat + b, xhat = (x - mean) rstd, rstd = 1 / sqrt(var + eps)
//          dx = rstd (g - mean(g) - xhat mean(g xhat)) + add, g = w dy
//          dw += sum_r dy xhat;  db += sum_r dy                (Ba, Kiros and Hinton 2016, eq. 3)
// SHAPES   x,y,dy,dx,add (R,C) T   w,b (C) T   dw,db (C) f32   mean,rstd (R) f32
//          work (G,2,C) f32, any G >= 1
// EFFECTS  writes y mean rstd | writes dx work, adds into dw db | dx may be dy or add
// NUMERICS sums in f32, two-pass variance; work[g] holds the partial dw and db of the rows
//          [g ceil(R/G), (g+1) ceil(R/G)), which are then added in group order
// TRAFFIC  forward 2RC, backward 3RC (4RC with add) elements
void layernorm_forward(Out y, Out mean, Out rstd, In x, In w, Maybe<In> b, double eps,
                       Stream stream);
void layernorm_backward(Out dx, Acc dw, Acc db, Out work, In dy, In x, In w, In mean, In rstd,
                        Maybe<In> add, Stream stream);

}  // namespace byhand
