// The norm of the gradient, and its clipping.
#pragma once

#include <cstdint>

#include "core/array.h"

namespace byhand {

// MATH     norm = sqrt(sum_i g_i^2);  g = g min(1, max_norm / (norm + 1e-6))
//          (Pascanu, Mikolov and Bengio 2013, algorithm 1)
// SHAPES   g any shape with N elements, T   norm () f32   work (P) f32, any P >= 1
// EFFECTS  writes norm work | scales g in place, does not touch it when the factor is 1
// NUMERICS work[p] is the sum of the squares of share p, [p S, (p+1) S), S = 4096 ceil(N/4096/P):
//          at most 4096 squares are summed in f32, those sums in f64, in an order fixed by N and P;
//          norm adds the shares in f64; a NaN norm makes g NaN
// TRAFFIC  grad_norm N, clip 2N elements
void grad_norm(Out norm, Out work, In g, Stream stream);
void clip(Mut g, In norm, double max_norm, Stream stream);

inline constexpr std::int64_t kNormBlock = 4096;

// S above.
inline std::int64_t share_of_norm(std::int64_t n, std::int64_t shares) {
    const std::int64_t blocks = (n + kNormBlock - 1) / kNormBlock;
    return kNormBlock * ((blocks + shares - 1) / shares);
}

}  // namespace byhand
