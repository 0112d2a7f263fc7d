// Kernels that measure the limits of the machine, the roofline that other kernels are compared with
// (Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for
// multicore architectures", 2009). python/byhand/roofline.py times them; the benches divide by the
// result.
//
// Their names end in _probe. They are not operations and have no reference.
#pragma once

#include <cstdint>

#include "core/array.h"

namespace byhand {

// MATH     y = y * s + t, `rounds` times over. Rows run in parallel, and the elements of a row in
//          registers, twelve vectors at a time: enough to hide the latency of the multiplier
// SHAPES   y (R,C) f32
// EFFECTS  reads and writes y
// NUMERICS one rounding per multiply-add where the module has the instruction, else two
// TRAFFIC  2RC rounds operations
void multiply_add_probe(Mut y, double s, double t, std::int64_t rounds, Stream stream);

// Whether this back end has the instruction that bf16_dot_probe measures.
bool multiplies_bf16();

// MATH     y = y + s * s + t * t, `rounds` times over, s and t rounded to bfloat16: the dot product
//          of two pairs, which is what the instruction does for each float of its result
// SHAPES   y (R,C) f32
// EFFECTS  reads and writes y
// NUMERICS as vdpbf16ps: products and sums of normal numbers, rounded to nearest
// TRAFFIC  4RC rounds operations
void bf16_dot_probe(Mut y, double s, double t, std::int64_t rounds, Stream stream);

// Whether this back end has the instruction that bf16_tile_probe measures, and may use it.
bool multiplies_tiles();

// MATH     y = y + 16 (s * s + t * t), `rounds` times over, s and t rounded to bfloat16: a product
//          of two tiles, whose elements are sums of 16 such pairs
// SHAPES   y (R,C) f32
// EFFECTS  reads and writes y
// NUMERICS as tdpbf16ps: products and sums of normal numbers, rounded to nearest
// TRAFFIC  64RC rounds operations
void bf16_tile_probe(Mut y, double s, double t, std::int64_t rounds, Stream stream);

// Three access patterns of memory. They write as the kernels do: results larger than the caches are
// written with non-temporal stores, so the old contents are not read first.
//
// MATH     y = x        sums[g] = sum of the g-th of G equal slices of x        y = a + s * b
// SHAPES   y,x,a,b (N) f32    sums (G) f32
// EFFECTS  writes y, sums | y may be a
// NUMERICS sums in f32, in an order that depends on N and G only
// TRAFFIC  copy 2N, read N, triad 3N elements
void copy_probe(Out y, In x, Stream stream);
void read_probe(Out sums, In x, Stream stream);
void triad_probe(Out y, In a, In b, double s, Stream stream);

}  // namespace byhand
