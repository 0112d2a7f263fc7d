"""Modules that do not keep to the protocol: gradcheck says what is wrong, and leaves them alone."""

from __future__ import annotations

import numpy as np
import pytest

from byhand import nn
from byhand.nn import init
from byhand.nn.gradcheck import GradcheckError, gradcheck

X = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
IDS = np.arange(4)


class Scale(nn.Module):
    def __init__(self):
        self.w = nn.Parameter((3,), init.ones)

    def forward(self, x):
        self.push(x)
        return x * self.w.compute_value

    def backward(self, dy):
        self.w.grad += (dy * self.pop()).sum(0)
        return dy * self.w.value


class Pair(Scale):
    def forward(self, x):
        return super().forward(x), 3


class Number(Scale):
    def forward(self, x):
        return float(super().forward(x).sum())


class PushesTwice(Scale):
    def forward(self, x):
        self.push(x)
        return super().forward(x)


class NeverPops(Scale):
    def backward(self, dy):
        self.w.grad += (dy * self.peek()).sum(0)
        return dy * self.w.value


class NoInputGradient(Scale):
    def backward(self, dy):
        super().backward(dy)


class SmallInputGradient(Scale):
    def backward(self, dy):
        return super().backward(dy)[:1]


class ForgetsAnInput(Scale):
    def forward(self, x, add):
        return super().forward(x) + 3 * add


class IdsFirst(Scale):
    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = factor

    def forward(self, ids, x):
        return super().forward(x)

    def backward(self, dy):
        return None, self.factor * super().backward(dy)


class Fails(Scale):
    def backward(self, dy):
        raise KeyError("half-way")


@pytest.mark.parametrize(
    ("kind", "inputs", "error", "message"),
    [
        (Pair, (X,), TypeError, "Pair must return an array, got tuple"),
        (Number, (X,), TypeError, "Number must return an array, got float"),
        (PushesTwice, (X,), GradcheckError, r"the module \(PushesTwice\) did not pop all"),
        (NeverPops, (X,), GradcheckError, r"the module \(NeverPops\) did not pop all"),
        (NoInputGradient, (X,), GradcheckError, "returned no gradient of input 0"),
        (SmallInputGradient, (X,), GradcheckError, r"input 0 has shape \(1, 3\), where .*\(4, 3\)"),
        (ForgetsAnInput, (X, X), GradcheckError, "returned no gradient of input 1"),
        (Fails, (X,), KeyError, "half-way"),
    ],
)
def test_a_module_that_breaks_the_protocol_is_named_and_left_alone(kind, inputs, error, message):
    module = kind().build().inference()
    storage, before = module.storage, module.w.value.copy()
    with pytest.raises(error, match=message):
        gradcheck(module, *inputs)
    assert module.storage is storage
    assert storage.valid
    assert np.array_equal(module.w.value, before)
    assert module.w.value.dtype == np.float32
    assert not module.w.grad.any()
    module(*inputs)
    module.zero_grad()  # still in inference mode: nothing waits


def test_an_input_after_ids_is_checked():
    assert gradcheck(IdsFirst(), IDS, X).errors.keys() == {"w", "input 1"}
    with pytest.raises(GradcheckError, match="the gradient of input 1 is off"):
        gradcheck(IdsFirst(1.1), IDS, X)


def test_nothing_to_check_is_an_error():
    table = nn.Embedding(4, 3).build()
    table.freeze()
    with pytest.raises(ValueError, match="no parameter is trained and no input is floating"):
        gradcheck(table, IDS)
