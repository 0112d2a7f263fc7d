// NVIDIA's cuBLASLt in place of our matrix multiply: BYHAND_GEMM=cublaslt. The library is loaded at
// run time when it is first needed, and is not needed to build.
//
// The file is the one that BYHAND_CUBLASLT names or, without that, the first that can be loaded of
// libcublasLt.so.13, libcublasLt.so.12 and the paths that Python found in NVIDIA's wheels.
//
// The algorithm for each shape and alignment is chosen once and kept, so that a shape gives the
// same bits each time. Algorithms that reduce partial sums in another type than float32 are
// excluded.
#pragma once

#include "core/array.h"

namespace byhand {

enum class Gemm { hand, cublaslt };

// The choice by BYHAND_GEMM or by set_gemm() of the Python module. ValueError for any other value.
Gemm gemm_choice();

// c (M,N) = left right + bias + add, all row-major.
struct LtProduct {
    struct Factor {
        const void* data;
        std::int64_t rows, cols;  // as stored
        bool transposed;
    };
    DType factors, result;  // float32 or bfloat16; a result of float32 factors is float32
    Factor left, right;
    void* c;
    const void* bias;  // or null
    const void* add;   // or null; may be c
};

// No size may be 0. RuntimeError, naming `name`, if cuBLASLt cannot be loaded or fails. Device
// memory is allocated by the first call on each stream, which must not happen while a CUDA graph is
// captured.
void cublaslt_multiply(const char* name, const LtProduct& product, Stream stream);

}  // namespace byhand
