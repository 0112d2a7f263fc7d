// The feed-forward layer of a transformer, with GELU fused into the multiplications.
#pragma once

#include "core/array.h"

namespace byhand {

// MATH     pre = x w1T + b1;  h = gelu(pre);  y = h w2T + b2 + add     (GELU: Hendrycks and Gimpel
//          2016, the tanh form or the exact one)
// SHAPES   x,y,add (R,C) T   pre (R,F) T   w1 (F,C) T   b1 (F) T   w2 (C,F) T   b2 (C) T
//          h (block,F) T, block > 0: the most rows whose hidden layer exists at once
// EFFECTS  writes pre y, uses h as scratch | y may be add
// NUMERICS products and sums in f32; h is computed from pre as it is stored; bf16 rounds x, w1, h
//          and w2 to bfloat16 for the products
// TRAFFIC  4RCF operations; bias, GELU and residual take no separate pass, h stays in the caches
void gelu_ffn_forward(Out y, Out pre, Out h, In x, In w1, Maybe<In> b1, In w2, Maybe<In> b2,
                      Maybe<In> add, bool tanh, bool bf16, Stream stream);

// MATH     dpre = (dy w2) gelu'(pre);  dx = dpre w1;  dw1 += dpreT x;  db1 += column sums of dpre;
//          h = gelu(pre);  dw2 += dyT h;  db2 += column sums of dy
// SHAPES   dx,dy,x (R,C) T   pre (R,F) T   h,dpre (block,F) T   parameters as above, their
//          gradients f32
// EFFECTS  writes dx, adds into dw1 db1 dw2 db2, uses h and dpre as scratch
// NUMERICS products and sums in f32; the R rows are cut into ceil(R/block) blocks, as equal as can
//          be, and gradients of parameters are summed block after block; bf16 rounds the operands
//          of the four products to bfloat16
// TRAFFIC  8RCF operations; GELU and its derivative take no separate pass
void gelu_ffn_backward(Out dx, Out h, Out dpre, Acc dw1, Acc db1, Acc dw2, Acc db2, In dy, In x,
                       In pre, In w1, In w2, bool tanh, bool bf16, Stream stream);

}  // namespace byhand
