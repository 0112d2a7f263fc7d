"""Chooses the kernels for an array, and allocates arrays beside it.

The array decides: a cupy array runs on ``_cuda``; a numpy float64 array runs on the numpy reference
(check mode: what finite differences test); any other numpy array runs on the best CPU module that
this machine can execute. There is no silent fallback: a back end that is missing is an error that
says so.

Arrays that kernels write are allocated here too, on the device of the array they belong to.
"""

from byhand.backend.arrays import (
    bfloat16,
    copy_to,
    empty,
    from_dlpack,
    is_array,
    is_cupy,
    is_foreign,
    statistics,
    to_device_of,
    to_numpy,
    xp,
    zeros,
)
from byhand.backend.cpu import (
    cpu,
    cpu_modules,
    get_num_threads,
    has_bf16,
    last_level_cache,
    set_num_threads,
    set_zero,
    use_cpu,
)
from byhand.backend.cuda import (
    CudaUnavailable,
    cuda,
    cuda_gemm,
    cuda_on_cpu,
    cuda_on_cpu_schedule,
    cuda_reason,
    multiprocessors,
)
from byhand.backend.dispatch import kernels
from byhand.backend.native import Kernels, MissingKernelError, built_modules
from byhand.backend.reference import arguments, reference, reference_kernel
from byhand.backend.types import (
    PRECISIONS,
    Acc,
    Argument,
    Array,
    In,
    Mut,
    Out,
    StridedIn,
    StridedOut,
)

__all__ = [
    "PRECISIONS",
    "Acc",
    "Argument",
    "Array",
    "CudaUnavailable",
    "In",
    "Kernels",
    "MissingKernelError",
    "Mut",
    "Out",
    "StridedIn",
    "StridedOut",
    "arguments",
    "bfloat16",
    "built_modules",
    "copy_to",
    "cpu",
    "cpu_modules",
    "cuda",
    "cuda_gemm",
    "cuda_on_cpu",
    "cuda_on_cpu_schedule",
    "cuda_reason",
    "empty",
    "from_dlpack",
    "get_num_threads",
    "has_bf16",
    "is_array",
    "is_cupy",
    "is_foreign",
    "kernels",
    "last_level_cache",
    "multiprocessors",
    "reference",
    "reference_kernel",
    "set_num_threads",
    "set_zero",
    "statistics",
    "to_device_of",
    "to_numpy",
    "use_cpu",
    "xp",
    "zeros",
]
