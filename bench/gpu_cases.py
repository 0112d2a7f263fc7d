"""The calls that bench/gpu.py times: the kernels on full shapes and, for checks, on small ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from byhand.ops.embedding import room
from gpu_case import DTYPES, F32, Case, Maker, Rival, torch_device, torch_normal
from gpu_cases_compute import attention, gelu_ffn, linear, linear_cross_entropy, matmul

# --- One function an op --------------------------------------------------------------------------


def softmax(m: Maker, rows: int, cols: int) -> Iterator[Case]:
    x, dy, y, to = (m.normal(rows, cols) for _ in range(4))

    def forward() -> Callable[[], Any]:
        import torch

        a = torch_normal(m.dtype, rows, cols)
        return lambda: torch.softmax(a, -1)

    def backward() -> Callable[[], Any]:
        import torch

        g, p = torch_normal(m.dtype, rows, cols), torch_normal(m.dtype, rows, cols).softmax(-1)
        return lambda: torch.ops.aten._softmax_backward_data(g, p, -1, p.dtype)

    options = {"scale": 1.0, "causal": False}
    yield m.case("softmax_forward", {"y": to, "x": x, **options}, x, 2, forward)
    arguments = {"dx": to, "dy": dy, "y": y, "scale": 1.0}
    yield m.case("softmax_backward", arguments, x, 3, backward)


def log_softmax(m: Maker, rows: int, cols: int) -> Iterator[Case]:
    x, dy, y, to = (m.normal(rows, cols) for _ in range(4))

    def forward() -> Callable[[], Any]:
        import torch

        a = torch_normal(m.dtype, rows, cols)
        return lambda: torch.log_softmax(a, -1)

    def backward() -> Callable[[], Any]:
        import torch

        g, p = torch_normal(m.dtype, rows, cols), torch_normal(m.dtype, rows, cols).log_softmax(-1)
        return lambda: torch.ops.aten._log_softmax_backward_data(g, p, -1, p.dtype)

    yield m.case("log_softmax_forward", {"y": to, "x": x}, x, 2, forward)
    yield m.case("log_softmax_backward", {"dx": to, "dy": dy, "y": y}, x, 3, backward)


def norms(m: Maker, rows: int, cols: int) -> Iterator[Case]:
    """Both norms, of x and of the residual sum x + add; its backward adds the gradient of that."""
    x, dy, add, to, s, ds = (m.normal(rows, cols) for _ in range(6))
    w, b = m.normal(cols), m.normal(cols)
    rstd, dw, work = m.full(1, rows), m.full(0, cols), m.full(0, m.groups, cols)
    plain = {"rstd": rstd, "x": x, "w": w}
    centred = {"mean": m.full(0, rows), **plain}
    sums = {"dw": dw, "db": m.full(0, cols), "work": m.full(0, m.groups, 2, cols)}
    ops: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
        ("layernorm", {**centred, "b": b}, {**centred, **sums}),
        ("rmsnorm", plain, {**plain, "dw": dw, "work": work}),
    )
    for op, forward, backward in ops:
        for added in (False, True):
            name = ", add" if added else ""
            arguments = {"y": to, "eps": 1e-5, **forward}
            arguments |= {"s": s, "add": add} if added else {}
            calls = ((f"{op}_forward", arguments),)
            size = (4 if added else 2) * x.nbytes
            rival = torch_norm(m, op, rows, cols, added)
            yield Case(f"{op}_forward{name}", x.shape, m.dtype, size, calls, rival)
            arguments = {"dx": to, "dy": dy, **backward, **({"ds": ds} if added else {})}
            calls = ((f"{op}_backward", arguments),)
            size = (4 if added else 3) * x.nbytes
            rival = torch_norm_backward(m, op, rows, cols, added)
            yield Case(f"{op}_backward{name}", x.shape, m.dtype, size, calls, rival)


def torch_norm(m: Maker, op: str, rows: int, cols: int, added: bool) -> Rival:
    def build() -> Callable[[], Any]:
        import torch.nn.functional as f

        a, c = torch_normal(m.dtype, rows, cols), torch_normal(m.dtype, rows, cols)
        s, t = torch_normal(m.dtype, cols), torch_normal(m.dtype, cols)
        if op == "layernorm":
            return lambda: f.layer_norm(a + c if added else a, (cols,), s, t)
        return lambda: f.rms_norm(a + c if added else a, (cols,), s)

    return build


def torch_norm_backward(m: Maker, op: str, rows: int, cols: int, added: bool) -> Rival:
    def build() -> Callable[[], Any]:
        import torch
        import torch.nn.functional as f

        a, g, c = (torch_normal(m.dtype, rows, cols) for _ in range(3))
        s = torch_normal(m.dtype, cols).requires_grad_()
        a.requires_grad_()
        if op == "layernorm":
            t = torch_normal(m.dtype, cols).requires_grad_()
            parameters, y = [a, s, t], f.layer_norm(a, (cols,), s, t)
        else:
            parameters, y = [a, s], f.rms_norm(a, (cols,), s)

        def run() -> Any:
            dx, *rest = torch.autograd.grad(y, parameters, g, retain_graph=True)
            return (dx + c if added else dx, *rest)

        return run

    return build


def cross_entropy(m: Maker, rows: int, classes: int) -> Iterator[Case]:
    logits, dlogits = m.normal(rows, classes), m.empty(rows, classes)
    targets = m.ids(rows, classes)
    loss, count, dloss, lse = m.full(0), m.full(rows), m.full(1), m.full(math.log(classes), rows)

    def torch_loss(run: Callable[[Any, Any, Any], Any]) -> Rival:
        def build() -> Callable[[], Any]:
            import torch

            a = torch_normal(m.dtype, rows, classes).requires_grad_()
            t = torch.randint(0, classes, (rows,), device=torch_device())
            f = torch.nn.functional.cross_entropy
            kept = f(a, t)  # a graph to go back through
            return lambda: run(lambda: f(a, t), kept, a)

        return build

    def gradient(loss: Any, a: Any, again: bool) -> Any:
        import torch

        return torch.autograd.grad(loss, a, retain_graph=again)

    options = {"ignore_index": -100, "smoothing": 0.0, "mean": True}
    inputs = {"count": count, "lse": lse, "logits": logits, "targets": targets, **options}
    there = ("cross_entropy_forward", {"loss": loss, **inputs})
    back = ("cross_entropy_backward", {"dlogits": dlogits, "dloss": dloss, **inputs})
    yield m.case(*there, logits, 1, torch_loss(lambda f, kept, a: f()))
    yield m.case(*back, logits, 2, torch_loss(lambda f, kept, a: gradient(kept, a, True)))
    both = torch_loss(lambda f, kept, a: gradient(f(), a, False))
    # Against the floor: one read of the logits and one write of their gradient.
    size = 2 * logits.nbytes
    yield Case("cross_entropy, both", logits.shape, m.dtype, size, (there, back), both)
    options = {"loss": loss, "count": count, "lse": lse, "targets": targets, **options}
    arguments = {"logits": m.normal(rows, classes), "dloss": dloss, **options}
    yield m.case("cross_entropy_gradient", arguments, logits, 2, both)


def embedding(m: Maker, rows: int, classes: int, cols: int) -> Iterator[Case]:
    w, ids = m.normal(classes, cols), m.ids(rows, classes)
    dy, to = m.normal(rows, cols), m.empty(rows, cols)
    dw, work = m.full(0, classes, cols), m.full(0, room(rows, cols))

    def indices() -> Any:
        import torch

        return torch.randint(0, classes, (rows,), device=torch_device())

    def forward() -> Callable[[], Any]:
        import torch

        table, i = torch_normal(m.dtype, classes, cols), indices()
        return lambda: torch.nn.functional.embedding(i, table)

    def backward() -> Callable[[], Any]:
        import torch

        g, i = torch_normal(m.dtype, rows, cols), indices()
        return lambda: torch.ops.aten.embedding_dense_backward(g, i, classes, -1, False)

    yield m.case("embedding_forward", {"y": to, "w": w, "ids": ids}, dy, 2, forward)
    arguments = {"dw": dw, "work": work, "dy": dy, "ids": ids}
    size = dy.nbytes + 2 * 4 * dy.size  # dw is read and written in float32
    calls = (("embedding_backward", arguments),)
    yield Case("embedding_backward", dy.shape, m.dtype, size, calls, backward)


def dropout(m: Maker, rows: int, cols: int) -> Iterator[Case]:
    x, add, to = m.normal(rows, cols), m.normal(rows, cols), m.empty(rows, cols)

    def forward() -> Callable[[], Any]:
        import torch

        a = torch_normal(m.dtype, rows, cols)
        return lambda: torch.nn.functional.dropout(a, 0.1)

    def forward_add() -> Callable[[], Any]:
        import torch

        a, b = torch_normal(m.dtype, rows, cols), torch_normal(m.dtype, rows, cols)
        return lambda: torch.nn.functional.dropout(a, 0.1) + b

    def backward() -> Callable[[], Any]:
        import torch

        g = torch_normal(m.dtype, rows, cols)
        kept = torch.rand(g.shape, device=torch_device()) >= 0.1
        return lambda: torch.ops.aten.native_dropout_backward(g, kept, 1 / 0.9)

    draw = {"p": 0.1, "seed": 1, "offset": 2}
    yield m.case("dropout_forward", {"y": to, "x": x, **draw}, x, 2, forward)
    calls = (("dropout_forward", {"y": to, "x": x, "add": add, **draw}),)
    yield Case("dropout_forward, add", x.shape, m.dtype, 3 * x.nbytes, calls, forward_add)
    yield m.case("dropout_backward", {"dx": to, "dy": x, **draw}, x, 2, backward)


def bias_gelu(m: Maker, rows: int, cols: int) -> Iterator[Case]:
    x, dy, b, to = m.normal(rows, cols), m.normal(rows, cols), m.normal(cols), m.empty(rows, cols)

    def torch_gelu(back: bool) -> Rival:
        def build() -> Callable[[], Any]:
            import torch

            a, c, g = (torch_normal(m.dtype, *s) for s in ((rows, cols), (cols,), (rows, cols)))
            a.requires_grad_(), c.requires_grad_()
            f = torch.nn.functional.gelu
            y = f(a + c, approximate="tanh")
            if back:
                return lambda: torch.autograd.grad(y, (a, c), g, retain_graph=True)
            return lambda: f(a + c, approximate="tanh")

        return build

    inputs = {"x": x, "b": b, "tanh": True}
    yield m.case("bias_gelu_forward", {"y": to, **inputs}, x, 2, torch_gelu(False))
    arguments = {"dx": to, "db": m.full(0, cols), "dy": dy, **inputs}
    yield m.case("bias_gelu_backward", arguments, x, 3, torch_gelu(True))


def optimizer(m: Maker, size: int) -> Iterator[Case]:
    w, g = m.normal(size), m.normal(size)
    first, second, norm, large = m.full(0, size), m.full(0, size), m.full(0), m.full(10)

    def adamw() -> Callable[[], Any]:
        import torch

        p = torch_normal(m.dtype, size).requires_grad_()
        p.grad = torch_normal(m.dtype, size)
        return torch.optim.AdamW([p], lr=1e-3, fused=True).step

    def vector_norm() -> Callable[[], Any]:
        import torch

        a = torch_normal(m.dtype, size)
        return lambda: torch.linalg.vector_norm(a)

    def scale() -> Callable[[], Any]:
        a = torch_normal(m.dtype, size)
        return lambda: a.mul_(0.999)

    state = {
        "w": w,
        "m": first,
        "v": second,
        "t": m.xp.zeros((), np.int64),
        "work": m.full(0, 2, 4),
    }
    bounds = m.xp.asarray(np.array([size // 2, size], np.int64))
    groups = {"bounds": bounds, "lr": m.full(1e-3, 2), "weight_decay": m.full(0.01, 2)}
    betas = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "max_norm": 1.0}
    half, copy = m.normal(size, dtype="bfloat16"), m.empty(size, dtype="bfloat16")
    update = {**state, **groups, **betas}
    yield m.case("adamw_step", {**update, "g": g}, w, 7, adamw)
    # Gradients in bfloat16, and a copy of the weights for the model: as many bytes.
    calls = (("adamw_step", {**update, "g": half, "copy": copy, "norm": large}),)
    yield Case("adamw_step, copy", w.shape, "bfloat16", 28 * size, calls, adamw)
    yield m.case("grad_norm", {"norm": norm, "work": m.full(0, 1024), "g": g}, g, 1, vector_norm)
    # A norm above the limit, so that there is something to scale.
    yield m.case("clip", {"g": g, "norm": large, "max_norm": 9.99}, g, 2, scale)


# --- Which shapes --------------------------------------------------------------------------------


def small(xp: Any) -> Iterator[Case]:
    """A warp a row, a block a row, several tiles a row; packed, and element by element."""
    for dtype in DTYPES:
        m = Maker(xp, dtype, groups=4)
        for cols in (96, 97, 3000, 3001, 20000, 20001):
            yield from softmax(m, 6, cols)
            yield from log_softmax(m, 6, cols)
            yield from norms(m, 6, cols)
            yield from cross_entropy(m, 6, cols)
            yield from dropout(m, 6, cols)
            yield from bias_gelu(m, 6, cols)
            yield from embedding(m, 70, 50, min(cols, 3001))
        yield from cross_entropy(m, 1, 120_001)  # more than shared memory holds
        yield from embedding(m, 2500, 600, 32)  # several blocks sort, by two digits
        for causal in (False, True):
            yield from attention(m, 1, 70, 2, 64, causal)
        yield from attention(m, 2, 33, 1, 40, True, queries=1)
        yield from linear(m, 2100, 24, 40)  # a gradient that is summed in pieces
        for rows, inner, cols in ((40, 24, 136), (9, 17, 33), (8, 24, 40)):
            yield from matmul(m, rows, inner, cols)
            yield from linear(m, rows, inner, cols)
            yield from gelu_ffn(m, rows, inner, cols)
            yield from linear_cross_entropy(m, rows, inner, cols, 9)
    yield from optimizer(Maker(xp, F32), 1003)


def full(xp: Any, groups: int) -> Iterator[Case]:
    """The shapes that are timed: where memory is the limit, no array that matters fits in a cache
    of 60 MB.
    """
    for dtype in DTYPES:
        m = Maker(xp, dtype, groups)
        for cols in (256, 1024, 4096, 16384, 32768):
            yield from softmax(m, (1 << 26) // cols, cols)
        yield from log_softmax(m, 1 << 14, 1 << 12)
        for rows, cols in ((65536, 768), (65536, 1024), (16384, 4096), (8192, 16384)):
            yield from norms(m, rows, cols)
        for rows, classes in ((1 << 20, 65), (8192, 50257), (8192, 50304), (4096, 131072)):
            yield from cross_entropy(m, rows, classes)
        yield from embedding(m, 1 << 16, 50304, 768)
        yield from dropout(m, 1 << 16, 1 << 10)
        yield from bias_gelu(m, 1 << 16, 3072)
        for context in (512, 1024, 2048, 4096, 8192, 16384):
            for depth in (64, 128):
                for causal in (False, True):
                    yield from attention(m, 16384 // context, context, 2048 // depth, depth, causal)
        yield from attention(m, 64, 16384, 16, 128, True, queries=1)
        for size in (2048, 4096, 8192):
            yield from matmul(m, size, size, size)
        for inner, cols in ((768, 768), (768, 2304)):
            yield from linear(m, 1 << 16, inner, cols)
        yield from linear(m, 8, 8192, 8192)  # as in decoding
        for channels in (768, 1024, 2048, 4096):
            yield from gelu_ffn(m, 1 << 14, channels, 4 * channels)
        yield from linear_cross_entropy(m, 1 << 14, 768, 50304, 1 << 13)
    yield from optimizer(Maker(xp, F32), 124_439_808)
