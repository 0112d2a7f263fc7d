// Table lookup, and its dual, the scatter-add.
#pragma once

#include "core/array.h"

namespace byhand {

// MATH     y_r = w[ids_r] + add_r;  dw[ids_r] += dy_r      (Bengio et al. 2003, section 2, matrix
// C) SHAPES   w (V,C) T   ids (R) i64   y,dy,add (R,C) T   dw (V,C) f32 EFFECTS  writes y | adds
// into dw | y may be add; on the CPU an id outside 0..V-1 throws
//          std::out_of_range before anything is written
// NUMERICS no atomics: each row of dw takes its gradients in ascending r
// TRAFFIC  forward 2RC (3RC with add), backward 3RC elements
void embedding_forward(Out y, In w, In ids, Maybe<In> add, Stream stream);
void embedding_backward(Acc dw, In dy, In ids, Stream stream);

}  // namespace byhand
