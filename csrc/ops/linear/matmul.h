// The product of two matrices that are both activations.
#pragma once

#include "core/array.h"

namespace byhand {

// MATH     c = op(a) op(b), where op transposes if asked to
// SHAPES   op(a) (M,K) T   op(b) (K,N) T   c (M,N) T
// EFFECTS  writes c
// NUMERICS products and sums in f32, each sum in fixed pieces of K; bf16 rounds a and b to
//          bfloat16, unless they are stored in it
// TRAFFIC  2MNK operations
void matmul_forward(Out c, In a, In b, bool transpose_a, bool transpose_b, bool bf16,
                    Stream stream);

// MATH     with A = op(a), B = op(b):  dA = dc BT, dB = AT dc, each stored as its operand was
// SHAPES   da,a and db,b as a and b above   dc (M,N) T
// EFFECTS  writes da db; each may be None
// NUMERICS products and sums in f32; bf16 rounds dc, a and b to bfloat16
// TRAFFIC  4MNK operations
void matmul_backward(Maybe<Out> da, Maybe<Out> db, In dc, In a, In b, bool transpose_a,
                     bool transpose_b, bool bf16, Stream stream);

}  // namespace byhand
