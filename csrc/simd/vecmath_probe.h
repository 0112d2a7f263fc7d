// A kernel for tests: applies one function of simd/vecmath.h.
#pragma once

#include <cstdint>

#include "core/array.h"

namespace byhand {

// MATH     y = f(x), f chosen by its number in the table of vecmath_probe.cpp
// SHAPES   y,x any shape, the same, f32
// EFFECTS  writes y
// NUMERICS the bounds in simd/vecmath.h
// TRAFFIC  2N elements
void vecmath_probe(Out y, In x, std::int64_t function, Stream stream);

}  // namespace byhand
