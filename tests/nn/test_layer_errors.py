"""What a layer cannot take is named, and changes nothing."""

from __future__ import annotations

import re

import numpy as np
import pytest

from byhand import MLP, MLPConfig, gradcheck, nn, ops
from byhand.nn.protocol import require_like

LAYERS = {
    "Linear": lambda: nn.Linear(4, 6),
    "LayerNorm": lambda: nn.LayerNorm(4),
    "RMSNorm": lambda: nn.RMSNorm(4),
    "FeedForward": lambda: nn.FeedForward(4, 6),
    "MultiHeadAttention": lambda: nn.MultiHeadAttention(4, 2),
}
layers = pytest.mark.parametrize("name", LAYERS)


def x_of(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.ones(shape, dtype)


def test_a_full_cache_takes_no_more():
    cache = nn.KeyValueCache(1, 2, 1, 3, np.zeros(1, np.float32))
    one = np.ones((1, 1, 1, 3), np.float32)
    cache.extend(one, one)
    cache.extend(one, one)
    with pytest.raises(ValueError, match="1 positions after the first 2 exceed its capacity of 2"):
        cache.extend(one, one)
    assert cache.length == 2


# --- The input is blamed, not the layer's own parameters ------------------------------------------


@layers
@pytest.mark.parametrize("wrong", [x_of(2, 3, 5), x_of(2, 3, 3), x_of(), x_of(2, 3, 0)])
def test_a_wrong_shape_of_x_is_called_one_of_x(name, wrong):
    layer = LAYERS[name]().build()
    axes = "B, T, 4" if name == "MultiHeadAttention" else "..., 4"
    message = f"{name}: x must have shape ({axes}), got {wrong.shape}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        layer(wrong)
    layer.zero_grad()  # nothing waits
    layer(x_of(2, 3, 4))


@layers
@pytest.mark.parametrize("dtype", ["float64", "float16", "int64", "bool"])
def test_a_wrong_dtype_of_x_is_called_one_of_x(name, dtype):
    layer = LAYERS[name]().build()
    message = f"{name}: x must be float32, as the parameters are, got {dtype}: use x.astype"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}"):
        layer(x_of(2, 3, 4, dtype=dtype))
    layer.to(dtype="float64")
    with pytest.raises(TypeError, match="x must be float64, as the parameters are, got float32"):
        layer(x_of(2, 3, 4))
    layer(x_of(2, 3, 4, dtype="float64"))


@layers
@pytest.mark.parametrize("wrong", [[[1.0, 2.0, 3.0, 4.0]], 3.0, None, "x"])
def test_what_is_no_array_is_called_x(name, wrong):
    message = f"{name}: x must be an array, got {type(wrong).__name__}"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}"):
        LAYERS[name]().build()(wrong)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_the_norm_of_a_sum_names_its_inputs(norm):
    layer = norm(4).build()
    with pytest.raises(ValueError, match=r"Norm: x must have shape \(\.\.\., 4\), got \(2, 5\)"):
        layer.forward_add(x_of(2, 5), x_of(2, 5))
    with pytest.raises(ValueError, match=r"add must have shape \(2, 4\), got \(2, 5\), where x"):
        layer.forward_add(x_of(2, 4), x_of(2, 5))


def test_a_model_names_its_input():
    model = MLP(MLPConfig(4, 2))
    with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., 4\), got \(3, 5\)"):
        model(x_of(3, 5))
    with pytest.raises(TypeError, match="x must be float32, as the parameters are, got float64"):
        model(x_of(3, 4, dtype="float64"))
    with pytest.raises(TypeError, match="x must be an array, got list"):
        model([[1.0] * 4])


def test_attention_names_its_memory():
    x = x_of(1, 2, 4)
    layer = nn.MultiHeadAttention(4, 2).build()
    with pytest.raises(ValueError, match=r"memory must have shape \(B, S, 4\), got \(2, 4\)"):
        layer(x, x[0])
    with pytest.raises(ValueError, match=r"memory must have shape \(B, S, 4\), got \(1, 2, 5\)"):
        layer(x, x_of(1, 2, 5))
    with pytest.raises(TypeError, match="memory must be float32, as the parameters are, got float"):
        layer(x, x_of(1, 2, 4, dtype="float64"))
    with pytest.raises(TypeError, match="memory must be an array, got list"):
        layer(x, [1.0])
    with pytest.raises(ValueError, match="a cache is for self-attention"):
        layer(x, x, cache=nn.KeyValueCache(1, 9, 2, 2, x))


def test_arrays_of_two_devices_are_named():
    class OnGpu:
        pass

    OnGpu.__module__ = "cupy"
    with pytest.raises(TypeError, match=r"^L: x is on the CPU and the parameters are on the GPU$"):
        require_like("L", "x", x_of(2), OnGpu())
    with pytest.raises(TypeError, match=r"^L: x is on the GPU and the parameters are on the CPU$"):
        require_like("L", "x", OnGpu(), x_of(2))


def test_an_embedding_names_its_ids():
    layer = nn.Embedding(4, 3).build()
    for wrong in (x_of(3), np.ones(3, np.int32)):
        with pytest.raises(TypeError, match=f"ids must have dtype int64, got {wrong.dtype}"):
            layer(wrong)
    with pytest.raises(TypeError, match="ids must be an array, got list"):
        layer([1, 2])
    with pytest.raises(IndexError, match=r"ids\[1\] = 4 is outside"):
        layer(np.array([0, 4]))


# --- Ops: where either argument may be wrong, both are named --------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ops.linear.forward(x_of(5, 4), x_of(2, 3)),
            "linear.forward: w must have shape (N, 4), got (2, 3), where x has shape (5, 4)",
        ),
        (
            lambda: ops.matmul.forward(x_of(5, 4), x_of(2, 3)),
            "matmul.forward: b must have shape (4, 3), got (2, 3), where a has shape (5, 4)",
        ),
        (
            lambda: ops.attention.forward(x_of(1, 2, 4, 3), x_of(1, 2, 3, 3), x_of(1, 2, 3, 3)),
            "attention.forward: k must have shape (1, S, G, 3) with a G that divides 4, got "
            "(1, 2, 3, 3), where q has shape (1, 2, 4, 3)",
        ),
        (
            lambda: ops.cross_entropy.forward(x_of(5, 4), np.zeros(3, np.int64)),
            "cross_entropy.forward: targets must have shape (5,), got (3,), where logits has shape "
            "(5, 4)",
        ),
    ],
)
def test_the_shapes_of_both_are_in_the_message(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ops.linear.forward(x_of(5, 4, dtype="float64"), x_of(2, 4)),
            "linear.forward: x is float64 and w is float32: all arrays of a call must have the "
            "same floating dtype",
        ),
        (
            lambda: ops.linear.forward(x_of(5, 4), x_of(2, 4, dtype="float64")),
            "linear.forward: x is float32 and w is float64",
        ),
        (
            lambda: ops.linear.forward(x_of(5, 4, dtype="int64"), x_of(2, 4)),
            "linear.forward: x: numpy arrays must be float32 (fast kernels) or float64 (check "
            "mode), got int64",
        ),
        (
            lambda: ops.softmax.backward(
                x_of(5, 4, dtype="float64"), ops.softmax.forward(x_of(5, 4))[1]
            ),
            "softmax.backward: dy is float64 and the saved y is float32",
        ),
    ],
)
def test_the_dtypes_of_both_are_in_the_message(call, message):
    with pytest.raises(TypeError, match=f"^{re.escape(message)}"):
        call()


# --- Memory ---------------------------------------------------------------------------------------


def test_memory_that_is_not_there_is_said_with_its_size():
    x = np.broadcast_to(np.float32(1), (2**50, 4))  # one number of memory
    with pytest.raises(MemoryError, match=r"16,777,216\.0 GiB for an array of shape \(1125"):
        nn.Linear(4, 4).build()(x)
    with pytest.raises(MemoryError, match=r"Unable to allocate .* shape"):
        nn.Embedding(10**9, 10**6).build()


def test_memory_that_a_kernel_lacks_is_said_with_its_arguments(monkeypatch):
    from byhand import backend

    def fails(*arguments):
        raise MemoryError("std::bad_alloc")

    monkeypatch.setattr(backend.cpu(), "linear_forward", fails)
    message = "linear.forward: not enough memory, for x (5, 4), w (2, 4)"
    with pytest.raises(MemoryError, match=f"^{re.escape(message)}$"):
        ops.linear.forward(x_of(5, 4), x_of(2, 4))


# --- Constructors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.Linear("3", 2), TypeError, "Linear: in_features must be a whole number, got"),
        (lambda: nn.Linear(3, 2.0), TypeError, "Linear: out_features must be a whole number"),
        (lambda: nn.Linear(-3, 2), ValueError, "Linear: in_features must be at least 0, got -3"),
        (lambda: nn.Embedding(3, None), TypeError, "Embedding: dim must be a whole number"),
        (lambda: nn.LayerNorm(True), TypeError, "LayerNorm: dim must be a whole number"),
        (lambda: nn.LayerNorm(3, eps="x"), ValueError, "LayerNorm: eps must be a number of at"),
        (lambda: nn.RMSNorm(3, eps=-1e-5), ValueError, "RMSNorm: eps must be a number of at"),
        (lambda: nn.FeedForward(3, "6"), TypeError, "FeedForward: hidden must be a whole number"),
        (lambda: nn.MultiHeadAttention(4, "2"), TypeError, "num_heads must be a whole number"),
        (lambda: nn.MultiHeadAttention(4, 2, dropout=1.5), ValueError, "dropout must be at least"),
        (lambda: nn.Dropout("x"), ValueError, "Dropout: p must be at least 0 and less than 1"),
        (lambda: nn.Sequential([nn.GELU()]), TypeError, r"one by one, Sequential\(\*layers\)"),
    ],
)
def test_a_wrong_argument_of_a_layer_is_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_layer_of_a_sequential_is_replaced_by_a_module_only():
    layers = nn.Sequential(nn.GELU(), nn.GELU())
    layers[-1] = nn.Dropout(0.0)
    assert isinstance(layers[1], nn.Dropout)
    with pytest.raises(TypeError, match="layer 0 must be a Module, got 'x'"):
        layers[0] = "x"


def test_a_gradient_of_another_shape_is_not_reshaped():
    flatten = nn.Flatten()
    for wrong, sentence in (
        (x_of(3, 8), "Flatten: dy must have shape (2, 12), got (3, 8)"),
        (x_of(2, 11), "Flatten: dy must have shape (2, 12), got (2, 11)"),
        ([1.0], "Flatten: dy must be an array, got list"),
    ):
        flatten(x_of(2, 3, 4))
        with pytest.raises((TypeError, ValueError), match=f"^{re.escape(sentence)}$"):
            flatten.backward(wrong)
    flatten(x_of(2, 3, 4))
    assert flatten.backward(x_of(2, 12)).shape == (2, 3, 4)


@pytest.mark.parametrize("wrong", [5, [5]])
def test_freeze_takes_paths(wrong):
    model = nn.Linear(2, 3).build()
    with pytest.raises(TypeError, match="paths must be given as a pattern, a list of patterns or"):
        model.freeze(wrong)
    with pytest.raises(TypeError, match=r"got Parameter\(weight"):
        model.freeze(model.weight)
    model.freeze(name for name in ["weight"])
    assert not model.weight.trainable


def test_the_loss_of_gradcheck_is_a_choice():
    with pytest.raises(TypeError, match="gradcheck: loss must be a bool or None, got MSELoss"):
        gradcheck(nn.Linear(2, 3), np.ones((4, 2)), loss=nn.MSELoss())
