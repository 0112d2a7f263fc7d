"""Benchmarks of byhand: `ops/` one file an op, `models/` whole training steps, `results/` figures.

`bench/gpu.sh` checks and measures the CUDA kernels on a machine with a GPU. The other programs are
modules, run from the root of the repository:

    python -m bench.run_ops              every op on the CPU, beside PyTorch and numpy
    python -m bench.gpu bench            every kernel on a GPU
    python -m bench.overhead             the cost of a call, and of a step outside its kernels
    python -m bench.instructions         instructions that each kernel executes
    python -m bench.footprint            import time, size, peak memory
    python -m bench.models.train_step    training steps beside PyTorch
    python -m bench.models.gpu_train     the same on a GPU
    python -m bench.models.compare_steps training steps of two installations of byhand
    python -m bench.plot                 docs/benchmarks.md, from the recorded results
"""
