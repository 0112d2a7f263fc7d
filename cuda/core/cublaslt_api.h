// The part of NVIDIA's cuBLASLt that is used here, so that its header is not needed to build: the
// constants and types of its documentation ("Using the cuBLASLt API", cuBLAS 12 and 13). A test
// compares them with the header if it is installed.
#pragma once

#include <cstddef>
#include <cstdint>

namespace byhand::lt {

enum Status : int { kSuccess = 0, kNotInitialized = 1, kInvalidValue = 7, kNotSupported = 15 };
enum DataType : int { kFloat32 = 0, kBfloat16 = 14 };  // cudaDataType
enum ComputeType : int { kComputeFloat32 = 68 };       // without rounding factors to tf32
enum Operation : std::int32_t { kAsStored = 0, kTransposed = 1 };
enum Epilogue : std::uint32_t { kNoEpilogue = 1, kBias = 4 };
enum ReductionScheme : std::uint32_t { kReduceInComputeType = 2 };
enum DescAttribute : int { kTransA = 3, kTransB = 4, kEpilogue = 7, kBiasPointer = 8 };
enum PreferenceAttribute : int {
    kMaxWorkspaceBytes = 1,
    kReductionSchemes = 3,
    kAlignmentA = 5,
    kAlignmentB = 6,
    kAlignmentC = 7,
    kAlignmentD = 8
};

struct Algorithm {
    std::uint64_t data[8];
};

struct HeuristicResult {
    Algorithm algorithm;
    std::size_t workspace;
    Status state;
    float waves;
    int reserved[4];
};

using Handle = struct HandleOpaque*;
using Desc = struct DescOpaque*;
using Layout = struct LayoutOpaque*;
using Preference = struct PreferenceOpaque*;

// Matrices are column-major. D = alpha op(A) op(B) + beta C, then the epilogue.
struct Functions {
    Status (*cublasLtCreate)(Handle*);
    const char* (*cublasLtGetStatusName)(Status);
    const char* (*cublasLtGetStatusString)(Status);
    Status (*cublasLtMatmulDescCreate)(Desc*, ComputeType, DataType scale);
    Status (*cublasLtMatmulDescDestroy)(Desc);
    Status (*cublasLtMatmulDescSetAttribute)(Desc, DescAttribute, const void*, std::size_t);
    Status (*cublasLtMatrixLayoutCreate)(Layout*, DataType, std::uint64_t rows, std::uint64_t cols,
                                         std::int64_t leading);
    Status (*cublasLtMatrixLayoutDestroy)(Layout);
    Status (*cublasLtMatmulPreferenceCreate)(Preference*);
    Status (*cublasLtMatmulPreferenceDestroy)(Preference);
    Status (*cublasLtMatmulPreferenceSetAttribute)(Preference, PreferenceAttribute, const void*,
                                                   std::size_t);
    Status (*cublasLtMatmulAlgoGetHeuristic)(Handle, Desc, Layout a, Layout b, Layout c, Layout d,
                                             Preference, int asked, HeuristicResult*, int* found);
    Status (*cublasLtMatmul)(Handle, Desc, const void* alpha, const void* a, Layout, const void* b,
                             Layout, const void* beta, const void* c, Layout, void* d, Layout,
                             const Algorithm*, void* workspace, std::size_t bytes, void* stream);
};

// F(name) for each function.
#define BYHAND_CUBLASLT_FUNCTIONS(F)        \
    F(cublasLtCreate)                       \
    F(cublasLtGetStatusName)                \
    F(cublasLtGetStatusString)              \
    F(cublasLtMatmulDescCreate)             \
    F(cublasLtMatmulDescDestroy)            \
    F(cublasLtMatmulDescSetAttribute)       \
    F(cublasLtMatrixLayoutCreate)           \
    F(cublasLtMatrixLayoutDestroy)          \
    F(cublasLtMatmulPreferenceCreate)       \
    F(cublasLtMatmulPreferenceDestroy)      \
    F(cublasLtMatmulPreferenceSetAttribute) \
    F(cublasLtMatmulAlgoGetHeuristic)       \
    F(cublasLtMatmul)

}  // namespace byhand::lt
