"""Times the CUDA kernels against this GPU's own copy bandwidth and against PyTorch on it.

Every kernel here is bound by memory, so its figure is the bytes of its contract's TRAFFIC line over
its time, as a fraction of what a plain copy reaches in the same run. What cannot be measured says
"not run" and why.

    python bench/gpu.py --out results.json
    python bench/gpu.py --small           every kernel once on small shapes, for a sanitizer
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from byhand import backend
from harness import circumstances

F32 = "float32"


@dataclass(frozen=True)
class Case:
    kernel: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    ours: Callable[[], Any]
    torch: Callable[[], Callable[[], Any]]  # builds PyTorch's side when it is its turn


class Maker:
    """Arrays on the GPU for one shape and storage dtype."""

    def __init__(self, cupy: Any, dtype: str, seed: int = 0):
        self.cupy = cupy
        self.dtype = dtype
        self.random = cupy.random.default_rng(seed)

    def storage(self, dtype: str | None = None) -> Any:
        if (dtype or self.dtype) == "bfloat16":
            import ml_dtypes

            return np.dtype(ml_dtypes.bfloat16)
        return np.dtype(dtype or self.dtype)

    def normal(self, *shape: int, dtype: str | None = None) -> Any:
        values = self.random.standard_normal(shape, dtype=np.float32)
        return values.astype(self.storage(dtype))

    def empty(self, *shape: int, dtype: str | None = None) -> Any:
        return self.cupy.empty(shape, self.storage(dtype))

    def zeros(self, *shape: int) -> Any:
        return self.cupy.zeros(shape, np.float32)

    def ids(self, rows: int, classes: int) -> Any:
        return self.random.integers(0, classes, rows, dtype=np.int64)


def torch_normal(dtype: str, *shape: int) -> Any:
    import torch

    return torch.randn(shape, device="cuda").to(getattr(torch, dtype))


def softmax_cases(k: Any, m: Maker, rows: int, cols: int) -> Iterator[Case]:
    x, dy, y = m.normal(rows, cols), m.normal(rows, cols), m.empty(rows, cols)
    size = x.nbytes

    def forward() -> Callable[[], Any]:
        import torch

        a = torch_normal(m.dtype, rows, cols)
        return lambda: torch.softmax(a, -1)

    def backward() -> Callable[[], Any]:
        import torch

        g, p = torch_normal(m.dtype, rows, cols), torch_normal(m.dtype, rows, cols).softmax(-1)
        return lambda: torch.ops.aten._softmax_backward_data(g, p, -1, p.dtype)

    at = ((rows, cols), m.dtype)
    ours = lambda: k.softmax_forward(y, x, None, 1.0, False)  # noqa: E731
    yield Case("softmax_forward", *at, 2 * size, ours, forward)
    dx = m.empty(rows, cols)
    ours = lambda: k.softmax_backward(dx, dy, y, 1.0)  # noqa: E731
    yield Case("softmax_backward", *at, 3 * size, ours, backward)


def layernorm_cases(k: Any, m: Maker, rows: int, cols: int, groups: int) -> Iterator[Case]:
    x, dy, y = m.normal(rows, cols), m.normal(rows, cols), m.empty(rows, cols)
    w, b = m.normal(cols), m.normal(cols)
    mean, rstd = m.zeros(rows), m.zeros(rows)
    dw, db, work = m.zeros(cols), m.zeros(cols), m.zeros(groups, 2, cols)
    size = x.nbytes

    def forward() -> Callable[[], Any]:
        import torch.nn.functional as f

        a, s, t = (torch_normal(m.dtype, *shape) for shape in ((rows, cols), (cols,), (cols,)))
        return lambda: f.layer_norm(a, (cols,), s, t)

    def backward() -> Callable[[], Any]:
        import torch

        a, g = torch_normal(m.dtype, rows, cols), torch_normal(m.dtype, rows, cols)
        s, t = torch_normal(m.dtype, cols), torch_normal(m.dtype, cols)
        _, mu, r = torch.native_layer_norm(a, (cols,), s, t, 1e-5)
        every = [True, True, True]
        return lambda: torch.ops.aten.native_layer_norm_backward(g, a, (cols,), mu, r, s, t, every)

    at = ((rows, cols), m.dtype)
    ours = lambda: k.layernorm_forward(y, mean, rstd, x, w, b, 1e-5)  # noqa: E731
    yield Case("layernorm_forward", *at, 2 * size, ours, forward)
    dx = m.empty(rows, cols)
    ours = lambda: k.layernorm_backward(  # noqa: E731
        dx, dw, db, work, dy, x, w, mean, rstd, None
    )
    yield Case("layernorm_backward", *at, 3 * size, ours, backward)


def cross_entropy_cases(k: Any, m: Maker, rows: int, classes: int) -> Iterator[Case]:
    logits, targets = m.normal(rows, classes), m.ids(rows, classes)
    dlogits = m.empty(rows, classes)
    loss, count, lse = m.zeros(), m.zeros(), m.zeros(rows)
    dloss = m.zeros()
    dloss.fill(1)
    size = logits.nbytes
    options = (-100, 0.0, True)

    def torch_loss() -> tuple[Any, Any, Any]:
        import torch

        a = torch_normal(m.dtype, rows, classes).requires_grad_()
        return torch, a, torch.randint(0, classes, (rows,), device="cuda")

    def forward() -> Callable[[], Any]:
        torch, a, t = torch_loss()
        return lambda: torch.nn.functional.cross_entropy(a, t)

    def backward() -> Callable[[], Any]:
        torch, a, t = torch_loss()
        value = torch.nn.functional.cross_entropy(a, t)
        return lambda: torch.autograd.grad(value, a, retain_graph=True)

    at = ((rows, classes), m.dtype)
    ours = lambda: k.cross_entropy_forward(  # noqa: E731
        loss, count, lse, logits, targets, *options
    )
    yield Case("cross_entropy_forward", *at, size, ours, forward)
    ours = lambda: k.cross_entropy_backward(  # noqa: E731
        dlogits, dloss, count, lse, logits, targets, *options
    )
    yield Case("cross_entropy_backward", *at, 2 * size, ours, backward)


def optimizer_cases(k: Any, m: Maker, size: int) -> Iterator[Case]:
    w, g, first, second = m.normal(size), m.normal(size), m.zeros(size), m.zeros(size)
    norm = m.zeros()
    at = ((size,), F32)

    def adamw() -> Callable[[], Any]:
        import torch

        p = torch_normal(F32, size).requires_grad_()
        p.grad = torch_normal(F32, size)
        return torch.optim.AdamW([p], lr=1e-3, fused=True).step

    def vector_norm() -> Callable[[], Any]:
        import torch

        a = torch_normal(F32, size)
        return lambda: torch.linalg.vector_norm(a)

    def scale() -> Callable[[], Any]:
        a = torch_normal(F32, size)
        return lambda: a.mul_(0.999)

    steps, work = m.cupy.zeros((), np.int64), m.zeros(2, 4)
    rates = [m.cupy.asarray(np.array(two, np.float32)) for two in ((1e-3, 1e-3), (0.01, 0.0))]
    step = (*rates, m.cupy.asarray(np.array((size // 2, size))), 0.9, 0.999, 1e-8, 1.0)
    ours = lambda: k.adamw_step(w, first, second, None, steps, work, g, None, *step)  # noqa: E731
    yield Case("adamw_step", *at, 28 * size, ours, adamw)
    half, bits = Maker(m.cupy, "bfloat16"), ((size,), "bfloat16")
    grads, copy = half.normal(size), half.empty(size)
    ours = lambda: k.adamw_step(w, first, second, copy, steps, work, grads, None, *step)  # noqa: E731
    yield Case("adamw_step", *bits, 28 * size, ours, adamw)
    sums = m.zeros(1024)
    yield Case("grad_norm", *at, 4 * size, lambda: k.grad_norm(norm, sums, g), vector_norm)
    large = m.zeros()
    large.fill(10)  # so that clip has something to do
    yield Case("clip", *at, 8 * size, lambda: k.clip(g, large, 9.99), scale)


def all_cases(cupy: Any, small: bool) -> Iterator[Case]:
    k = backend.cuda()
    groups = 4 * cupy.cuda.Device().attributes["MultiProcessorCount"]
    for dtype in ("bfloat16", F32):
        m = Maker(cupy, dtype)
        if small:
            # A warp a row, a block a row, several tiles a row; packed, and element by element.
            for cols in (96, 97, 3000, 3001, 20000, 20001):
                yield from softmax_cases(k, m, 6, cols)
                yield from layernorm_cases(k, m, 6, cols, 4)
                yield from cross_entropy_cases(k, m, 6, cols)
            continue
        for cols in (256, 1024, 4096, 16384, 32768):
            yield from softmax_cases(k, m, (1 << 26) // cols, cols)
        for rows, cols in ((65536, 768), (65536, 1024), (16384, 4096), (8192, 16384)):
            yield from layernorm_cases(k, m, rows, cols, groups)
        for rows, classes in ((65536, 65), (8192, 50257), (8192, 50304), (4096, 131072)):
            yield from cross_entropy_cases(k, m, rows, classes)
    yield from optimizer_cases(k, Maker(cupy, F32), 1003 if small else 124_439_808)


def milliseconds(cupy: Any, run: Callable[[], Any]) -> float:
    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(cupy.cuda.get_elapsed_time(start, end))


def in_turns(cupy: Any, runs: dict[str, Callable[[], Any]], rounds: int = 25) -> dict[str, float]:
    """Median milliseconds of each; round by round each runs once, after three for warming up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds + 3):
        for name, run in runs.items():
            elapsed = milliseconds(cupy, run)
            if i >= 3:
                times[name].append(elapsed)
    return {name: statistics.median(values) for name, values in times.items()}


def copy_bandwidth(cupy: Any) -> float:
    """Bytes read and written per second by the driver's own copy of 1 GiB."""
    a = cupy.zeros(1 << 28, np.float32)
    b = cupy.empty_like(a)
    copy = lambda: b.data.copy_from_device_async(a.data, a.nbytes)  # noqa: E731
    return 2 * a.nbytes / in_turns(cupy, {"copy": copy})["copy"] * 1e3


def torch_reason() -> str:
    try:
        import torch
    except ImportError as error:
        return f"not run: {error}"
    return "" if torch.cuda.is_available() else "not run: this PyTorch has no CUDA"


def measure(cupy: Any, case: Case, copy: float, without_torch: str) -> dict[str, Any]:
    row: dict[str, Any] = {"kernel": case.kernel, "shape": case.shape, "dtype": case.dtype}
    runs = {"ours": case.ours}
    if without_torch:
        row["torch_ms"] = without_torch
    else:
        try:
            runs["torch"] = case.torch()
            runs["torch"]()
        except Exception as error:
            row["torch_ms"] = f"not run: {type(error).__name__}: {str(error).splitlines()[0]}"
            runs.pop("torch", None)
    times = in_turns(cupy, runs)
    bandwidth = case.bytes / times["ours"] * 1e3
    row["ms"] = round(times["ours"], 4)
    row["gb_per_s"] = round(bandwidth / 1e9, 1)
    row["of_copy"] = round(bandwidth / copy, 3)
    if "torch" in times:
        row["torch_ms"] = round(times["torch"], 4)
        row["faster_than_torch"] = round(times["torch"] / times["ours"], 2)
    return row


def gpu(cupy: Any) -> dict[str, Any]:
    module: Any = sys.modules["byhand._cuda"]
    found = {"driver": module.driver_version(), "cuda_runtime": module.runtime_version()}
    found.update(module.device_properties(cupy.cuda.Device().id))
    return {**found, "cupy": cupy.__version__}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="write the results to this JSON file")
    parser.add_argument("--small", action="store_true", help="run every kernel once, time nothing")
    options = parser.parse_args()
    if reason := backend.cuda_reason():
        print(f"not run: {reason}")
        return 1
    import cupy

    if options.small:
        for case in all_cases(cupy, small=True):
            case.ours()
            cupy.cuda.Device().synchronize()
            cupy.get_default_memory_pool().free_all_blocks()
        print("every kernel ran")
        return 0

    without_torch = torch_reason()
    copy = copy_bandwidth(cupy)
    print(f"copy: {copy / 1e9:.0f} GB/s read and written; torch: {without_torch or 'beside us'}")
    rows = []
    for case in all_cases(cupy, small=False):
        row = measure(cupy, case, copy, without_torch)
        rows.append(row)
        shape = "x".join(map(str, case.shape))
        torch_says = f"{row.get('faster_than_torch', 'not run')}"
        print(
            f"{case.kernel:24} {shape:>14} {case.dtype:9} {row['ms']:9.3f} ms "
            f"{row['of_copy']:6.1%} of copy   torch / ours: {torch_says}",
            flush=True,
        )
    if options.out:
        found = {**circumstances(), "gpu": gpu(cupy), "copy_gb_per_s": round(copy / 1e9, 1)}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({**found, "rows": rows}, indent=1) + "\n")
        print(f"written to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
