"""What a call costs beside its arithmetic: every door on arrays so small that they take no time.

    python bench/overhead.py [--rounds N] [--record]

The native call (the binding that checks how each array is represented, and the kernel) is timed
again alone, with the arguments that the door handed it; the rest is the door's own Python: checks
of shapes, and the allocation of outputs. PyTorch's op stands beside it, without autograd.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from bench.harness import in_turns, record
from byhand import backend
from byhand.ops import (
    adamw,
    attention,
    bias_gelu,
    cross_entropy,
    dropout,
    embedding,
    gelu_ffn,
    grad_norm,
    layernorm,
    linear,
    log_softmax,
    matmul,
    softmax,
)

CALLS = 2000
Call = Callable[[], Any]


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def doors() -> dict[str, Call]:
    """Each door on one row of 16."""
    x, w, b, g = floats(1, 16), floats(16), floats(16), floats(16)
    dw, db = np.zeros_like(w), np.zeros_like(b)
    m, w2, dw2 = floats(16, 16), floats(16, 64), np.zeros((16, 16), np.float32)
    w1, b1 = floats(64, 16), floats(64)
    ffn = [np.zeros_like(p) for p in (w1, b1, w2, b)]
    q = floats(1, 1, 1, 16)
    ids, target = np.zeros(1, np.int64), np.zeros(1, np.int64)
    one, norm = np.ones((), np.float32), np.ones((), np.float32)
    m1, m2 = np.zeros_like(w), np.zeros_like(w)
    adam = dict(
        lr=np.full(1, 1e-3, np.float32),
        weight_decay=np.full(1, 0.1, np.float32),
        bounds=np.array([16]),
        t=np.zeros((), np.int64),
        betas=(0.9, 0.99),
        eps=1e-8,
    )
    saved = {
        "layernorm": layernorm.forward(x, w, b)[1],
        "softmax": softmax.forward(x)[1],
        "log_softmax": log_softmax.forward(x)[1],
        "bias_gelu": bias_gelu.forward(x, b)[1],
        "linear": linear.forward(x, m, b)[1],
        "gelu_ffn": gelu_ffn.forward(x, w1, b1, w2, b)[1],
        "matmul": matmul.forward(m, m)[1],
        "attention": attention.forward(q, q, q)[1],
        "cross_entropy": cross_entropy.forward(x, target)[1],
        "embedding": embedding.forward(ids, m)[1],
        "dropout": dropout.forward(x, 0.1, 0, 0)[1],
    }
    return {
        "layernorm forward": lambda: layernorm.forward(x, w, b),
        "layernorm backward": lambda: layernorm.backward(x, saved["layernorm"], dw, db),
        "softmax forward": lambda: softmax.forward(x),
        "softmax backward": lambda: softmax.backward(x, saved["softmax"]),
        "log_softmax forward": lambda: log_softmax.forward(x),
        "log_softmax backward": lambda: log_softmax.backward(x, saved["log_softmax"]),
        "bias_gelu forward": lambda: bias_gelu.forward(x, b),
        "bias_gelu backward": lambda: bias_gelu.backward(x, saved["bias_gelu"], db),
        "dropout forward": lambda: dropout.forward(x, 0.1, 0, 0),
        "dropout backward": lambda: dropout.backward(x, saved["dropout"]),
        "embedding forward": lambda: embedding.forward(ids, m),
        "embedding backward": lambda: embedding.backward(x, saved["embedding"], dw2),
        "cross_entropy forward": lambda: cross_entropy.forward(x, target),
        "cross_entropy backward": lambda: cross_entropy.backward(one, saved["cross_entropy"]),
        "linear forward": lambda: linear.forward(x, m, b),
        "linear backward": lambda: linear.backward(x, saved["linear"], dw2, db),
        "gelu_ffn forward": lambda: gelu_ffn.forward(x, w1, b1, w2, b),
        "gelu_ffn backward": lambda: gelu_ffn.backward(x, saved["gelu_ffn"], *ffn),
        "matmul forward": lambda: matmul.forward(m, m),
        "matmul backward": lambda: matmul.backward(m, saved["matmul"]),
        "attention forward": lambda: attention.forward(q, q, q),
        "attention backward": lambda: attention.backward(q, saved["attention"]),
        "adamw": lambda: adamw.step(w, m1, m2, g, **adam),
        "grad_norm": lambda: grad_norm.norm(g),
        "clip": lambda: grad_norm.clip(g, norm, 1.0),
    }


def twins() -> dict[str, Call]:
    """PyTorch's ops on the same sizes, where there is one for the door."""
    x, w, b, m = (torch.from_numpy(floats(*s)) for s in ((1, 16), (16,), (16,), (16, 16)))
    q, ids = torch.from_numpy(floats(1, 1, 1, 16)), torch.zeros(1, dtype=torch.int64)
    return {
        "layernorm forward": lambda: F.layer_norm(x, (16,), w, b),
        "softmax forward": lambda: F.softmax(x, -1),
        "log_softmax forward": lambda: F.log_softmax(x, -1),
        "bias_gelu forward": lambda: F.gelu(x + b, approximate="tanh"),
        "dropout forward": lambda: F.dropout(x, 0.1),
        "embedding forward": lambda: F.embedding(ids, m),
        "cross_entropy forward": lambda: F.cross_entropy(x, ids),
        "linear forward": lambda: F.linear(x, m, b),
        "matmul forward": lambda: torch.mm(m, m),
        "attention forward": lambda: F.scaled_dot_product_attention(q, q, q),
        "grad_norm": lambda: torch.linalg.vector_norm(w),
    }


@contextmanager
def listening(calls: list[Call]) -> Iterator[None]:
    """Notes every native call that is made meanwhile, arguments and all."""
    kernels = backend.cpu()
    natives = {name: getattr(kernels, name) for name in kernels.available}

    def noting(native: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            calls.append(lambda: native(*arguments))
            native(*arguments)

        return call

    kernels.__dict__.update({name: noting(native) for name, native in natives.items()})
    try:
        yield
    finally:
        kernels.__dict__.update(natives)


def many(call: Call) -> Call:
    def loop() -> None:
        for _ in range(CALLS):
            call()

    return loop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--record", action="store_true", help="keep them in bench/results")
    options = parser.parse_args()
    torch.set_grad_enabled(False)

    rows, rivals = [], twins()
    print(f"{'door':24}{'us':>8}{'native call':>13}{'PyTorch us':>12}")
    for name, door in doors().items():
        calls: list[Call] = []
        with listening(calls):
            door()
        (native,) = calls
        runs = {"door": many(door), "native": many(native)}
        if name in rivals:
            runs["torch"] = many(rivals[name])
        seconds = in_turns(runs, options.rounds)
        us = {who: round(1e6 * taken / CALLS, 2) for who, taken in seconds.items()}
        rows.append({"op": name, **us})
        rival = f"{us['torch']:12.2f}" if "torch" in us else ""
        print(f"{name:24}{us['door']:8.2f}{us['native']:13.2f}{rival}", flush=True)
    median = statistics.median(row["door"] for row in rows)
    print(f"median {median:.2f} us, longest {max(row['door'] for row in rows):.2f} us")
    if options.record:
        print("wrote", record("overhead", rows, key="op"))


if __name__ == "__main__":
    main()
