// The linear layer of inference, with weights that are packed once.
#pragma once

#include <cstdint>

#include "core/array.h"

namespace byhand {

// MATH     y = x wT + b + add, where w (N,K) is packed in one of five formats: float32, bf16, int8,
//          int4, int4_1 (0..4, see packed_format.h). In the last three x too is rounded, to 127
//          steps of the largest number of each group of 32 k
// SHAPES   x (R,K) T   w (panels,words) i64   b (N) T   y,add (R,N) T
// EFFECTS  writes y | y may be add
// NUMERICS products and sums in f32: each element is one chain of multiply-adds in the order of k,
//          which begins with b + add; for int8 and int4 the sums of a group are exact, and the
//          chain is over groups. So the bits of a row do not depend on the other rows
// TRAFFIC  2RNK operations
void packed_linear_forward(Out y, In x, In w, Maybe<In> b, Maybe<In> add, std::int64_t format,
                           Stream stream);

// MATH     words = w (N,K) in a format
// SHAPES   words (panels,words) i64   w (N,K) T
// EFFECTS  writes every word
// NUMERICS bf16: to nearest, ties to even; int8, int4, int4_1: as llama.cpp's Q8_0, Q4_0, Q4_1
// TRAFFIC  2NK elements
void packed_linear_pack(Mut words, In w, std::int64_t format, Stream stream);

}  // namespace byhand
