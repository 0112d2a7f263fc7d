"""Cross-entropy of logits and class numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bench import gpu_case, traffic
from bench.cpu_case import RNG, Pair, floats, spec, twin
from bench.gpu_case import SMALL_ROWS, Calls, Maker, Rival, torch_device, torch_normal
from bench.lazy import F, torch
from byhand.ops import cross_entropy


def pair(R: int, V: int) -> Pair:
    logits, targets = floats(R, V), RNG.integers(0, V, R)
    classes = torch.from_numpy(targets)
    one = np.ones((), np.float32)
    return Pair(
        "cross_entropy",
        {"R": R, "V": V},
        lambda: cross_entropy.forward(logits, targets),
        lambda saved: cross_entropy.backward(one, saved),
        {"torch": twin(lambda x: F.cross_entropy(x, classes), logits)},
        one,
        streams=("read", "copy"),
    )


def calls(m: Maker, R: int, V: int) -> Iterator[gpu_case.Case]:
    logits, dlogits = m.normal(R, V), m.empty(R, V)
    targets, lse = m.ids(R, V), m.full(math.log(V), R)
    loss, count, dloss = m.full(0), m.full(R), m.full(1)

    def rival(run: Callable[[Callable[[], Any], Any, Any], Any]) -> Rival:
        """`run` of the forward pass, of the loss of an earlier one, and of the logits."""

        def build() -> Callable[[], Any]:
            x = torch_normal(m.dtype, R, V).requires_grad_()
            classes = torch.randint(0, V, (R,), device=torch_device())
            earlier = F.cross_entropy(x, classes)
            return lambda: run(lambda: F.cross_entropy(x, classes), earlier, x)

        return build

    def gradient(loss: Any, x: Any, again: bool) -> Any:
        return torch.autograd.grad(loss, x, retain_graph=again)

    options = {"ignore_index": -100, "smoothing": 0.0, "mean": True}
    inputs = {"count": count, "lse": lse, "logits": logits, "targets": targets, **options}
    forward = ("cross_entropy_forward", {"loss": loss, **inputs})
    backward = ("cross_entropy_backward", {"dlogits": dlogits, "dloss": dloss, **inputs})
    there, back, both = (
        rival(lambda f, earlier, x: f()),
        rival(lambda f, earlier, x: gradient(earlier, x, True)),
        rival(lambda f, earlier, x: gradient(f(), x, False)),
    )
    sizes = {"R": R, "V": V}
    yield m.case(*forward, logits.shape, there, **sizes)
    yield m.case(*backward, logits.shape, back, **sizes)
    # Compared with the least that both need: the traffic of cross_entropy_gradient.
    least = traffic.bytes_moved("cross_entropy_gradient", sizes, itemsize=logits.dtype.itemsize)
    steps = (forward, backward)
    yield gpu_case.Case("cross_entropy, both", logits.shape, m.dtype, least, steps, both)
    arguments = {"logits": m.normal(R, V), "loss": loss, "count": count, "lse": lse, **options}
    arguments |= {"dloss": dloss, "targets": targets}
    yield m.case("cross_entropy_gradient", arguments, logits.shape, both, **sizes)


CPU = [
    spec(f"cross_entropy {R}x{V}", pair, R, V)
    for R, V in ((768, 65), (4096, 65), (16384, 65), (256, 50257), (1024, 50257))
]
TINY = [spec("cross_entropy", pair, 1, 16)]
GPU = Calls(
    calls,
    small=[*SMALL_ROWS, (1, 120_001)],  # the last row is more than shared memory holds
    full=[(1 << 20, 65), (8192, 50257), (8192, 50304), (4096, 131072)],
    counted=(61, 257),
)
