// The gated feed-forward layer of a transformer, with the activation and the product of its two
// halves fused into the multiplications.
#pragma once

#include <cstdint>

#include "core/array.h"

namespace byhand {

// MATH     gate = x w1T + b1;  up = x w3T + b3;  h = f(gate) up;  y = h w2T + b2 + add
//          (Shazeer 2020, equation 6), with f the silu, gelu or gelu_tanh of activation.h, by
//          number
// SHAPES   x,y,add (R,C) T   gate,up (R,F) T   w1,w3 (F,C) T   b1,b3 (F) T   w2 (C,F) T   b2 (C) T
//          h (block,F) T, block > 0: the most rows whose hidden layer exists at once
// EFFECTS  writes gate up y, uses h as scratch | y may be add; throws for another function
// NUMERICS products and sums in f32; h is computed from gate and up as they are stored; bf16 rounds
//          x, w1, w3, h and w2 to bfloat16 for the products
// TRAFFIC  6RCF operations; biases, f, the product of gate and up and the residual take no separate
//          pass, h stays in the caches
void swiglu_ffn_forward(Out y, Out gate, Out up, Out h, In x, In w1, Maybe<In> b1, In w3,
                        Maybe<In> b3, In w2, Maybe<In> b2, Maybe<In> add, std::int64_t function,
                        bool bf16, Stream stream);

// MATH     dh = dy w2;  dgate = dh up f'(gate);  dup = dh f(gate);  dx = dgate w1 + dup w3;
//          dw1 += dgateT x;  dw3 += dupT x;  h = f(gate) up;  dw2 += dyT h;  db1, db3, db2 +=
//          column sums of dgate, dup, dy
// SHAPES   dx,dy,x (R,C) T   gate,up (R,F) T   h,dgate,dup (block,F) T   parameters as above, their
//          gradients f32
// EFFECTS  writes dx, adds into dw1 db1 dw3 db3 dw2 db2, uses h, dgate and dup as scratch; throws
//          for another function
// NUMERICS products and sums in f32, but in bfloat16 storage dgate w1 is rounded before dup w3 is
//          added; the R rows are cut into ceil(R/block) blocks, as equal as can be, and gradients
//          of parameters are summed block after block; bf16 rounds the operands of the six products
//          to bfloat16
// TRAFFIC  12RCF operations; f, its derivative and the products of two arrays take no separate pass
void swiglu_ffn_backward(Out dx, Out h, Out dgate, Out dup, Acc dw1, Acc db1, Acc dw3, Acc db3,
                         Acc dw2, Acc db2, In dy, In x, In gate, In up, In w1, In w3, In w2,
                         std::int64_t function, bool bf16, Stream stream);

}  // namespace byhand
