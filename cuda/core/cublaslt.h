// NVIDIA's cuBLASLt in place of our matrix multiply: BYHAND_GEMM=cublaslt. It is loaded when it is
// first needed, never linked, and nothing of it is needed to build.
//
// The file is the one that BYHAND_CUBLASLT names or, without that, the first that can be loaded of
// libcublasLt.so.13, libcublasLt.so.12 and the ones that Python found in NVIDIA's wheels.
//
// Its algorithm is asked for once for each shape and alignment and kept, so that a shape gives the
// same bits each time; algorithms that add up partial sums in anything but float32 are excluded.
#pragma once

#include "core/array.h"

namespace byhand {

enum class Gemm { hand, cublaslt };

// What BYHAND_GEMM says, or set_gemm() of the Python module. ValueError for anything else.
Gemm gemm_choice();

// c (M,N) = left right + bias + add, row after row in memory.
struct LtProduct {
    struct Factor {
        const void* data;
        std::int64_t rows, cols;  // as it lies in memory
        bool transposed;
    };
    DType factors, result;  // float32 or bfloat16; a result of float32 factors is float32
    Factor left, right;
    void* c;
    const void* bias;  // or null
    const void* add;   // or null; may be c
};

// No size may be 0. RuntimeError, naming `name`, where cuBLASLt cannot be loaded or refuses. Device
// memory is taken the first time on each stream: that must not be while a CUDA graph is captured.
void cublaslt_multiply(const char* name, const LtProduct& product, Stream stream);

}  // namespace byhand
