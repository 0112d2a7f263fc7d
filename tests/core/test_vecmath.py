"""The elementary functions of csrc/simd/vecmath.h stay within the error bounds stated there."""

from __future__ import annotations

import math

import numpy as np
import pytest

from byhand import backend

erfc = np.vectorize(math.erfc, otypes=[np.float64])


def gelu_tanh(x):  # x times a logistic function: the tanh form without its cancellation
    return x * _logistic(x)


def gelu_tanh_derivative(x):
    p = _logistic(x)
    slope = 2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
    return p + x * p * (1 - p) * slope


def _logistic(x):
    return 1 / (1 + np.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu_erf(x):
    return x * erfc(-x / math.sqrt(2)) / 2


def gelu_erf_derivative(x):
    return erfc(-x / math.sqrt(2)) / 2 + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def sigmoid(x):
    return np.exp(-softplus(-x))


def silu_derivative(x):
    return sigmoid(x) * (1 + x * sigmoid(-x))


def softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


# In the order of the table in csrc/simd/vecmath_probe.cpp.
FUNCTIONS = [
    np.exp,
    np.log,
    np.tanh,
    np.exp,
    gelu_tanh,
    gelu_erf,
    gelu_tanh_derivative,
    gelu_erf_derivative,
    np.exp,
    sigmoid,
    lambda x: x * sigmoid(x),
    silu_derivative,
    np.expm1,
    softplus,
]
EXP, LOG, TANH, EXP_NORMAL, GELU_TANH, GELU_ERF = range(6)
GELU_TANH_DERIVATIVE, GELU_ERF_DERIVATIVE, EXP_SCORE = range(6, 9)
SIGMOID, SILU, SILU_DERIVATIVE, EXPM1_NEGATIVE, SOFTPLUS = range(9, 14)


@pytest.fixture(params=list(backend.cpu_modules()))
def probe(request):
    kernel = backend.cpu_modules()[request.param].vecmath_probe

    def call(function: int, x) -> np.ndarray:
        x = np.ascontiguousarray(x, dtype=np.float32)
        y = np.full_like(x, np.nan)
        kernel(y, x, function)
        return y

    call.backend = request.param
    return call


def ulps(y: np.ndarray, exact: np.ndarray) -> np.ndarray:
    return np.abs(y - exact) / np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)


def inputs(function: int) -> np.ndarray:
    rng = np.random.default_rng(function)
    if function == EXP:
        x = [np.linspace(-103.9, 88.7, 60_001), rng.standard_normal(20_000)]
    elif function == EXP_NORMAL:
        x = [np.linspace(-87, 88, 60_001), rng.standard_normal(20_000)]
    elif function == LOG:
        x = [np.exp(np.linspace(-103, 88, 60_001)), np.linspace(0.5, 2, 20_001)]
    elif function in (SIGMOID, SILU, SOFTPLUS):
        x = [np.linspace(-87, 104, 60_001), np.linspace(-20, 20, 60_001)]
        x.append(np.exp(np.linspace(-80, 0, 10_000)))
    elif function == EXPM1_NEGATIVE:
        x = [-np.linspace(0, 104, 60_001), -np.linspace(0, 3, 60_001)]
        x.append(-np.exp(np.linspace(-87, 0, 10_000)))
    else:
        tiny = np.exp(np.linspace(-80, 2.4, 10_000))
        x = [np.linspace(-12, 12, 40_001), rng.standard_normal(20_000), tiny, -tiny]
    return np.concatenate(x).astype(np.float32)


@pytest.mark.parametrize(
    ("function", "bound"),
    [
        (EXP, 2),
        (LOG, 2),
        (TANH, 3),
        (EXP_NORMAL, 2),
        (SIGMOID, 3),
        (SILU, 3),
        (EXPM1_NEGATIVE, 2),
        (SOFTPLUS, 2),
    ],
    ids=["exp", "log", "tanh", "exp_normal", "sigmoid", "silu", "expm1", "softplus"],
)
def test_error_in_units_in_the_last_place(probe, function, bound):
    x = inputs(function)
    error = ulps(probe(function, x), FUNCTIONS[function](x.astype(np.float64)))
    assert error.max() <= bound, f"{error.max():.2f} at {x[error.argmax()]}"


def test_exp_score_is_precise_where_it_matters(probe):
    x = inputs(EXP)
    x = x[(x >= -87) & (x < 88)]
    error = ulps(probe(EXP_SCORE, x), np.exp(x.astype(np.float64)))
    near, far = (
        (10, 70) if probe.backend == "cpu_base" else (3, 6)
    )  # base has no fused multiply-add
    assert error[np.abs(x) < 16].max() <= near
    assert error.max() <= far
    special = probe(EXP_SCORE, [0, -np.inf, np.nan, -1e30])
    assert special[:2].tolist() == [1, 0]
    assert np.isnan(special[2])
    assert special[3] == 0


@pytest.mark.parametrize("function", [GELU_TANH, GELU_ERF], ids=["tanh", "erf"])
def test_gelu_is_precise_where_it_matters(probe, function):
    x = inputs(function)
    x = x[np.abs(x) <= 2]
    error = ulps(probe(function, x), FUNCTIONS[function](x.astype(np.float64)))
    assert error.max() <= 8, f"{error.max():.2f} at {x[error.argmax()]}"


@pytest.mark.parametrize(
    "function",
    [GELU_TANH, GELU_ERF, GELU_TANH_DERIVATIVE, GELU_ERF_DERIVATIVE, SILU_DERIVATIVE],
    ids=["tanh", "erf", "tanh-derivative", "erf-derivative", "silu-derivative"],
)
def test_absolute_error(probe, function):
    x = inputs(function)
    error = np.abs(probe(function, x) - FUNCTIONS[function](x.astype(np.float64)))
    assert (error <= 4 * 2.0**-23 * np.maximum(1, np.abs(x))).all()


@pytest.mark.parametrize(
    ("function", "x", "expected"),
    [
        (EXP, [-np.inf, np.inf, np.nan, 0, 89, -104], [0, np.inf, np.nan, 1, np.inf, 0]),
        (LOG, [-1, 0, np.inf, np.nan, 1, -np.inf], [np.nan, -np.inf, np.inf, np.nan, 0, np.nan]),
        (TANH, [-np.inf, np.inf, np.nan, 0, 1e30], [-1, 1, np.nan, 0, 1]),
        (EXP_NORMAL, [-np.inf, np.inf, np.nan, 0, 89, -104], [0, np.inf, np.nan, 1, np.inf, 0]),
        (GELU_TANH, [1e30, -1e30, np.nan, 0, np.inf, -np.inf], [1e30, 0, np.nan, 0, np.inf, 0]),
        (GELU_ERF, [1e30, -1e30, np.nan, 0, np.inf, -np.inf], [1e30, 0, np.nan, 0, np.inf, 0]),
        (
            GELU_TANH_DERIVATIVE,
            [1e30, -1e30, np.nan, 0, np.inf, -np.inf],
            [1, 0, np.nan, 0.5, 1, 0],
        ),
        (GELU_ERF_DERIVATIVE, [1e30, -1e30, np.nan, 0, np.inf, -np.inf], [1, 0, np.nan, 0.5, 1, 0]),
        (SIGMOID, [1e30, -1e30, np.nan, 0, np.inf, -np.inf], [1, 0, np.nan, 0.5, 1, 0]),
        (SILU, [1e30, -1e30, np.nan, 0, np.inf], [1e30, 0, np.nan, 0, np.inf]),
        (SILU_DERIVATIVE, [1e30, -1e30, np.nan, 0, np.inf, -np.inf], [1, 0, np.nan, 0.5, 1, 0]),
        (EXPM1_NEGATIVE, [-1e30, -np.inf, np.nan, 0, -1e-40], [-1, -1, np.nan, 0, -1e-40]),
        (SOFTPLUS, [1e30, -1e30, np.nan, np.inf, -np.inf], [1e30, 0, np.nan, np.inf, 0]),
    ],
)
def test_special_values(probe, function, x, expected):
    expected = np.array(expected, np.float32)
    np.testing.assert_allclose(probe(function, x), expected, rtol=0, atol=1e-20)


@pytest.mark.parametrize("size", [0, 1, 3, 15, 16, 17, 33])
def test_every_size_and_alignment(probe, size):
    whole = np.linspace(-3, 3, 40, dtype=np.float32)
    all_at_once = probe(TANH, whole)
    for start in range(5):
        x = whole[start : start + size]
        np.testing.assert_array_equal(probe(TANH, x), all_at_once[start : start + size])


def test_underflow_is_gradual(probe):
    x = np.linspace(-103.5, -87.4, 1000, dtype=np.float32)
    y = probe(EXP, x)
    assert (y > 0).all()
    assert (np.diff(y) >= 0).all()


@pytest.mark.parametrize("function", [EXP_NORMAL, EXP_SCORE], ids=["exp_normal", "exp_score"])
def test_underflow_to_zero(probe, function):
    x = np.linspace(-104, -86, 2001, dtype=np.float32)
    exact, y = np.exp(x.astype(np.float64)), probe(function, x)
    zero = exact < 2.0**-126.5 * (1 - 1e-5)
    assert (y[zero] == 0).all()
    assert (y[exact > 2.0**-126.5 * (1 + 1e-5)] > 0).all()
    np.testing.assert_allclose(y[~zero], exact[~zero], rtol=2e-5)
    assert (np.diff(y) >= 0).all()


def test_unknown_function(probe):
    with pytest.raises(ValueError, match="no such function"):
        probe(len(FUNCTIONS), np.zeros(3))
