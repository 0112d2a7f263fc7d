// Rotary position embedding: each head's vector is rotated, pair by pair, by angles that grow with
// its position, so that a product of a query and a key depends on the distance of the two only.
//
// MATH     y_a = x_a cos - x_b sin,  y_b = x_b cos + x_a sin             (Su et al. 2021, eq. 34)
//          backward is the transpose, the rotation by the negative angle:
//          dx_a = dy_a cos + dy_b sin,  dx_b = dy_b cos - dy_a sin
// SHAPES   x,y,dy,dx (B,T,H,D) T, strided, last dimension contiguous
//          cos,sin (N,F) f32, 2F <= D: row p are the angles of position p
//          positions (B,T) i64: the position of each vector; without them it is start + t
// RULES    pair i is (a, b) = (i, i + F), or (2i, 2i + 1) with interleaved; elements from 2F on are
//          copied                            (partial rotary: Black et al. 2022, section 2.1.1)
// EFFECTS  writes y | writes dx | y may be x, dx may be dy
// NUMERICS f32; the CPU throws for a position outside the table, a GPU writes NaN
// TRAFFIC  2BTHD elements; the rows of cos and sin are read once for all heads
#pragma once

#include <cstdint>

#include "core/array.h"

namespace byhand {

void rope_forward(StridedOut y, StridedIn x, In cos, In sin, Maybe<In> positions,
                  std::int64_t start, bool interleaved, Stream stream);
void rope_backward(StridedOut dx, StridedIn dy, In cos, In sin, Maybe<In> positions,
                   std::int64_t start, bool interleaved, Stream stream);

}  // namespace byhand
