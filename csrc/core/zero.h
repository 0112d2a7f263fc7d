// Zeros for a large array, such as all gradients of a model.
#pragma once

#include <cstdint>

namespace byhand {

// y (N) = 0 on all threads. An array that is larger than the last-level caches is written with
// non-temporal stores: with ordinary ones each line is read from memory before it is overwritten.
void zero(float* y, std::int64_t n);

}  // namespace byhand
