"""A default of a public function of an op means what its signature says: leaving the option out
is giving that value, and another value gives another result.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

RNG = np.random.default_rng(0)
IDS = np.array([2, 0, 4, 1])


def rows(*shape: int) -> Any:
    """Values that bf16 rounds, in float32."""
    return RNG.standard_normal(shape).astype(np.float32)


X, W, B, ADD = rows(4, 6), rows(5, 6), rows(6), rows(4, 5)
Q, K = rows(2, 3, 4, 8), rows(2, 3, 4, 8)
SQUARE = rows(5, 5)
LOGITS = rows(4, 5)
W1, B1, W2, B2 = rows(7, 6), rows(7), rows(6, 7), rows(6)
MASK = RNG.random((2, 4, 3, 3)) < 0.7
MASK[..., 0] = True

# An op, its arguments, and of each option the default and another value. A new op needs no row.
CASES: dict[str, tuple[tuple[Any, ...], dict[str, tuple[Any, Any]]]] = {
    "activation": ((X, "relu"), {}),
    "attention": (
        (Q, K, K),
        {
            "mask": (None, MASK),
            "scale": (8**-0.5, 1.0),
            "causal": (False, True),
            "dropout": (0.0, 0.5),
            "lengths": (None, np.array([1, 2])),
            "window": (None, 1),
            "slopes": (None, rows(4)),
            "bias": (None, rows(2, 4, 3, 3)),
            "softcap": (None, 0.5),
            "sequences": (None, np.array([[0, 1, 1], [0, 0, 1]])),
        },
    ),
    "bias_gelu": ((X,), {"b": (None, B), "approximate": ("tanh", "none")}),
    "cross_entropy": (
        (LOGITS, IDS),
        {"ignore_index": (-100, 4), "label_smoothing": (0.0, 0.2), "reduction": ("mean", "sum")},
    ),
    "dropout": ((X, 0.5, 1, 2), {"add": (None, X)}),
    "embedding": ((IDS, W), {"add": (None, rows(4, 6)), "scale": (1.0, 2.0)}),
    "gelu_ffn": (
        (X, W1, B1, W2, B2),
        {"add": (None, X), "approximate": ("tanh", "none"), "bf16": (False, True)},
    ),
    "layernorm": ((X, B), {"b": (None, B), "eps": (1e-5, 1e-2)}),
    "linear": ((X, W), {"b": (None, rows(5)), "add": (None, ADD), "bf16": (False, True)}),
    "linear_cross_entropy": (
        (X, W, IDS),
        {
            "ignore_index": (-100, 4),
            "label_smoothing": (0.0, 0.2),
            "reduction": ("mean", "sum"),
            "dloss": (1.0, 2.0),
            "need_dx": (True, False),
            "bf16": (False, True),
        },
    ),
    "log_softmax": ((X,), {}),
    "matmul": (
        (SQUARE, SQUARE),
        {"transpose_a": (False, True), "transpose_b": (False, True), "bf16": (False, True)},
    ),
    "rope": (
        (Q, rows(9, 3), rows(9, 3)),
        {
            "positions": (None, np.array([[0, 1, 3], [0, 1, 2]])),
            "start": (0, 1),
            "interleaved": (False, True),
        },
    ),
    "softmax": (
        (SQUARE,),
        {"mask": (None, MASK[0, 0, 0, :1] & False), "scale": (1.0, 2.0), "causal": (False, True)},
    ),
    "swiglu_ffn": (
        (X, W1, B1, W1 + 1, B1, W2, B2),
        {"add": (None, X), "activation": ("silu", "gelu"), "bf16": (False, True)},
    ),
}
# Without an effect on the result: sums are taken in pieces of a block, dw and out are written, and
# seed and offset matter with dropout only (tests/ops/test_attention.py). The options of an
# activation belong to single functions (tests/ops/test_activation.py).
OTHERS = {
    "activation": {"negative_slope", "alpha", "beta", "threshold"},
    "attention": {"seed", "offset"},
    "linear_cross_entropy": {"block", "dw"},
    "rope": {"out"},
}


def forward_of(op: str) -> Callable[..., Any]:
    return importlib.import_module(f"byhand.ops.{op}").forward


def result(made: Any) -> list[Any]:
    """What a forward pass computes; of the fused loss its gradient too."""
    y, rest = made
    return [y, rest] if rest is None or isinstance(rest, np.ndarray) else [y]


def same(one: Any, other: Any) -> bool:
    return all(
        (a is None) == (b is None) and (a is None or np.array_equal(a, b))
        for a, b in zip(result(one), result(other), strict=True)
    )


@pytest.mark.parametrize("op", CASES)
def test_every_option_has_a_case(op: str):
    options = inspect.signature(forward_of(op)).parameters.values()
    found = {p.name for p in options if p.default is not inspect.Parameter.empty}
    assert found == {*CASES[op][1], *OTHERS.get(op, ())}


@pytest.mark.parametrize(
    ("op", "option"), [(name, option) for name, (_, options) in CASES.items() for option in options]
)
def test_leaving_an_option_out_is_giving_its_default(op: str, option: str):
    forward, (arguments, options) = forward_of(op), CASES[op]
    default, other = options[option]
    plain = forward(*arguments)
    assert same(plain, forward(*arguments, **{option: default}))
    assert not same(plain, forward(*arguments, **{option: other}))
