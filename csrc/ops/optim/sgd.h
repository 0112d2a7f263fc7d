// One step of stochastic gradient descent on flat buffers.
#pragma once

#include "core/array.h"

namespace byhand {

// MATH     t = t + 1;  g = g min(1, max_norm / (norm + 1e-6)), if norm is given
//          g = g + weight_decay w;  m = momentum m + g;  d = m, g without m, or g + momentum m with
//          nesterov (Sutskever, Martens, Dahl and Hinton 2013, as in PyTorch)
//          w = w - lr d;  w = sign(w) max(|w| - lr l1, 0) / (1 + lr l2);  copy = w
//          (the proximal operator of the elastic net, Parikh and Boyd 2014, section 6.5.3)
// SHAPES   w,m (N) f32   g,copy (N) f32 or bf16, each its own   t () i64   work (G,5) f32
//          norm () f32   lr,weight_decay,l1,l2 (G) f32   bounds (G) i64, as in adamw.h
// EFFECTS  updates w m t in place, writes copy work, reads the rest. Values that change from step
//          to step are read from arrays, so that a captured CUDA graph can be launched again
// NUMERICS f32; a group's scalars in f64 and rounded once, into work; with a norm that is not
//          finite, w, m and t are unchanged; a NaN stays in its element
// TRAFFIC  2N f32 + N g (4N f32 + N g with m) elements
void sgd_step(Mut w, Maybe<Mut> m, Maybe<Out> copy, Mut t, Out work, In g, Maybe<In> norm, In lr,
              In weight_decay, In l1, In l2, In bounds, double momentum, bool nesterov,
              double max_norm, Stream stream);

}  // namespace byhand
