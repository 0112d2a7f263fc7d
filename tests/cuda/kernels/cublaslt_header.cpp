// Compares the declarations of cublaslt_api.h with NVIDIA's header, at compile time.
#include <cublasLt.h>

#include <cstddef>
#include <type_traits>

#include "core/cublaslt_api.h"

namespace lt = byhand::lt;

#define SAME(ours, theirs) static_assert(lt::ours == static_cast<decltype(lt::ours)>(theirs), #ours)
SAME(kSuccess, CUBLAS_STATUS_SUCCESS);
SAME(kNotInitialized, CUBLAS_STATUS_NOT_INITIALIZED);
SAME(kInvalidValue, CUBLAS_STATUS_INVALID_VALUE);
SAME(kNotSupported, CUBLAS_STATUS_NOT_SUPPORTED);
SAME(kFloat32, CUDA_R_32F);
SAME(kBfloat16, CUDA_R_16BF);
SAME(kComputeFloat32, CUBLAS_COMPUTE_32F);
SAME(kAsStored, CUBLAS_OP_N);
SAME(kTransposed, CUBLAS_OP_T);
SAME(kNoEpilogue, CUBLASLT_EPILOGUE_DEFAULT);
SAME(kBias, CUBLASLT_EPILOGUE_BIAS);
SAME(kReduceInComputeType, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
SAME(kTransA, CUBLASLT_MATMUL_DESC_TRANSA);
SAME(kTransB, CUBLASLT_MATMUL_DESC_TRANSB);
SAME(kEpilogue, CUBLASLT_MATMUL_DESC_EPILOGUE);
SAME(kBiasPointer, CUBLASLT_MATMUL_DESC_BIAS_POINTER);
SAME(kMaxWorkspaceBytes, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
SAME(kReductionSchemes, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
SAME(kAlignmentA, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
SAME(kAlignmentB, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
SAME(kAlignmentC, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES);
SAME(kAlignmentD, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);

static_assert(sizeof(lt::Algorithm) == sizeof(cublasLtMatmulAlgo_t));
static_assert(sizeof(lt::HeuristicResult) == sizeof(cublasLtMatmulHeuristicResult_t));
static_assert(offsetof(lt::HeuristicResult, workspace) ==
              offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
static_assert(offsetof(lt::HeuristicResult, state) ==
              offsetof(cublasLtMatmulHeuristicResult_t, state));

// Whether both are pointers, or both are numbers of the same size.
template <class A, class B>
constexpr bool passed_alike() {
    return sizeof(A) == sizeof(B) && std::is_pointer_v<A> == std::is_pointer_v<B> &&
           std::is_floating_point_v<A> == std::is_floating_point_v<B>;
}

template <class A, class... P, class B, class... Q>
constexpr bool called_alike(A (*)(P...), B (*)(Q...)) {
    if constexpr (sizeof...(P) == sizeof...(Q)) {
        return passed_alike<A, B>() && (passed_alike<P, Q>() && ...);
    }
    return false;
}

#define SAME_ARGUMENTS(name) \
    static_assert(called_alike(decltype(lt::Functions::name){}, decltype(&::name){}), #name);
BYHAND_CUBLASLT_FUNCTIONS(SAME_ARGUMENTS)
