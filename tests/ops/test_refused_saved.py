"""Sentences about a `saved` of another function, and about arrays with gaps."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from byhand import nn, ops

X = np.random.default_rng(0).standard_normal((3, 5), dtype=np.float32)
W = np.ones((4, 5), np.float32)
DY = np.ones((3, 5), np.float32)
IDS = np.zeros(3, np.int64)
QKV = X.reshape(1, 3, 1, 5)

SAVED: dict[str, Any] = {
    "softmax": ops.softmax.forward(X)[1],
    "linear": ops.linear.forward(X, W)[1],
    "activation": ops.activation.forward(X, "relu")[1],
    "layernorm": ops.layernorm.forward(X, W[0], None, 1e-5)[1],
    "dropout": ops.dropout.forward(X, 0.5, 1, 0)[1],
    "cross_entropy": ops.cross_entropy.forward(X, IDS)[1],
    "attention": ops.attention.forward(QKV, QKV, QKV)[1],
}
OTHERS: dict[str, Any] = {"None": None, "an array": X, "nothing": (), "a list": [X, 1.0]}
BACKWARD: dict[str, Callable[[Any], Any]] = {
    "softmax": lambda saved: ops.softmax.backward(DY, saved),
    "linear": lambda saved: ops.linear.backward(X @ W.T, saved),
    "activation": lambda saved: ops.activation.backward(DY, saved),
    "layernorm": lambda saved: ops.layernorm.backward(DY, saved),
    "dropout": lambda saved: ops.dropout.backward(DY, saved),
    "cross_entropy": lambda saved: ops.cross_entropy.backward(1.0, saved),
    "attention": lambda saved: ops.attention.backward(QKV, saved),
}


@pytest.mark.parametrize("op", BACKWARD)
def test_its_own_is_taken(op: str):
    BACKWARD[op](SAVED[op])


WRONG = [(op, kind) for op in BACKWARD for kind in [*SAVED, *OTHERS] if kind != op]
WRONG.remove(("softmax", "a list"))  # of the same content, which is as good


@pytest.mark.parametrize(("op", "kind"), WRONG)
def test_a_saved_of_another_function_is_named(op: str, kind: str):
    with pytest.raises((TypeError, ValueError)) as caught:
        BACKWARD[op]((SAVED | OTHERS)[kind])
    sentence = str(caught.value)
    own = re.escape(f"{op}.backward: saved must be what {op}.forward returned, got ")
    # Of four axes where two are expected: the array that is no longer of its shape is named.
    assert re.match(rf"{own}|{op}.backward: dy must have shape \(", sentence), sentence
    if kind not in ("attention", "a list"):
        assert re.match(own, sentence), sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_array_with_gaps_is_told_how_to_close_them(dtype):
    wide = np.ones((3, 10), dtype)
    sentence = r"^linear_forward: x must be C-contiguous, got .*: use np.ascontiguousarray\(x\)$"
    layer = nn.Linear(5, 2).build(dtype=dtype)
    with pytest.raises(TypeError, match=sentence):
        layer(wide[:, ::2])
    with pytest.raises(TypeError, match=r": use np.ascontiguousarray\(w\)$"):
        ops.linear.forward(wide, np.ones((20, 2), dtype).T[:, ::2])
    y = layer(np.ascontiguousarray(wide[:, ::2]))
    with pytest.raises(TypeError, match=r": use np.ascontiguousarray\(dy\)$"):
        layer.backward(np.ones((3, 4), dtype)[:, ::2])
    assert y.shape == (3, 2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("op", ["attention", "linear_attention"])
def test_heads_with_gaps_are_refused(op, dtype):
    function = getattr(ops, op)
    wide = np.ones((1, 3, 2, 8), dtype)
    packed = [wide[..., :4].copy() for _ in "qkv"]
    for n, name in enumerate("qkv"):
        given = [wide[..., ::2] if i == n else a for i, a in enumerate(packed)]
        with pytest.raises(TypeError, match=f"^{op}.forward: {name} must have a contiguous last"):
            function.forward(*given)
    y, saved = function.forward(*packed)
    for n in range(3):
        out = tuple(wide[..., ::2] if i == n else a for i, a in enumerate(packed))
        with pytest.raises(TypeError, match=rf"^{op}.backward: out\[{n}\] must have a contiguous"):
            function.backward(y, saved, out)
