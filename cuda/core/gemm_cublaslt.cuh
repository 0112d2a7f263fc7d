// The matrix multiply by NVIDIA's cuBLASLt, where BYHAND_GEMM asks for it.
#pragma once

#include "core/gemm.cuh"

namespace byhand {

// Whether cuBLASLt made the product. It makes those of float32 and of bfloat16 factors, with bias,
// residual and the addition to a float32 gradient in its epilogue. GELU is a pass of ours behind
// it: which form cuBLASLt's own has is not documented, it takes the sum before c is stored, and it
// does not give the activation on the way back. So in bfloat16 a gradient is rounded once more on
// its way through GELU.
//
// Ours by any choice are: float32 factors rounded to bfloat16, which it can only round as it likes,
// products of no depth, and what no op asks for, more than the product into a gradient or behind
// the derivative of GELU.
template <class F>
bool gemm_by_cublaslt(const char* name, const Matrix<Stored<F>>& left,
                      const Matrix<Stored<F>>& right, const Epilogue<Stored<F>>& e, Stream stream);

}  // namespace byhand
