// Inverted dropout. The mask is drawn from a counter-based generator and never stored.
#pragma once

#include <cstdint>

#include "core/array.h"
#include "random/philox.h"

namespace byhand {

// MATH     y_i = keep_i x_i / (1 - q) + add_i;  dx_i = keep_i dy_i / (1 - q)
//          keep_i = bits i % 8 of philox(seed, i / 8, offset) >= 2^16 q, q = p to the nearest 2^-16
//          (Srivastava et al. 2014, section 10; random/philox.h)
// SHAPES   x,y,add,dy,dx any shape, all the same, T
// EFFECTS  writes y | writes dx | y may be x or add, dx may be dy; throws unless 0 <= p < 1
// NUMERICS f32; a dropped element is 0 whatever x holds; forward and backward draw the same mask
// TRAFFIC  forward 2RC (3RC with add), backward 2RC elements
void dropout_forward(Out y, In x, Maybe<In> add, double p, std::uint64_t seed, Offset offset,
                     Stream stream);
void dropout_backward(Out dx, In dy, double p, std::uint64_t seed, Offset offset, Stream stream);

}  // namespace byhand
