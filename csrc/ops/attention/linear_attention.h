// Linear attention: a weight is the product of features of the query and the key, so that sums over
// the keys are one matrix for all queries, or with causality running sums.
//
// MATH     phi(x) = elu(x) + 1,  w_ij = phi(q_i) . phi(k_j) for the keys that are seen,
//          norm_i = sum_j w_ij,  o_i = sum_j w_ij v_j / norm_i
//          (Katharopoulos et al. 2020, equations 4 to 9)
//          backward, with g = do / norm and c = -(do . o) / norm:
//          dphi(q_i) = sum_j (g_i . v_j + c_i) phi(k_j),  dv_j = sum_i w_ij g_i,
//          dphi(k_j) = sum_i (g_i . v_j + c_i) phi(q_i),  dx = dphi(x) min(phi(x), 1)
// SHAPES   q,dq (B,T,H,D) T   k,dk (B,S,G,D) T   v,dv (B,S,G,E) T   strided, last dimension
//          contiguous; head h reads head h / (H/G) of the keys and values
//          o,do (B,T,H,E) T   norm (B,H,T) f32   contiguous
//          lengths (B) i64: keys from lengths[b] on are not seen; their values have no effect
// RULES    causal, for T = S: query i sees key j only if j <= i
// EFFECTS  writes o norm | writes dq dk dv
// NUMERICS sums in f32, in chunks of positions and in an order that depends on the shape only. A
//          row that sees no key, or whose norm is 0, gets o = 0 and zero gradients. phi is 0 below
//          -88.
// TRAFFIC  forward B(HT + GS)(D + E) + BHT f32, backward 2B(HT + GS)(D + E) + BHT f32 elements;
//          forward 4BHTDE, backward 10BHTDE operations
#pragma once

#include <cstdint>

#include "core/array.h"

namespace byhand {

void linear_attention_forward(Out o, Out norm, StridedIn q, StridedIn k, StridedIn v,
                              Maybe<In> lengths, bool causal, Stream stream);

void linear_attention_backward(StridedOut dq, StridedOut dk, StridedOut dv, In do_, StridedIn q,
                               StridedIn k, StridedIn v, In o, In norm, Maybe<In> lengths,
                               bool causal, Stream stream);

}  // namespace byhand
