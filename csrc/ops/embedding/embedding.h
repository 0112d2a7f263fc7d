// Table lookup, and its backward pass, the scatter-add.
#pragma once

#include "core/array.h"

namespace byhand {

// MATH     y_r = scale w[ids_r] + add_r;  dw[ids_r] += scale dy_r
//          (Bengio et al. 2003, section 2, matrix C; Vaswani et al. 2017, section 3.4)
// SHAPES   w (V,C) T   ids (R) i64   y,dy,add (R,C) T   dw (V,C) f32   work (W) f32, any W on the
//          CPU, W >= 3R + 512 + C ceil(R/32) on CUDA
// EFFECTS  writes y | adds into dw, uses work as scratch | y may be add
//          an id outside 0..V-1: the CPU throws std::out_of_range before anything is written; CUDA
//          makes that row of y NaN and ignores that row of dy
// NUMERICS no float atomics: gradients are added to each row of dw in ascending r, on CUDA after
//          summing pieces of at most 32
// TRAFFIC  forward 2RC (3RC with add), backward RC + 2RC f32 elements
void embedding_forward(Out y, In w, In ids, Maybe<In> add, double scale, Stream stream);
void embedding_backward(Acc dw, Out work, In dy, In ids, double scale, Stream stream);

}  // namespace byhand
