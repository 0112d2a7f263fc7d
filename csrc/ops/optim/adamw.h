// One step of AdamW or Adam on flat buffers.
#pragma once

#include "core/array.h"

namespace byhand {

// MATH     t = t + 1;  g = g min(1, max_norm / (norm + 1e-6)), if norm is given
//          m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2
//          w = w (1 - lr weight_decay) - lr / (1-b1^t) m / (sqrt(v / (1-b2^t)) + eps);  copy = w
//          (Loshchilov and Hutter 2019, algorithm 2). If coupled, Adam (their algorithm 2 too):
//          g = g + weight_decay w after the clipping, and w is not shrunk. The groups are
//          consecutive, group i covers [bounds[i-1], bounds[i]) with its own lr and weight_decay
// SHAPES   w,m,v (N) f32   g,copy (N) f32 or bf16, each its own   t () i64   work (G,4) f32
//          norm () f32   lr,weight_decay (G) f32   bounds (G) i64, ascending, the last is N
// EFFECTS  updates w m v t in place, writes copy work, reads the rest. Values that change from step
//          to step are read from arrays, so that a captured CUDA graph can be launched again
// NUMERICS f32; a group's scalars (1 - lr weight_decay, lr / (1-b1^t), 1 / sqrt(1-b2^t), the clip
//          factor) in f64 and rounded once, into work; with a norm that is not finite, w, m, v and
//          t are unchanged
// TRAFFIC  6N f32 + N g (6N f32 + N g + N copy with copy) elements
void adamw_step(Mut w, Mut m, Mut v, Maybe<Out> copy, Mut t, Out work, In g, Maybe<In> norm, In lr,
                In weight_decay, In bounds, double beta1, double beta2, double eps, double max_norm,
                bool coupled, Stream stream);

}  // namespace byhand
