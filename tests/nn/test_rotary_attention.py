"""MultiHeadAttention with rotary positions, norms of queries and keys, heads of any width, windows,
and biases of its own for the last layer, beside transformers' layers and in decoding.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest

from byhand import backend, gradcheck, nn, optim
from tests.hugging_face import in_float64, relative_error
from tests.nn.blocks import LoRA

DIM, HEADS, GROUPS, WIDTH = 18, 6, 2, 4  # heads wider than DIM / HEADS


def x_of(*shape: int, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def randomised(layer: nn.Module, seed: int = 0) -> nn.Module:
    layer.build(seed)
    rng = np.random.default_rng(seed)
    for p in layer.parameters():
        p.value[...] += 0.5 * rng.standard_normal(p.shape)
    return layer


def attention(**options: Any) -> nn.MultiHeadAttention:
    options = {"positions": nn.RotaryPositions(WIDTH), "causal": True, **options}
    return nn.MultiHeadAttention(DIM, HEADS, GROUPS, head_dim=WIDTH, **options)


KINDS = ("llama", "qwen2", "qwen3", "mistral")


def twins(kind: str, seed: int) -> tuple[nn.MultiHeadAttention, Any, Any, dict[str, str]]:
    """Our layer, transformers' with its rotary layer, and the names of parameters here -> there."""
    import importlib

    module = importlib.import_module(f"transformers.models.{kind}.modeling_{kind}")
    name = kind.capitalize()
    config = getattr(module, f"{name}Config")(
        hidden_size=DIM,
        num_attention_heads=HEADS,
        num_key_value_heads=GROUPS,
        head_dim=WIDTH,
        max_position_embeddings=40,
        rms_norm_eps=1e-3,
        rope_parameters={"rope_type": "default", "rope_theta": 300.0},
    )
    config._attn_implementation = "eager"
    theirs = getattr(module, f"{name}Attention")(config, layer_idx=0)
    ours = attention(
        bias=kind == "qwen2",
        project_bias=False if kind == "qwen2" else None,
        qk_norm=1e-3 if kind == "qwen3" else None,
        window=5 if kind == "mistral" else None,
        positions=nn.RotaryPositions(WIDTH, 300.0),
    )
    randomised(ours, seed).to(dtype="float64")
    names = {"project.weight": "o_proj.weight"}
    if kind == "qwen3":
        names |= {"q_norm.weight": "q_norm.weight", "k_norm.weight": "k_norm.weight"}
    return ours, theirs, getattr(module, f"{name}RotaryEmbedding")(config), names


def parts(packed: np.ndarray) -> dict[str, np.ndarray]:
    """The rows of a packed weight or bias for queries, keys and values."""
    q, k, v = np.split(packed, [HEADS * WIDTH, (HEADS + GROUPS) * WIDTH])
    return {"q_proj": q, "k_proj": k, "v_proj": v}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_those_of_transformers(kind: str, seed: int):
    pytest.importorskip("transformers")
    import torch

    B, T = 2, 11
    with in_float64():
        ours, theirs, rotary, names = twins(kind, seed)
        given = dict(theirs.named_parameters())
        mine = dict(ours.named_parameters())
        copies = {there: mine[here].value for here, there in names.items()}
        for ending in ("weight", "bias"):
            if f"qkv.{ending}" in mine:
                pieces = parts(mine[f"qkv.{ending}"].value)
                copies |= {f"{there}.{ending}": a for there, a in pieces.items()}
        assert copies.keys() == given.keys()
        with torch.no_grad():
            for there, a in copies.items():
                given[there].copy_(torch.from_numpy(a))
        x, dy = x_of(B, T, DIM, seed=seed), x_of(B, T, DIM, seed=seed + 9)
        t = torch.tensor(x, requires_grad=True)
        distance = torch.arange(T)[:, None] - torch.arange(T)
        seen = (distance >= 0) & (distance < (5 if kind == "mistral" else T))
        mask = torch.where(seen, 0.0, -torch.inf)[None, None]
        y, _ = theirs(t, position_embeddings=rotary(t, torch.arange(T)[None]), attention_mask=mask)
        y.backward(torch.from_numpy(dy))
    assert relative_error(ours(x), y.detach().numpy()) < 1e-9
    assert t.grad is not None
    assert relative_error(ours.backward(dy), t.grad.numpy()) < 1e-9
    for here, there in names.items():
        assert relative_error(mine[here].grad, given[there].grad.numpy()) < 1e-9, here
    for ending in ("weight", "bias"):
        if f"qkv.{ending}" in mine:
            for there, a in parts(mine[f"qkv.{ending}"].grad).items():
                theirs_grad = given[f"{there}.{ending}"].grad.numpy()
                # The gradient of a bias of keys is a sum of numbers that cancel.
                scale = np.abs(mine[f"qkv.{ending}"].grad).max()
                assert np.abs(a - theirs_grad).max() < 1e-9 * scale, there


@pytest.mark.parametrize("seed", range(20))
def test_gradients(seed: int):
    """Norms, partial and interleaved rotations, windows and biases in many combinations."""
    layer = attention(
        positions=nn.RotaryPositions(
            WIDTH, 50.0, rotary_dim=(2, 4)[seed % 2], interleaved=seed % 4 < 2
        ),
        qk_norm=1e-5 if seed % 3 else None,
        window=3 if seed % 5 == 0 else None,
        bias=seed % 2 == 0,
        project_bias=(None, True, False)[seed % 3],
        dropout=0.3 * (seed % 7 == 0),
    )
    report = gradcheck(randomised(layer, seed), x_of(2, 6, DIM, seed=seed), seed=seed)
    assert report.worst[1] < 1e-6


@pytest.mark.parametrize("seed", range(3))
def test_norms_of_queries_and_keys_with_a_memory(seed: int):
    layer = nn.MultiHeadAttention(DIM, HEADS, GROUPS, head_dim=WIDTH, qk_norm=1e-4, window=4)
    report = gradcheck(
        randomised(layer, seed), x_of(2, 6, DIM, seed=seed), x_of(2, 5, DIM, seed=seed + 50)
    )
    assert report.worst[1] < 1e-6
    assert "k_norm.weight" in report.errors


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", [{}, {"qk_norm": 1e-5}, {"window": 4}, {"bias": False}])
def test_decoding_with_a_cache_is_the_whole_pass(options: dict[str, Any], dtype: str):
    layer = randomised(attention(**options)).to(dtype=dtype).inference()
    x = x_of(2, 12, DIM).astype(dtype)
    whole = layer(x)
    cache = nn.KeyValueCache(2, 12, GROUPS, WIDTH, x)
    at = 0
    for size in (5, 1, 1, 3, 2):
        piece = layer(np.ascontiguousarray(x[:, at : at + size]), cache=cache)
        np.testing.assert_allclose(
            piece, whole[:, at : at + size], rtol=0, atol=1e-12 if dtype == "float64" else 1e-5
        )
        at += size
    assert cache.length == 12


@pytest.mark.parametrize("options", [{}, {"qk_norm": 1e-5, "window": 3}])
def test_float32_is_near_float64(options: dict[str, Any], native: str):
    """On every back end, values and gradients."""
    exact = randomised(attention(**options)).to(dtype="float64")
    x, dy = x_of(3, 9, DIM), x_of(3, 9, DIM, seed=8)
    expected = [exact(x), exact.backward(dy), *(p.grad for p in exact.parameters())]
    with backend.use_cpu(native):
        layer = randomised(attention(**options))
        found = [layer(x.astype(np.float32)), layer.backward(dy.astype(np.float32))]
        found += [p.grad for p in layer.parameters()]
    for a, b in zip(found, expected, strict=True):
        assert np.abs(a - b).max() < 1e-5 * max(1, np.abs(b).max())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_other_rows_and_padding_move_no_bit(dtype: str):
    layer = randomised(attention(qk_norm=1e-5)).to(dtype=dtype).inference()
    x = x_of(3, 9, DIM).astype(dtype)
    lengths = np.array([9, 4, 7])
    before = layer(x, lengths=lengths)
    changed = x.copy()
    changed[0] += 1
    changed[1, 4:] = np.nan
    after = layer(changed, lengths=lengths)
    assert after[1, :4].tobytes() == before[1, :4].tobytes()
    assert after[2].tobytes() == before[2].tobytes()
    assert not np.array_equal(after[0], before[0])


@pytest.mark.parametrize("frozen", ["qkv.*", "*_norm.*", "*"])
def test_frozen_parameters(frozen: str):
    """They get no gradient, and the others, and x, the same as before."""
    layer, half = (randomised(attention(qk_norm=1e-5)) for _ in range(2))
    half.freeze(frozen)
    x, dy = (x_of(2, 5, DIM, seed=s).astype(np.float32) for s in (1, 2))
    for one in (layer, half):
        one(x)
    assert layer.backward(dy).tobytes() == half.backward(dy).tobytes()
    for (name, p), q in zip(layer.named_parameters(), half.parameters(), strict=True):
        if q.trainable:
            assert q.grad.tobytes() == p.grad.tobytes(), name
        else:
            assert q.grad is None


def test_ten_steps_of_an_optimizer_lower_the_loss():
    layer = randomised(attention(qk_norm=1e-5))
    x, target = (x_of(2, 6, DIM, seed=s).astype(np.float32) for s in (1, 2))
    criterion, optimizer = nn.MSELoss(), optim.AdamW(layer, lr=1e-2)
    losses = []
    for _ in range(10):
        layer.zero_grad()
        losses.append(float(criterion(layer(x), target)))
        layer.backward(criterion.backward())
        optimizer.step()
    assert all(b < a for a, b in itertools.pairwise(losses))


@pytest.mark.parametrize("options", [{}, {"qk_norm": 1e-5}, {"window": 3}])
def test_packed_sequences_are_separate_ones(options: dict[str, Any]):
    """Rotations depend on distances only, so that the positions of a packed row may go on."""
    layer = randomised(attention(**options)).to(dtype="float64")
    lengths = (4, 1, 6)
    x, dy = x_of(1, sum(lengths), DIM), x_of(1, sum(lengths), DIM, seed=8)
    y = layer(x, sequences=np.repeat(np.arange(3), lengths)[None])
    dx = layer.backward(dy)
    packed = [p.grad.copy() for p in layer.parameters()]
    layer.zero_grad()
    at = 0
    for length in lengths:
        part = slice(at, at + length)
        np.testing.assert_allclose(y[:, part], layer(x[:, part].copy()), rtol=0, atol=1e-12)
        np.testing.assert_allclose(
            dx[:, part], layer.backward(dy[:, part].copy()), rtol=0, atol=1e-12
        )
        at += length
    for p, grad in zip(layer.parameters(), packed, strict=True):
        np.testing.assert_allclose(p.grad, grad, rtol=0, atol=1e-11)


def test_a_layer_in_the_place_of_qkv_keeps_its_result():
    """Its result is not overwritten: such a layer may have kept it for its backward pass."""

    class Kept(nn.Module):
        def __init__(self, inner: nn.Module):
            self.inner = inner

        def forward(self, x: np.ndarray, again: Any = None) -> np.ndarray:
            y = np.tanh(self.inner(x))
            self.push(y)
            return y

        def backward(self, dy: np.ndarray) -> np.ndarray:
            return self.inner.backward(dy * (1 - self.pop() ** 2))

    layer = attention()
    layer.qkv = Kept(layer.qkv)  # type: ignore[assignment]
    gradcheck(randomised(layer), x_of(2, 5, DIM))
    layer = attention(qk_norm=1e-5)
    layer.qkv = LoRA(layer.qkv)  # type: ignore[assignment]
    gradcheck(randomised(layer), x_of(2, 5, DIM))


def test_one_rotation_for_several_layers():
    class Two(nn.Module):
        def __init__(self) -> None:
            rotation = nn.RotaryPositions(WIDTH)
            self.layers = [attention(positions=rotation) for _ in range(2)]

        def forward(self, x: np.ndarray) -> np.ndarray:
            for layer in self.layers:
                x = layer(x, add=x)
            return x

        def backward(self, dy: np.ndarray) -> np.ndarray:
            for layer in reversed(self.layers):
                dy = layer.backward(dy) + dy
            return dy

    model = randomised(Two())
    assert gradcheck(model, x_of(2, 5, DIM)).worst[1] < 1e-6
    rotations = [m for _, m in model.named_modules() if isinstance(m, nn.RotaryPositions)]
    assert len(rotations) == 1
    assert not any("positions" in name for name in model.state_dict())


def test_the_sizes_of_the_layers():
    layer = nn.MultiHeadAttention(10, 3, 1, head_dim=8, qk_norm=1e-6, project_bias=False).build()
    shapes = {name: p.shape for name, p in layer.named_parameters()}
    assert shapes == {
        "qkv.weight": (40, 10),
        "qkv.bias": (40,),
        "q_norm.weight": (8,),
        "k_norm.weight": (8,),
        "project.weight": (10, 24),
    }
    assert layer(np.ones((2, 3, 10), np.float32)).shape == (2, 3, 10)
    assert layer.flops((2, 3, 10))[0] == 4 * 2 * 3 * 3 * 24


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"positions": nn.RotaryPositions(6)},
            ValueError,
            "positions are for heads of 6, and the heads have 4",
        ),
        ({"positions": "rotary"}, TypeError, "positions must be a RotaryPositions or None, got 'r"),
        ({"window": 0}, ValueError, "window must be at least 1, got 0"),
        ({"window": 1.5}, TypeError, "window must be a whole number, got 1.5"),
        ({"head_dim": -1}, ValueError, "head_dim must be at least 0, got -1"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: dict[str, Any], error: type[Exception], message: str
):
    with pytest.raises(error, match=re.escape(f"MultiHeadAttention: {message}")):
        nn.MultiHeadAttention(8, 2, **options)


def test_positions_are_for_self_attention():
    layer = attention(causal=False).build()
    x = x_of(1, 3, DIM).astype(np.float32)
    with pytest.raises(ValueError, match="positions are for self-attention, not for a memory"):
        layer(x, x)
    layer(x)
