// The matrix multiply by NVIDIA's cuBLASLt, if BYHAND_GEMM selects it.
#pragma once

#include "core/gemm.cuh"

namespace byhand {

// Computes the product with cuBLASLt if that is selected and supported; returns whether it did. It
// is supported for float32 and bfloat16 factors, with bias, residual and the addition to a float32
// gradient in the epilogue. An activation is a separate kernel after it, because it is not
// documented which form cuBLASLt's own GELU has, it is applied before c is rounded, its derivative
// does not return the activation, and there is no gate. So in bfloat16 a gradient is rounded a
// second time, before the derivative of the activation.
//
// Not supported are: float32 factors rounded to bfloat16, because cuBLASLt's rounding cannot be
// controlled; products of depth 0; and combinations that no op uses: bias or residual together with
// the addition to a gradient or with the derivative of an activation.
template <class F>
bool gemm_by_cublaslt(const char* name, const Matrix<Stored<F>>& left,
                      const Matrix<Stored<F>>& right, const Epilogue<Stored<F>>& e, Stream stream);

}  // namespace byhand
