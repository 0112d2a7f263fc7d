"""The activation layers, Softmax and Flatten; activations by name in FeedForward and MLP."""

from __future__ import annotations

import copy
import math
import pickle
import re

import numpy as np
import pytest

from byhand import MLP, MLPConfig, gradcheck, nn
from byhand.models import mlp
from byhand.nn import activation

# Layers with the arguments of PyTorch's layer of the same name.
LAYERS = {
    "Sigmoid()": ("Sigmoid", {}),
    "Tanh()": ("Tanh", {}),
    "ReLU()": ("ReLU", {}),
    "LeakyReLU()": ("LeakyReLU", {}),
    "LeakyReLU(0.3)": ("LeakyReLU", {"negative_slope": 0.3}),
    "ELU()": ("ELU", {}),
    "ELU(0.6)": ("ELU", {"alpha": 0.6}),
    "SELU()": ("SELU", {}),
    "GELU()": ("GELU", {}),
    "GELU(tanh)": ("GELU", {"approximate": "tanh"}),
    "SiLU()": ("SiLU", {}),
    "Softplus()": ("Softplus", {}),
    "Softplus(2, 0.5)": ("Softplus", {"beta": 2.0, "threshold": 0.5}),
    "Softmax(-1)": ("Softmax", {"dim": -1}),
    "Softmax(0)": ("Softmax", {"dim": 0}),
    "Softmax(-2)": ("Softmax", {"dim": -2}),
    "Flatten()": ("Flatten", {}),
    "Flatten(0)": ("Flatten", {"start_dim": 0}),
    "Flatten(0, 1)": ("Flatten", {"start_dim": 0, "end_dim": 1}),
    "Flatten(-1, -1)": ("Flatten", {"start_dim": -1, "end_dim": -1}),
}
every = pytest.mark.parametrize(("name", "arguments"), LAYERS.values(), ids=LAYERS)
ELEMENTWISE = ("Step", "Sigmoid", "Tanh", "ReLU", "LeakyReLU", "ELU", "SELU", "SiLU", "Softplus")


def x_of(*shape: int, seed: int = 7) -> np.ndarray:
    """Numbers away from 0, where some functions have a kink, and from 1/4, where Softplus(2, 0.5)
    has its threshold.
    """
    x = np.random.default_rng(seed).standard_normal(shape)
    x = np.where(np.abs(x) < 0.05, x + 0.1, x)
    return np.where(np.abs(x - 0.25) < 0.03, x + 0.1, x)


@every
def test_gradients(name, arguments):
    for seed in range(20):
        gradcheck(getattr(nn, name)(**arguments), x_of(3, 4, 5, seed=seed))


@every
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_layer_is_pytorchs_of_the_same_name(name, arguments, dtype):
    torch = pytest.importorskip("torch")
    layer = getattr(nn, name)(**arguments)
    x, dy = x_of(3, 4, 5).astype(dtype), x_of(3, 4, 5, seed=8).astype(dtype)
    t = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    theirs = getattr(torch.nn, name)(**arguments)(t)
    theirs.backward(torch.from_numpy(dy.reshape(tuple(theirs.shape))).double())
    y = layer(x)
    dx = layer.backward(dy.reshape(y.shape))
    close = dict(rtol=1e-9, atol=1e-9) if dtype == "float64" else dict(rtol=2e-6, atol=5e-7)
    assert y.shape == tuple(theirs.shape)
    assert y.dtype == dx.dtype == dtype
    np.testing.assert_allclose(y, theirs.detach().numpy(), **close)
    np.testing.assert_allclose(dx, t.grad.numpy(), **close)


@every
def test_the_defaults_are_pytorchs(name, arguments):
    torch = pytest.importorskip("torch")
    if name == "Softmax":  # PyTorch's default depends on the number of axes
        assert nn.Softmax().dim == -1
        return
    mine, theirs = getattr(nn, name)(), getattr(torch.nn, name)()
    for option in ("negative_slope", "alpha", "beta", "threshold", "approximate", "start_dim"):
        assert getattr(mine, option, None) == getattr(theirs, option, None)


def test_step():
    layer = nn.Step()
    x = np.array([-2.0, -0.0, 0.0, 0.5, np.nan])
    np.testing.assert_array_equal(layer(x), [0, 1, 1, 1, np.nan])
    np.testing.assert_array_equal(layer.backward(x), np.zeros(5))
    gradcheck(layer, x_of(3, 4))


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (3, 0), (1,), (1, 1), (2, 3, 4, 5)])
@pytest.mark.parametrize("name", [*ELEMENTWISE, "GELU"])
def test_any_shape(name, shape):
    layer = getattr(nn, name)()
    x = np.ones(shape, np.float32) if name != "GELU" or shape else np.ones(1, np.float32)
    assert layer(x).shape == x.shape
    assert layer.backward(x).shape == x.shape


@pytest.mark.parametrize("name", [*ELEMENTWISE, "GELU", "Softmax"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_at_ten_thousand_everything_is_finite(name, dtype):
    layer = getattr(nn, name)()
    x = np.array([[-1e4, -1.0, 0.0, 1.0, 1e4]], dtype)
    with np.errstate(all="raise", under="ignore"):
        y = layer(x)
        dx = layer.backward(np.ones_like(x))
    assert np.isfinite(y).all()
    assert np.isfinite(dx).all()


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_a_nan_stays_in_its_row_of_softmax(dim):
    layer = nn.Softmax(dim)
    x = x_of(3, 4).astype(np.float32)
    clean = layer(x)
    x[1, 2] = np.nan
    bad = np.isnan(layer(x))
    expected = np.zeros((3, 4), bool)
    expected[(slice(None), 2) if dim == 0 else (1, slice(None))] = True
    assert np.array_equal(bad, expected)
    assert np.array_equal(layer(x)[~expected], clean[~expected])


@every
def test_a_layer_can_be_copied_and_pickled(name, arguments):
    layer = getattr(nn, name)(**arguments)
    x = x_of(2, 3, 4).astype(np.float32)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert np.array_equal(other(x), layer(x))
        assert repr(other) == repr(layer)


@pytest.mark.parametrize("name", [*ELEMENTWISE, "GELU", "Softmax", "Flatten"])
def test_passes_are_undone_last_in_first_out(name):
    layer = getattr(nn, name)()
    first, second = x_of(3, 4), x_of(2, 4)
    layer(first)
    layer(second)
    assert layer.backward(layer(second)).shape == (2, 4)
    assert layer.backward(second).shape == (2, 4)
    assert layer.backward(first).shape == (3, 4)
    with pytest.raises(RuntimeError, match=rf"{name}\.backward was called without a forward"):
        layer.backward(first)


def test_a_layer_shows_its_options():
    shown = [repr(nn.LeakyReLU(0.2)), repr(nn.ELU()), repr(nn.Softplus()), repr(nn.Tanh())]
    assert shown == [
        "LeakyReLU(negative_slope=0.2)",
        "ELU(alpha=1.0)",
        "Softplus(beta=1.0, threshold=20.0)",
        "Tanh",
    ]


def test_an_option_that_is_changed_counts():
    layer = nn.LeakyReLU()
    layer.negative_slope = 0.5
    assert layer(np.array([-2.0]))[0] == -1


WRONG = [
    (lambda: nn.LeakyReLU(-0.1), "LeakyReLU: negative_slope must be a number of at least 0, got"),
    (lambda: nn.ELU(math.nan), "ELU: alpha must be a number of at least 0, got nan"),
    (lambda: nn.ELU("1"), "ELU: alpha must be a number of at least 0, got '1'"),
    (lambda: nn.Softplus(0.0), "Softplus: beta must be a number greater than 0, got 0.0"),
    (lambda: nn.Softplus(threshold=math.nan), "Softplus: threshold must be a number, got nan"),
    (lambda: nn.Softmax(1.0), "Softmax: dim must be a whole number, got 1.0"),
    (lambda: nn.Softmax(np.ones(2, int)), "Softmax: dim must be a whole number, got array("),
    (lambda: nn.Flatten(True), "Flatten: start_dim must be a whole number, got True"),
    (lambda: nn.Softmax(2)(x_of(3, 4)), "Softmax: x must have an axis dim = 2, got shape (3, 4)"),
    (lambda: nn.Softmax()(x_of()), "Softmax: x must have an axis dim = -1, got shape ()"),
    (lambda: nn.Softmax()([1.0]), "Softmax: x must be an array, got list"),
    (lambda: nn.Flatten()(x_of(3)), "Flatten: x must have an axis start_dim = 1, got shape (3,)"),
    (lambda: nn.Flatten(0, -3)(x_of(3)), "Flatten: x must have an axis end_dim = -3, got shape"),
    (lambda: nn.Flatten(2, 1)(x_of(3, 4, 5)), "Flatten: start_dim = 2 comes after end_dim = 1 in"),
    (lambda: nn.Flatten()("x"), "Flatten: x must be an array, got str"),
    (lambda: nn.FeedForward(4, 8, "rleu"), "FeedForward: activation must be one of gelu, gelu_new"),
    (lambda: nn.FeedForward(4, 8, "rleu"), "got 'rleu' (did you mean relu?)"),
    (lambda: nn.FeedForward(4, 8, ["relu"]), "got ['relu']"),
    (lambda: MLPConfig(4, 2, activation="tahn"), "MLPConfig: activation must be gelu, gelu_new"),
    (lambda: MLPConfig(4, 2, activation="tahn"), "(did you mean tanh?), got 'tahn'"),
]


@pytest.mark.parametrize(("call", "sentence"), WRONG, ids=[sentence for _, sentence in WRONG])
def test_mistakes_are_named(call, sentence):
    with pytest.raises((ValueError, TypeError), match=re.escape(sentence)) as caught:
        call()
    assert "\n" not in str(caught.value)


# --- By name --------------------------------------------------------------------------------------


def twin(name: str, x):
    """PyTorch's function of this name of nn.activation."""
    import torch.nn.functional as f

    if name.startswith("gelu"):
        return f.gelu(x, approximate="none" if name == "gelu" else "tanh")
    return (x >= 0).to(x.dtype) if name == "step" else getattr(f, name)(x)


@pytest.mark.parametrize("name", activation.NAMES)
@pytest.mark.parametrize("replaced", [False, True], ids=["plain", "replaced"])
def test_the_activation_of_a_feed_forward_layer(name, replaced):
    """Also where a part is replaced, and with a residual."""
    torch = pytest.importorskip("torch")

    class Adapted(nn.Linear):
        pass

    layer = nn.FeedForward(5, 7, name)
    if replaced:
        layer.up = Adapted(5, 7)
    layer.build(3, dtype="float64")
    x, dy, add = x_of(3, 5), x_of(3, 5, seed=1), x_of(3, 5, seed=2)
    t = torch.tensor(x, requires_grad=True)
    up, down = (
        [torch.from_numpy(p.value) for p in (part.weight, part.bias)]
        for part in (layer.up, layer.down)
    )
    f = torch.nn.functional
    theirs = f.linear(twin(name, f.linear(t, *up)), *down) + torch.from_numpy(add)
    y = layer(x, add=add)
    dx = layer.backward(dy)
    np.testing.assert_allclose(y, theirs.detach().numpy(), rtol=1e-9, atol=1e-12)
    if name == "step":
        assert not dx.any()
        return
    theirs.backward(torch.from_numpy(dy))
    np.testing.assert_allclose(dx, t.grad.numpy(), rtol=1e-9, atol=1e-12)
    gradcheck(layer, x)


@pytest.mark.parametrize("name", activation.NAMES)
def test_the_activation_of_an_mlp(name):
    torch = pytest.importorskip("torch")
    model = MLP(MLPConfig(5, 3, (8, 4), activation=name)).to(dtype="float64")
    linear = [layer for layer in model.layers if isinstance(layer, nn.Linear)]
    h = torch.tensor(x_of(6, 5), requires_grad=True)
    t = h
    for i, layer in enumerate(linear):
        h = torch.nn.functional.linear(
            h, torch.from_numpy(layer.weight.value), torch.from_numpy(layer.bias.value)
        )
        h = twin(name, h) if i < 2 else h
    np.testing.assert_allclose(model(x_of(6, 5)), h.detach().numpy(), rtol=1e-9, atol=1e-12)
    dx = model.backward(x_of(6, 3))
    if name != "step":
        h.backward(torch.from_numpy(x_of(6, 3)))
        np.testing.assert_allclose(dx, t.grad.numpy(), rtol=1e-9, atol=1e-12)


def test_the_default_of_an_mlp_is_gelu():
    """Also for a configuration that was saved before there was a choice."""
    assert MLPConfig(5, 3).activation == "gelu"
    saved = MLPConfig(5, 3).to_dict()
    del saved["activation"]
    assert mlp.MLPConfig.from_dict(saved).activation == "gelu"
    assert isinstance(MLP(MLPConfig(5, 3)).layers[1], nn.GELU)
