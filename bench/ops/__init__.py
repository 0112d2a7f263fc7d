"""One module an op, for the CPU and for the GPU; the folder is the registry.

A module defines

    CPU   list of bench.cpu_case.Spec: the public functions beside PyTorch and numpy
    TINY  the same on arrays so small that only the cost of a call is left (bench.overhead)
    GPU   bench.gpu_case.Calls: its kernels, called by name, beside PyTorch

Sizes and rivals are said here; bytes and operations are read from the kernel's contract.
"""
