// The gradients of a linear layer's parameters; defined in cuda/ops/linear/linear.cu.
#pragma once

#include "core/cuda.cuh"

namespace byhand {

// For y = x wT + b: dw (N,K) += dyT x and db (N) += column sums of dy, with dy (R,N) and x (R,K).
// Null means frozen. F as in gemm.cuh.
template <class F, class T>
void add_linear_gradients(const char* name, float* dw, float* db, const T* dy, const T* x,
                          int64_t R, int64_t N, int64_t K, Stream stream);

}  // namespace byhand
