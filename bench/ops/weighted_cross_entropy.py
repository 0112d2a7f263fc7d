"""Cross-entropy with class weights, against class ids and against probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bench import gpu_case
from bench.cpu_case import RNG, Pair, floats, spec, twin
from bench.gpu_case import SMALL_ROWS, Calls, Maker, Rival, torch_device, torch_normal
from bench.lazy import F, torch
from byhand.ops import weighted_cross_entropy


def pair(given: str, R: int, V: int) -> Pair:
    logits, one = floats(R, V), np.ones((), np.float32)
    weight = np.abs(floats(V))
    ids, probabilities = RNG.integers(0, V, R), None
    if given == "probabilities":
        ids, probabilities = None, np.exp(floats(R, V))
        probabilities /= probabilities.sum(axis=-1, keepdims=True)
    target = torch.from_numpy(ids if probabilities is None else probabilities)
    w = torch.from_numpy(weight)
    return Pair(
        "weighted_cross_entropy",
        {"R": R, "V": V},
        lambda: weighted_cross_entropy.forward(logits, ids, probabilities, weight),
        lambda saved: weighted_cross_entropy.backward(one, saved),
        {"torch": twin(lambda x: F.cross_entropy(x, target, weight=w), logits)},
        one,
        streams=("read", "copy"),
        given=() if probabilities is None else ("probabilities",),
    )


def calls(m: Maker, R: int, V: int) -> Iterator[gpu_case.Case]:
    x, dx, ids = m.normal(R, V), m.empty(R, V), m.ids(R, V)
    probabilities = (abs(m.normal(R, V)) / V).astype(m.storage())
    weight, lse, mass = m.full(0.5, V), m.full(math.log(V), R), m.full(0.5, R)
    results = {"loss": m.full(0), "total": m.full(R), "losses": m.full(0, R), "lse": lse}

    def rival(soft: bool, backward: bool) -> Rival:
        def build() -> Callable[[], Any]:
            a = torch_normal(m.dtype, R, V).requires_grad_()
            w = torch.ones(V, device=torch_device(), dtype=a.dtype)
            t = torch.randint(0, V, (R,), device=torch_device())
            if soft:
                t = torch_normal(m.dtype, R, V).softmax(-1)
            if not backward:
                return lambda: F.cross_entropy(a.detach(), t, weight=w)
            y = F.cross_entropy(a, t, weight=w)
            return lambda: torch.autograd.grad(y, a, retain_graph=True)

        return build

    for soft, option, target in ((False, "targets", ids), (True, "probabilities", probabilities)):
        inputs = {"logits": x, option: target, "weight": weight}
        inputs |= {"ignore_index": -100, "smoothing": 0.0, "mean": True}
        forward = {**results, "mass": mass, **inputs, "normalise": True}
        beside = rival(soft, False)
        yield m.case("weighted_cross_entropy_forward", forward, x.shape, beside, option, R=R, V=V)
        backward = {"dlogits": dx, "dloss": m.full(1), "total": results["total"], "lse": lse}
        backward |= {"mass": mass, **inputs}
        beside = rival(soft, True)
        yield m.case("weighted_cross_entropy_backward", backward, x.shape, beside, option, R=R, V=V)


CPU = [
    spec(f"weighted_cross_entropy {given} {R}x{V}", pair, given, R, V)
    for given in ("ids", "probabilities")
    for R, V in ((4096, 65), (256, 50257))
]
TINY = [spec("weighted_cross_entropy", pair, "ids", 1, 16)]
GPU = Calls(
    calls, small=SMALL_ROWS, full=[(1 << 18, 512), (8192, 50257), (8192, 50304)], counted=(61, 257)
)
