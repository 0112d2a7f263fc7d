// Scaled dot-product attention with an exact, IO-aware softmax: the T x S score matrix never
// reaches memory, only the log-sum-exp of its rows is kept for the backward pass.
//
// MATH     s = scale * q kT (unseen keys: -inf),  lse = log sum_j exp s_j,  p = exp(s - lse),
//          o = drop(p) v                        (Vaswani et al. 2017, eq. 1)
//          forward by the online softmax        (Milakov & Gimelshein 2018; Dao et al. 2022)
//          backward recomputes p from lse:      (Dao et al. 2022, 2023)
//          dv = drop(p)T do,  dp = drop'(do vT),  ds = p * (dp - rowsum(do * o)),
//          dq = scale * ds k,  dk = scale * dsT q
//          softcap > 0: then s = softcap * tanh(s / softcap)   (Gemma 2, 2024), and ds for dq and
//          dk is multiplied by 1 - tanh^2
//          then s += slopes[h] * (j - (i + S - T))             (ALiBi, Press et al. 2022)
//          then s += bias,  dbias = ds summed over its axes of size 1,
//          batch entry by batch entry and in each head by head
// SHAPES   q,dq (B,T,H,D) T   k,v,dk,dv (B,S,G,D) T   strided, last dimension contiguous; H is a
//          multiple of G, and head h reads head h / (H/G) of the keys (Ainslie et al. 2023)
//          o,do (B,T,H,D) T   lse (B,H,T) f32   work (W) f32, any W on the CPU; contiguous
//          mask b8 (B,H,T,S) by strides (0 = broadcast), True = may be seen
//          lengths (B) i64: keys from lengths[b] on are not seen; their values have no effect
//          slopes (H) f32   bias (B|1,H|1,T,S) T by strides   dbias, as bias, contiguous
//          sequences (B,T) i64 for T = S, not decreasing along a row
// RULES    causal: query i sees key j only if j <= i + (S - T)
//          window > 0: only if |i + (S - T) - j| < window   (Beltagy et al. 2020, section 3.1)
//          sequences: only if sequences[b,i] = sequences[b,j]; what cannot be seen is skipped
// EFFECTS  writes o lse, uses work as scratch | writes dq dk dv (dbias), uses work as scratch
// NUMERICS sums in f32, in an order that depends on the shape and on sequences only; on the CPU o
//          and lse of a query have the same bits for any T, S, B and other queries behind the same
//          keys. A row that sees no key gets o = 0, lse = -inf and zero gradients. Dropout keeps p
//          with probability 1 - dropout and scales it by 1/(1 - dropout), as in dropout.h; row r =
//          (b*H + h)*T + t, key s are bits s%8 of group r*ceil(S/8) + s/8 of Philox.
// TRAFFIC  forward 2B(HT + GS)D + BHT f32, backward 4B(HT + GS)D + BHT f32 elements;
//          forward 4BHTSD (2BHTSD with causal), backward 10BHTSD (5BHTSD with causal) operations
#pragma once

#include <cstdint>

#include "core/array.h"
#include "random/philox.h"

namespace byhand {

void attention_forward(Out o, Out lse, Out work, StridedIn q, StridedIn k, StridedIn v,
                       Maybe<StridedIn> mask, Maybe<In> lengths, Maybe<In> slopes,
                       Maybe<StridedIn> bias, Maybe<In> sequences, double scale, bool causal,
                       std::int64_t window, double softcap, double dropout, std::uint64_t seed,
                       Offset offset, Stream stream);

void attention_backward(StridedOut dq, StridedOut dk, StridedOut dv, Maybe<Out> dbias, Out work,
                        In do_, StridedIn q, StridedIn k, StridedIn v, In o, In lse,
                        Maybe<StridedIn> mask, Maybe<In> lengths, Maybe<In> slopes,
                        Maybe<StridedIn> bias, Maybe<In> sequences, double scale, bool causal,
                        std::int64_t window, double softcap, double dropout, std::uint64_t seed,
                        Offset offset, Stream stream);

}  // namespace byhand
