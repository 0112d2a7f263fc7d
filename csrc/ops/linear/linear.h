// The linear layer.
#pragma once

#include "core/array.h"

namespace byhand {

// MATH     y = x wT + b + add
// SHAPES   x (R,K) T   w (N,K) T   b (N) T   y,add (R,N) T
// EFFECTS  writes y | y may be add
// NUMERICS products and sums in f32, each sum in fixed pieces of K; bf16 rounds x and w to bfloat16
// TRAFFIC  2RNK operations
void linear_forward(Out y, In x, In w, Maybe<In> b, Maybe<In> add, bool bf16, Stream stream);

// MATH     dx = dy w;  dw += dyT x;  db += column sums of dy
// SHAPES   dx,x (R,K) T   w (N,K) T   dy (R,N) T   dw (N,K) f32   db (N) f32
// EFFECTS  writes dx, adds into dw db; each may be None
// NUMERICS products and sums in f32; dw and db are summed in the order of R, in fixed blocks; bf16
//          rounds the operands of the two products, dy, x and w, to bfloat16
// TRAFFIC  4RNK operations
void linear_backward(Maybe<Out> dx, Acc dw, Acc db, In dy, In x, In w, bool bf16, Stream stream);

}  // namespace byhand
