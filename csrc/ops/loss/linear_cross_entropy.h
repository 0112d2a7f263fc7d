// A linear layer and the cross entropy of its outputs in one kernel, for large vocabularies.
#pragma once

#include "core/array.h"

namespace byhand {

// MATH     logits = x wT;  loss, count and dlogits as in cross_entropy.h
//          dx = dlogits w;  dw += dlogitsT x
//          one block of rows after the other (Hsu et al., "Liger Kernel", 2024)
// SHAPES   x,dx (R,K) T   w (V,K) T   dw (V,K) f32   targets (R) i64   loss,count,dloss () f32
//          work (block,V) T, block > 0: the most rows whose logits exist at once; in T, because
//          the gradients that replace them are factors of two products
// EFFECTS  writes loss count dx, adds into dw, uses work as scratch | dx and dw may be None; if
// both
//          are, only the loss is computed
//          a kept target outside 0..V-1: the CPU throws std::out_of_range before anything is
//          written; CUDA makes the loss, that row of dx and dw NaN
// NUMERICS as linear.h and cross_entropy.h; the R rows are cut into ceil(R/block) blocks, as equal
//          as can be, and dw is summed block after block; a row that is not kept has zero dlogits
//          bf16: the operands of the three products are rounded to bfloat16, sums stay in f32
// TRAFFIC  2RVK (6RVK with dx) operations
void linear_cross_entropy_forward(Out loss, Out count, Maybe<Out> dx, Acc dw, Out work, In x, In w,
                                  In dloss, In targets, std::int64_t ignore_index, double smoothing,
                                  bool mean, bool bf16, Stream stream);

}  // namespace byhand
