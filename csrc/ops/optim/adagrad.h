// One step of Adagrad on flat buffers.
#pragma once

#include "core/array.h"

namespace byhand {

// MATH     t = t + 1;  g = g min(1, max_norm / (norm + 1e-6)), if norm is given
//          g = g + weight_decay w;  v = v + g^2
//          w = w - lr / (1 + (t-1) lr_decay) g / (sqrt(v) + eps);  copy = w
//          (Duchi, Hazan and Singer 2011, figure 1 with a diagonal matrix; lr_decay as in PyTorch)
// SHAPES   w,v (N) f32   g,copy (N) f32 or bf16, each its own   t () i64   work (G,3) f32
//          norm () f32   lr,weight_decay (G) f32   bounds (G) i64, as in adamw.h
// EFFECTS  updates w v t in place, writes copy work, reads the rest. Values that change from step
//          to step are read from arrays, so that a captured CUDA graph can be launched again
// NUMERICS f32; the learning rate of a group in f64 and rounded once, into work; with a norm that
//          is not finite, w, v and t are unchanged; a NaN stays in its element
// TRAFFIC  4N f32 + N g (4N f32 + N g + N copy with copy) elements
void adagrad_step(Mut w, Mut v, Maybe<Out> copy, Mut t, Out work, In g, Maybe<In> norm, In lr,
                  In weight_decay, In bounds, double lr_decay, double eps, double max_norm,
                  Stream stream);

}  // namespace byhand
