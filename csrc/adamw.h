// One AdamW step on flat buffers.
#pragma once

#include <cstdint>

#include "core/array.h"

namespace byhand {

// MATH     g = g min(1, max_norm / (norm + 1e-6)), if norm is given
//          m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2
//          w = w (1 - lr weight_decay) - lr / (1-b1^t) m / (sqrt(v / (1-b2^t)) + eps)
//          (Loshchilov and Hutter 2019, algorithm 2); only the first `decayed` elements decay
// SHAPES   w,m,v,g (N) f32   norm () f32   t >= 1
// EFFECTS  updates w m v in place, reads g
// NUMERICS f32; scalars such as 1 - b^t in f64; a NaN norm makes w, m and v NaN, as in PyTorch
// TRAFFIC  7N elements
void adamw_step(Mut w, Mut m, Mut v, In g, Maybe<In> norm, std::int64_t decayed, double lr,
                double beta1, double beta2, double eps, double weight_decay, std::int64_t t,
                double max_norm, Stream stream);

}  // namespace byhand
