// The length of the gradient, and its clipping.
#pragma once

#include "core/array.h"

namespace byhand {

// MATH     norm = sqrt(sum_i g_i^2);  g = g min(1, max_norm / (norm + 1e-6))
//          (Pascanu, Mikolov and Bengio 2013, algorithm 1)
// SHAPES   g any shape, f32   norm () f32
// EFFECTS  writes norm | scales g in place, leaves it alone when the factor is 1
// NUMERICS squares summed in f32 over fixed blocks of 4096, the blocks in f64 in order; a NaN norm
//          makes g NaN
// TRAFFIC  grad_norm N, clip 2N elements
void grad_norm(Out norm, In g, Stream stream);
void clip(Mut g, In norm, double max_norm, Stream stream);

}  // namespace byhand
