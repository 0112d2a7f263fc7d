"""Every op, byhand and PyTorch in turns, forward and backward apart.

    python bench/ops.py [NAME ...] [--rounds N] [--threads N] [--record]

Each row counts the floating-point operations of a compute-bound op, or the bytes that a
memory-bound op must move (the TRAFFIC line of its contract): GFLOP/s or GB/s.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

import byhand
from byhand.ops import (
    adamw,
    attention,
    bias_gelu,
    cross_entropy,
    embedding,
    gelu_ffn,
    layernorm,
    linear,
    log_softmax,
    softmax,
)
from harness import in_turns, record, repeats_for

RNG = np.random.default_rng(0)


@dataclass
class Case:
    """Two ways to compute one thing, and how much there is to compute or to move."""

    name: str
    byhand: Callable[[], object]
    torch: Callable[[], object]
    flops: float = 0.0
    bytes: float = 0.0


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, dtype=np.float32)


def tensor(x: np.ndarray, grad: bool = False) -> torch.Tensor:
    return torch.from_numpy(x).requires_grad_(grad)


def pair(
    name: str,
    forward: Callable[[], tuple[object, object]],
    backward: Callable[[object], object],
    twin: Callable[[], torch.Tensor],
    leaves: list[torch.Tensor],
    dy: np.ndarray,
    flops: float = 0.0,
    bytes: tuple[float, float] = (0.0, 0.0),
    backward_flops: float = 2.0,
) -> Iterator[Case]:
    """The forward case and the backward case of one op; `bytes` of each."""
    saved = forward()[1]
    graph = twin()
    upstream = torch.from_numpy(dy)

    def torch_forward() -> None:
        with torch.no_grad():
            twin()

    def torch_backward() -> None:
        torch.autograd.grad(graph, leaves, upstream, retain_graph=True)

    back = f"{name} backward"
    yield Case(f"{name} forward", forward, torch_forward, flops, bytes[0])
    yield Case(back, lambda: backward(saved), torch_backward, flops * backward_flops, bytes[1])


def row_ops() -> Iterator[Case]:
    for R, C in ((768, 128), (4096, 384), (16384, 768)):
        x, w, b, dy = floats(R, C), floats(C), floats(C), floats(R, C)
        dw, db = np.zeros_like(w), np.zeros_like(b)
        tx, tw, tb = tensor(x, True), tensor(w, True), tensor(b, True)
        size = 4.0 * R * C
        yield from pair(
            f"layernorm {R}x{C}",
            lambda x=x, w=w, b=b: layernorm.forward(x, w, b),
            lambda saved, dy=dy, dw=dw, db=db: layernorm.backward(dy, saved, dw, db),
            lambda tx=tx, tw=tw, tb=tb, C=C: F.layer_norm(tx, (C,), tw, tb),
            [tx, tw, tb],
            dy,
            bytes=(2 * size, 3 * size),
        )
        for op, twin in ((softmax, F.softmax), (log_softmax, F.log_softmax)):
            yield from pair(
                f"{op.__name__.rpartition('.')[2]} {R}x{C}",
                lambda op=op, x=x: op.forward(x),
                lambda saved, op=op, dy=dy: op.backward(dy, saved),
                lambda twin=twin, tx=tx: twin(tx, -1),
                [tx],
                dy,
                bytes=(2 * size, 3 * size),
            )
        yield from pair(
            f"bias_gelu {R}x{C}",
            lambda x=x, b=b: bias_gelu.forward(x, b),
            lambda saved, dy=dy, db=db: bias_gelu.backward(dy, saved, db),
            lambda tx=tx, tb=tb: F.gelu(tx + tb, approximate="tanh"),
            [tx, tb],
            dy,
            bytes=(2 * size, 3 * size),
        )


def loss_ops() -> Iterator[Case]:
    for R, V in ((768, 65), (4096, 65), (256, 50257)):
        logits, targets = floats(R, V), RNG.integers(0, V, R)
        tl, tt = tensor(logits, True), torch.from_numpy(targets)
        one = np.ones((), np.float32)
        size = 4.0 * R * V
        yield from pair(
            f"cross_entropy {R}x{V}",
            lambda logits=logits, targets=targets: cross_entropy.forward(logits, targets),
            lambda saved, one=one: cross_entropy.backward(one, saved),
            lambda tl=tl, tt=tt: F.cross_entropy(tl, tt),
            [tl],
            one,
            bytes=(size, 2 * size),
        )


def table_ops() -> Iterator[Case]:
    for R, V, C in ((768, 65, 128), (4096, 65, 384), (4096, 50257, 768)):
        ids, w, dy = RNG.integers(0, V, R), floats(V, C), floats(R, C)
        dw = np.zeros_like(w)
        ti, tw = torch.from_numpy(ids), tensor(w, True)
        size = 4.0 * R * C
        yield from pair(
            f"embedding {R} of {V}x{C}",
            lambda ids=ids, w=w: embedding.forward(ids, w),
            lambda saved, dy=dy, dw=dw: embedding.backward(dy, saved, dw),
            lambda ti=ti, tw=tw: F.embedding(ti, tw),
            [tw],
            dy,
            bytes=(2 * size, 3 * size),
        )


def matrix_ops() -> Iterator[Case]:
    for R, C in ((768, 128), (4096, 384)):
        for N, K in ((3 * C, C), (C, C), (65, C)):
            x, w, b, dy = floats(R, K), floats(N, K), floats(N), floats(R, N)
            dw, db = np.zeros_like(w), np.zeros_like(b)
            tx, tw, tb = tensor(x, True), tensor(w, True), tensor(b, True)
            yield from pair(
                f"linear {R}x{K} to {N}",
                lambda x=x, w=w, b=b: linear.forward(x, w, b),
                lambda saved, dy=dy, dw=dw, db=db: linear.backward(dy, saved, dw, db),
                lambda tx=tx, tw=tw, tb=tb: F.linear(tx, tw, tb),
                [tx, tw, tb],
                dy,
                flops=2.0 * R * N * K,
            )
        x, dy = floats(R, C), floats(R, C)
        w1, b1, w2, b2 = floats(4 * C, C), floats(4 * C), floats(C, 4 * C), floats(C)
        grads = [np.zeros_like(p) for p in (w1, b1, w2, b2)]
        leaves = [tensor(p, True) for p in (x, w1, b1, w2, b2)]
        yield from pair(
            f"gelu_ffn {R}x{C}",
            lambda x=x, p=(w1, b1, w2, b2): gelu_ffn.forward(x, *p),
            lambda saved, dy=dy, grads=grads: gelu_ffn.backward(dy, saved, *grads),
            lambda t=leaves: F.linear(
                F.gelu(F.linear(t[0], t[1], t[2]), approximate="tanh"), t[3], t[4]
            ),
            leaves,
            dy,
            flops=16.0 * R * C * C,
        )


def attention_ops() -> Iterator[Case]:
    for B, H, T, D in ((12, 4, 64, 32), (64, 6, 64, 64), (16, 6, 256, 64), (4, 12, 1024, 64)):
        qkv, do = floats(B, T, 3, H, D), floats(B, T, H, D)
        dqkv = np.empty_like(qkv)
        out = tuple(dqkv[:, :, i] for i in range(3))
        t = tensor(qkv, True)

        def twin(t: torch.Tensor = t) -> torch.Tensor:
            q, k, v = (t[:, :, i].transpose(1, 2) for i in range(3))
            return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)

        yield from pair(
            f"attention {B}x{H}x{T}x{D}",
            lambda q=qkv: attention.forward(q[:, :, 0], q[:, :, 1], q[:, :, 2], causal=True),
            lambda saved, do=do, out=out: attention.backward(do, saved, out=out),
            twin,
            [t],
            do,
            flops=2.0 * B * H * T * T * D,
            backward_flops=2.5,
        )


def optimizer_ops() -> Iterator[Case]:
    for N in (800_000, 10_700_000):
        w, g = floats(N), floats(N)
        m, v = np.zeros_like(w), np.zeros_like(w)
        settings = dict(lr=1e-3, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
        p = tensor(w.copy(), True)
        p.grad = torch.from_numpy(g.copy())
        twin = torch.optim.AdamW([p], **settings, fused=True)
        yield Case(
            f"adamw {N}",
            lambda w=w, m=m, v=v, g=g, s=settings, N=N: adamw.step(w, m, v, g, t=1, decayed=N, **s),
            twin.step,
            bytes=28.0 * N,
        )


GROUPS = {
    "rows": row_ops,
    "loss": loss_ops,
    "table": table_ops,
    "matrix": matrix_ops,
    "attention": attention_ops,
    "optimizer": optimizer_ops,
}


def measure(case: Case, rounds: int) -> dict[str, object]:
    repeats = repeats_for(case.byhand, 0.01)

    def many(run: Callable[[], object]) -> Callable[[], None]:
        def loop() -> None:
            for _ in range(repeats):
                run()

        return loop

    seconds = in_turns({"byhand": many(case.byhand), "torch": many(case.torch)}, rounds)
    rate, unit = (case.flops, "GFLOP/s") if case.flops else (case.bytes, "GB/s")
    return {
        "op": case.name,
        "byhand_us": round(1e6 * seconds["byhand"] / repeats, 2),
        "torch_us": round(1e6 * seconds["torch"] / repeats, 2),
        "times_torch_speed": round(seconds["torch"] / seconds["byhand"], 2),
        "rate": round(rate * repeats / seconds["byhand"] / 1e9, 1),
        "unit": unit,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="*", default=list(GROUPS), metavar="|".join(GROUPS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=byhand.get_num_threads())
    parser.add_argument("--record", action="store_true", help="write bench/results/ops.json")
    options = parser.parse_args()
    if unknown := set(options.groups) - GROUPS.keys():
        parser.error(f"no such group: {', '.join(unknown)}; choose from {', '.join(GROUPS)}")
    byhand.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)

    rows = []
    print(f"{'op':34}{'byhand us':>12}{'torch us':>12}{'ratio':>8}{'rate':>16}")
    for group in options.groups:
        for case in GROUPS[group]():
            row = measure(case, options.rounds)
            rows.append(row)
            print(
                f"{row['op']:34}{row['byhand_us']:12.1f}{row['torch_us']:12.1f}"
                f"{row['times_torch_speed']:8.2f}{row['rate']:9.1f} {row['unit']}",
                flush=True,
            )
    if options.record:
        print("wrote", record("ops", rows))


if __name__ == "__main__":
    main()
