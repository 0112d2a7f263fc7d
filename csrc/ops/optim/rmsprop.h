// One step of RMSprop on flat buffers.
#pragma once

#include "core/array.h"

namespace byhand {

// MATH     t = t + 1;  g = g min(1, max_norm / (norm + 1e-6)), if norm is given
//          g = g + weight_decay w;  v = alpha v + (1-alpha) g^2
//          d = g / (sqrt(v) + eps) (Tieleman and Hinton 2012, lecture 6.5); with mean:
//          mean = alpha mean + (1-alpha) g;  d = g / (sqrt(v - mean^2) + eps) (Graves 2013,
//          equations 38 to 42); with m:  m = momentum m + d;  d = m
//          w = w - lr d;  copy = w
// SHAPES   w,v,mean,m (N) f32   g,copy (N) f32 or bf16, each its own   t () i64   work (G,3) f32
//          norm () f32   lr,weight_decay (G) f32   bounds (G) i64, as in adamw.h
// EFFECTS  updates w v mean m t in place, writes copy work, reads the rest. Values that change from
//          step to step are read from arrays, so that a captured CUDA graph can be launched again
// NUMERICS f32; v - mean^2 is at least 0, also where rounding would make it negative; with a norm
//          that is not finite, w, v, mean, m and t are unchanged; a NaN stays in its element
// TRAFFIC  4N f32 + N g (6N f32 + N g with m) elements
void rmsprop_step(Mut w, Mut v, Maybe<Mut> mean, Maybe<Mut> m, Maybe<Out> copy, Mut t, Out work,
                  In g, Maybe<In> norm, In lr, In weight_decay, In bounds, double alpha, double eps,
                  double momentum, double max_norm, Stream stream);

}  // namespace byhand
