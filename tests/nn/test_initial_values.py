"""Every parameter of every layer starts with the distribution that its documentation names."""

from __future__ import annotations

import math

import numpy as np
import pytest

from byhand import GPT, MLP, GPTConfig, MLPConfig, nn
from byhand.nn import init
from byhand.nn.parameter import Buffer

GIVEN = init.Normal(0.3)  # unlike any default


def assert_uniform(values: np.ndarray, bound: float) -> None:
    """Uniform over ±bound: the extremes, the mean, the deviation, and a quarter in each quarter."""
    n = values.size
    assert np.abs(values).max() <= bound
    assert np.abs(values).max() > bound * (1 - 20 / n)
    assert values.std() == pytest.approx(bound / math.sqrt(3), rel=5 / math.sqrt(n))
    assert abs(values.mean()) < 5 * bound / math.sqrt(3 * n)
    shares = np.histogram(values, 4, (-bound, bound))[0] / n
    assert np.abs(shares - 0.25).max() < 3 / math.sqrt(n)


def assert_normal(values: np.ndarray, std: float) -> None:
    """Normal(0, std²): the mean, the deviation, and the shares within one and two deviations."""
    n = values.size
    assert values.std() == pytest.approx(std, rel=4 / math.sqrt(n))
    assert abs(values.mean()) < 5 * std / math.sqrt(n)
    for deviations, share in ((1, 0.6827), (2, 0.9545)):
        assert abs((np.abs(values) < deviations * std).mean() - share) < 3 / math.sqrt(n)


def values_of(module: nn.Module, path: str) -> np.ndarray:
    return np.asarray(dict(module.named_parameters())[path].value)


# Each layer with different sizes, the paths of its parameters, and the bound of each: the inputs of
# a linear layer decide it, not its outputs.
UNIFORM = [
    (lambda: nn.Linear(30, 70), {"weight": 30, "bias": 30}),
    (lambda: nn.Linear(70, 30), {"weight": 70, "bias": 70}),
    (lambda: nn.FeedForward(30, 80), {"up.weight": 30, "up.bias": 30, "down.weight": 80,
                                      "down.bias": 80}),
    (lambda: nn.MultiHeadAttention(40, 4), {"qkv.weight": 40, "qkv.bias": 40, "project.weight": 40,
                                            "project.bias": 40}),
    (lambda: nn.MultiHeadAttention(48, 4, 2), {"qkv.weight": 48, "project.weight": 48}),
    (lambda: MLP(MLPConfig(30, 20, (50,))), {"layers.0.weight": 30, "layers.0.bias": 30,
                                             "layers.3.weight": 50, "layers.3.bias": 50}),
]  # fmt: skip


@pytest.mark.parametrize(("make", "fans"), UNIFORM)
def test_linear_layers_start_uniform_by_their_inputs(make, fans):
    layer = make().build(seed=3)
    for path, fan_in in fans.items():
        values = values_of(layer, path)
        assert_uniform(values.reshape(-1), 1 / math.sqrt(fan_in))


@pytest.mark.parametrize(
    ("make", "weights", "biases"),
    [
        (
            lambda: nn.Linear(40, 50, weight_init=GIVEN, bias_init=init.Constant(0.7)),
            ["weight"],
            ["bias"],
        ),
        (lambda: nn.Embedding(50, 40, weight_init=GIVEN), ["weight"], []),
        (
            lambda: nn.FeedForward(
                30, 60, up_init=GIVEN, down_init=GIVEN, bias_init=init.Constant(0.7)
            ),
            ["up.weight", "down.weight"],
            ["up.bias", "down.bias"],
        ),
        (
            lambda: nn.MultiHeadAttention(
                40, 4, weight_init=GIVEN, project_init=GIVEN, bias_init=init.Constant(0.7)
            ),
            ["qkv.weight", "project.weight"],
            ["qkv.bias", "project.bias"],
        ),
    ],
)
def test_an_initialiser_that_is_given_is_used(make, weights, biases):
    layer = make().build(seed=3)
    assert sorted(weights + biases) == sorted(name for name, _ in layer.named_parameters())
    for path in weights:
        assert_normal(values_of(layer, path).reshape(-1), 0.3)
    for path in biases:
        assert (values_of(layer, path) == np.float32(0.7)).all()


@pytest.mark.parametrize("changed", ["up_init", "down_init"])
def test_each_initialiser_of_a_feed_forward_layer_is_about_its_own_matrix(changed):
    layer = nn.FeedForward(30, 60, **{changed: GIVEN}).build(seed=3)
    for name, fan_in in (("up", 30), ("down", 60)):
        values = values_of(layer, f"{name}.weight").reshape(-1)
        if changed == f"{name}_init":
            assert_normal(values, 0.3)
        else:
            assert_uniform(values, 1 / math.sqrt(fan_in))


@pytest.mark.parametrize("changed", ["weight_init", "project_init"])
def test_each_initialiser_of_attention_is_about_its_own_matrix(changed):
    layer = nn.MultiHeadAttention(40, 4, **{changed: GIVEN}).build(seed=3)
    for name, option in (("qkv", "weight_init"), ("project", "project_init")):
        values = values_of(layer, f"{name}.weight").reshape(-1)
        if changed == option:
            assert_normal(values, 0.3)
        else:
            assert_uniform(values, 1 / math.sqrt(40))


def test_embeddings_start_normal():
    assert_normal(nn.Embedding(50, 60).build(seed=3).weight.value.reshape(-1), 1.0)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_norms_start_as_the_identity(norm):
    layer = norm(7).build(seed=3)
    assert (layer.weight.value == 1).all()
    if norm is nn.LayerNorm:
        assert (layer.bias.value == 0).all()
    assert layer.eps == 1e-5


@pytest.mark.parametrize("num_layers", [1, 2, 8])
@pytest.mark.parametrize("tie_weights", [True, False])
def test_a_gpt_starts_as_gpt_2_does(num_layers, tie_weights):
    """Radford et al., 2019, section 2.3: 0.02, divided by sqrt(2 layers) where the residual stream
    is written.
    """
    model = GPT(GPTConfig(150, 120, 48, 4, num_layers, tie_weights=tie_weights), seed=3)
    seen = set()
    for name, p in model.named_parameters():
        values, kind = p.value.reshape(-1), ".".join(name.split(".")[-2:])
        if kind.endswith("bias"):
            assert not values.any(), name
        elif "norm" in kind:
            assert (values == 1).all(), name
        else:
            narrow = kind in ("project.weight", "down.weight")
            assert_normal(values, 0.02 / math.sqrt(2 * num_layers) if narrow else 0.02)
        seen.add(kind)
    expected = {"tokens.weight", "positions.weight", "qkv.weight", "project.weight", "up.weight"}
    assert expected | {"down.weight"} <= seen
    assert ("head.weight" in seen) == (not tie_weights)


def test_every_parameter_and_buffer_is_drawn_from_the_seed_and_its_path():
    class Table(nn.Module):
        def __init__(self):
            self.layers = nn.Sequential(nn.Linear(3, 4), nn.Embedding(4, 3), nn.FeedForward(3, 4))
            self.table = Buffer((5,), init.Normal(1.0))

    def state(seed: int) -> dict[str, np.ndarray]:
        return {name: value.copy() for name, value in Table().build(seed).state_dict().items()}

    one, same, other = state(5), state(5), state(6)
    for name, value in one.items():
        assert np.array_equal(value, same[name]), name
        assert not np.array_equal(value, other[name]), name
    assert not np.array_equal(one["layers.0.bias"], one["layers.2.up.bias"])


@pytest.mark.parametrize("model", [GPT, MLP])
def test_the_seed_of_a_model_reaches_its_weights_and_its_masks(model):
    config = GPTConfig(7, 5, 4, 2, 1) if model is GPT else MLPConfig(4, 3)
    zero, default, other = model(config, seed=0), model(config), model(config, seed=9)
    assert np.array_equal(zero.storage.values, default.storage.values)
    assert not np.array_equal(zero.storage.values, other.storage.values)
    assert zero.generator.next() == (0, 0)
    assert other.generator.next() == (9, 0)
    assert other.generator.next() == (9, 1)


def test_building_again_keeps_the_values_and_takes_the_seed_for_masks():
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5)).build(1)
    before = model[0].weight.value.copy()
    model.build(seed=2)
    assert np.array_equal(model[0].weight.value, before)
    assert model.generator.seed == 2


@pytest.mark.parametrize("seed", [1.5, "a", None, True, np.random.default_rng(0)])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(TypeError, match=r"^GPT\.build: seed must be a whole number, got"):
        GPT(GPTConfig(7, 5, 4, 2, 1), seed=seed)


@pytest.mark.parametrize("draw", [True, False])
def test_a_seed_is_not_negative(draw):
    with pytest.raises(ValueError, match=r"^GPT\.build: seed must be at least 0, got -1$"):
        GPT(GPTConfig(7, 5, 4, 2, 1), seed=-1, draw=draw)
