"""Arrays of other libraries in and out, without copies: PyTorch's, and stand-ins for what this
machine does not have.
"""

from __future__ import annotations

import gc
import sys
from typing import Any

import numpy as np
import pytest

import byhand as bh
from byhand import backend, nn, ops
from byhand.nn import init

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(0)
X = RNG.standard_normal((5, 4), dtype=np.float32)
DY = RNG.standard_normal((5, 3), dtype=np.float32)


def tensor(a: np.ndarray) -> Any:
    return torch.tensor(a)


def test_an_array_has_the_memory_of_the_tensor():
    t = torch.zeros(3, 4)
    a = bh.from_dlpack(t)
    assert type(a) is np.ndarray
    t[1, 2] = 7
    assert a[1, 2] == 7
    assert a.ctypes.data == t.data_ptr()
    for dtype in (torch.float64, torch.int64, torch.bool):
        assert bh.from_dlpack(torch.ones(2, dtype=dtype)).tolist() == [1, 1]


LAYERS = {
    "Linear": lambda: nn.Linear(4, 3),
    "Sequential": lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(4, 3)),
    "FeedForward": lambda: nn.Sequential(nn.FeedForward(4, 7), nn.Linear(4, 3)),
    "a layer of ones own": lambda: nn.Sequential(Scale(), nn.LayerNorm(4), nn.Linear(4, 3)),
}


class Scale(nn.Module):
    def __init__(self) -> None:
        self.weight = nn.Parameter((4,), init.Constant(2.0))

    def forward(self, x: Any, add: Any = 0) -> Any:
        assert type(x) is np.ndarray
        assert type(add) in (int, np.ndarray)
        self.push(x)
        return x * self.weight.value + add

    def backward(self, dy: Any) -> Any:
        self.weight.grad += (dy * self.pop()).sum(0)
        return dy * self.weight.value


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_takes_tensors_forward_and_backward(name: str):
    """With the same bits as for numpy arrays."""
    ours, theirs = (LAYERS[name]().build(seed=1) for _ in range(2))
    y, dx = ours(X), ours.backward(DY)
    z = theirs(tensor(X))
    dz = theirs.backward(tensor(DY))
    for a, b in ((y, z), (dx, dz)):
        assert type(b) is np.ndarray
        assert np.array_equal(a, b)
    assert np.array_equal(ours.storage.grads, theirs.storage.grads)


def test_a_part_of_a_model_and_a_layer_without_memory_take_tensors():
    model = bh.MLP(bh.MLPConfig(4, 3, (6,)))
    part = model.layers[0]
    assert np.array_equal(part(tensor(X)), part(X))
    own = Scale().build()
    assert np.array_equal(own(X, add=tensor(X)), 3 * X)
    assert np.array_equal(own(tensor(X), X), 3 * X)
    for layer in (nn.GELU(), nn.Tanh(), nn.Softmax(), nn.Flatten()):
        y = layer(tensor(X))
        assert type(y) is np.ndarray
        assert np.array_equal(y, layer(X))


def test_models_and_their_losses_take_tensors():
    config = bh.GPTConfig(17, 9, 12, 3, 2)
    ours, theirs = bh.GPT(config), bh.GPT(config)
    ids = RNG.integers(0, 17, (2, 9))
    dlogits = RNG.standard_normal((2, 9, 17), dtype=np.float32)
    assert ours.loss(ids, ids) == theirs.loss(tensor(ids), tensor(ids))
    ours.backward()
    theirs.backward()
    assert np.array_equal(ours(ids), theirs(tensor(ids)))
    ours.backward(dlogits)
    theirs.backward(tensor(dlogits))
    assert np.array_equal(ours.storage.grads, theirs.storage.grads)
    attention = nn.MultiHeadAttention(4, 2).build()
    x, memory = X[None], X[None, :3].copy()
    expected = attention(x, memory=memory, lengths=np.array([2]))
    got = attention(tensor(x), memory=tensor(memory), lengths=torch.tensor([2]))
    assert np.array_equal(expected, got)


def test_operations_take_tensors():
    y, saved = ops.softmax.forward(tensor(X))
    assert np.array_equal(y, ops.softmax.forward(X)[0])
    dy = np.ones_like(X)
    assert np.array_equal(ops.softmax.backward(tensor(dy), saved), ops.softmax.backward(dy, saved))
    loss, _ = ops.cross_entropy.forward(tensor(X), torch.zeros(5, dtype=torch.int64))
    assert loss == ops.cross_entropy.forward(X, np.zeros(5, np.int64))[0]
    # What is added into is added into the tensor.
    dw = torch.ones(3, 4)
    of_linear = ops.linear.forward(X, np.ones((3, 4), np.float32))[1]
    if bh.from_dlpack(dw).flags.writeable:
        ops.linear.backward(DY, of_linear, dw)
        np.testing.assert_allclose(dw.numpy(), 1 + DY.T @ X, rtol=1e-5)
    else:  # numpy before 2.3
        with pytest.raises(TypeError, match=r"^linear_backward: dw is read-only$"):
            ops.linear.backward(DY, of_linear, dw)


def test_results_are_taken_by_pytorch_and_stay_there():
    layer = nn.Linear(4, 3000).build()
    y = layer(X)
    expected, t = y.copy(), torch.from_dlpack(y)
    assert t.data_ptr() == y.ctypes.data
    del y
    gc.collect()
    assert not np.array_equal(layer(X + 1), expected)
    assert np.array_equal(t.numpy(), expected)
    assert torch.from_dlpack(layer.weight.grad).shape == (3000, 4)
    loss = bh.GPT(bh.GPTConfig(7, 5, 4, 2, 1)).loss(*np.zeros((2, 1, 5), np.int64))
    assert float(torch.from_dlpack(loss)) == float(loss)


def test_a_layer_trains_inside_pytorchs_autograd():
    """As torch.autograd sees it: forward, a loss in PyTorch, and backward with its gradient."""
    layer = nn.Linear(4, 3).build()
    y = torch.from_dlpack(layer(tensor(X))).requires_grad_()
    y.square().sum().backward()
    dx = layer.backward(y.grad)
    w = tensor(layer.weight.value).requires_grad_()
    x = tensor(X).requires_grad_()
    (x @ w.T + tensor(layer.bias.value)).square().sum().backward()
    np.testing.assert_allclose(layer.weight.grad, w.grad.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dx, x.grad.numpy(), rtol=1e-4, atol=1e-5)


class OnGPU:
    """What a tensor on a GPU answers before its memory is asked for."""

    shape, dtype = (5, 4), "float32"

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)

    def __dlpack__(self, **options: Any) -> Any:
        raise AssertionError("not asked for")


WRONG = {
    "requires_grad": (
        lambda: tensor(X).requires_grad_(),
        r"x requires grad, which is not tracked here: use x\.detach\(\)$",
    ),
    "a parameter": (lambda: torch.nn.Parameter(tensor(X)), r"x requires grad, .*x\.detach\(\)$"),
    "bfloat16": (
        lambda: tensor(X).bfloat16(),
        r"x is bfloat16, which numpy lacks: use x\.float\(\)$",
    ),
    "sparse": (lambda: tensor(X).to_sparse(), "x cannot be shared with numpy: .*layout"),
    "without memory": (lambda: torch.ones(5, 4, device="meta"), "x cannot be shared with numpy: "),
    "on a GPU": (OnGPU, r"x is on a GPU, and cupy, .* is not installed: use x\.cpu\(\)$"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_tensor_that_cannot_be_taken_is_one_sentence(kind: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    made, sentence = WRONG[kind]
    layer = nn.Linear(4, 3).build()
    with pytest.raises(TypeError, match=f"^Linear: {sentence}"):
        layer(made())
    with pytest.raises(TypeError, match=f"^softmax.forward: {sentence}"):
        ops.softmax.forward(made())
    with pytest.raises(TypeError, match=f"^{sentence}"):
        bh.from_dlpack(made())
    assert not layer.waiting()


def test_gaps_another_dtype_and_another_shape_are_refused_as_of_numpy_arrays():
    layer = nn.Linear(4, 3).build()
    with pytest.raises(TypeError, match=r"x must be C-contiguous.*: use np.ascontiguousarray\(x\)"):
        layer(torch.ones(4, 5).t())
    with pytest.raises(TypeError, match=r"softmax_forward: x must be C-contig.*contiguousarray"):
        ops.softmax.forward(torch.ones(4, 5).t())
    with pytest.raises(TypeError, match=r"^Linear: x must be float32, as the .*, got float64"):
        layer(torch.ones(5, 4, dtype=torch.float64))
    with pytest.raises(TypeError, match=r"float32 .* or float64 .*, got float16"):
        ops.softmax.forward(torch.ones(5, 4).half())
    with pytest.raises(ValueError, match=r"^Linear: x must have shape \(\.\.\., 4\), got \(5, 3\)"):
        layer(torch.ones(5, 3))
    layer(X)
    with pytest.raises(ValueError, match=r"^linear.backward: dy must have shape \(5, 3\)"):
        layer.backward(torch.ones(5, 2))
    with pytest.raises(TypeError, match=r"got bfloat16: use x.astype\(np.float32\)$"):
        layer(X.astype(backend.bfloat16()))
    half = nn.Linear(4, 3).build()
    with pytest.raises(TypeError, match=r"^linear.backward: .*dtype|must be float32"):
        half.backward((half(X), torch.ones(5, 3).double())[1])


def test_what_has_no_dlpack_is_refused_by_name():
    with pytest.raises(TypeError, match=r"^x must be an array with __dlpack__, got list$"):
        bh.from_dlpack([1.0])
    layer = nn.Linear(4, 3).build()
    with pytest.raises(TypeError, match=r"^Linear: x must be an array, got list"):
        layer([[1.0] * 4])
    # A subclass of numpy's arrays is one of them.
    assert np.array_equal(layer(X.view(np.memmap)), layer(X))
    assert not backend.is_foreign(X.view(np.memmap))
