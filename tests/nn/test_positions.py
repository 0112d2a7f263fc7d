"""Rotary, sinusoidal and learned positions, beside transformers and the papers' formulas."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import numpy as np
import pytest

from byhand import gradcheck, nn
from byhand.nn.positions import sinusoids
from tests.hugging_face import in_float64, relative_error

CONTEXT = 24
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 40,
}
SCALINGS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 2.5},
    "dynamic": {"rope_type": "dynamic", "factor": 3.0},
    "llama3": LLAMA3,
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    "yarn, not truncated": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "truncate": False,
        "beta_fast": 5.0,
        "beta_slow": 0.5,
    },
    "yarn, attention": {
        "rope_type": "yarn",
        "factor": 2.0,
        "original_max_position_embeddings": 500,
        "attention_factor": 1.25,
    },
    "yarn, two scales": {
        "rope_type": "yarn",
        "factor": 16.0,
        "original_max_position_embeddings": 100,
        "mscale": 0.7,
        "mscale_all_dim": 0.3,
    },
}


def x_of(*shape: int, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def theirs(head_dim: int, scaling: dict[str, Any] | None, base: float, length: int) -> Any:
    """Their cosines and sines (length, head_dim) in float64."""
    import torch
    from transformers.models.llama.modeling_llama import LlamaConfig, LlamaRotaryEmbedding

    with in_float64():
        config = LlamaConfig(
            hidden_size=3 * head_dim,
            num_attention_heads=3,
            head_dim=head_dim,
            max_position_embeddings=CONTEXT,
            rope_parameters={"rope_type": "default", **(scaling or {}), "rope_theta": base},
        )
        layer = LlamaRotaryEmbedding(config)
        return layer(torch.zeros(1), torch.arange(length)[None])


# --- Rotary positions -------------------------------------------------------------------------


@pytest.mark.parametrize("length", [9, CONTEXT, 60])
@pytest.mark.parametrize("base", [10000.0, 500.0])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_rotations_are_those_of_llama(scaling: str, base: float, length: int):
    pytest.importorskip("transformers")
    import torch
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    cos, sin = theirs(12, SCALINGS[scaling], base, length)
    layer = nn.RotaryPositions(12, base, SCALINGS[scaling], context=CONTEXT)
    ours = layer.tables(length)
    assert relative_error(ours[0], cos[0, :, :6].numpy()) < 1e-12
    assert relative_error(ours[1], sin[0, :, :6].numpy()) < 1e-12
    x, dy = x_of(2, length, 3, 12), x_of(2, length, 3, 12, seed=8)
    t = torch.tensor(x, requires_grad=True)
    turned, _ = apply_rotary_pos_emb(t, t, cos, sin, unsqueeze_dim=2)
    turned.backward(torch.from_numpy(dy))
    assert relative_error(layer(x), turned.detach().numpy()) < 1e-9
    assert t.grad is not None
    assert relative_error(layer.backward(dy), t.grad.numpy()) < 1e-9


@pytest.mark.parametrize("factor", [0.25, 0.5, 1.0])
def test_partial_rotations_are_those_of_gpt_neox(factor: float):
    pytest.importorskip("transformers")
    import torch
    from transformers.models.gpt_neox import modeling_gpt_neox as neox

    with in_float64():
        config = neox.GPTNeoXConfig(
            hidden_size=32,
            num_attention_heads=2,
            max_position_embeddings=CONTEXT,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": factor,
            },
        )
        x = x_of(2, 11, 2, 16)
        t = torch.tensor(x, requires_grad=True)
        positions = torch.tensor([[*range(11)], [*range(4, 15)]])
        cos, sin = neox.GPTNeoXRotaryEmbedding(config)(t, positions)
        turned, _ = neox.apply_rotary_pos_emb(t, t, cos, sin, unsqueeze_dim=2)
    dy = x_of(2, 11, 2, 16, seed=8)
    turned.backward(torch.from_numpy(dy))
    for layer in (
        nn.RotaryPositions(16, partial_rotary_factor=factor),
        nn.RotaryPositions(16, rotary_dim=int(16 * factor)),
    ):
        assert relative_error(layer(x, positions.numpy()), turned.detach().numpy()) < 1e-9
        assert relative_error(layer.backward(dy), t.grad.numpy()) < 1e-9


def test_interleaved_rotations_are_those_of_gpt_j():
    pytest.importorskip("transformers")
    import torch
    from transformers.models.gptj import modeling_gptj as gptj

    with in_float64():
        both = gptj.create_sinusoidal_positions(20, 8)[None, 3:16]
        sin, cos = torch.split(both, 4, dim=-1)
        x = x_of(2, 13, 3, 12)
        t = torch.from_numpy(x)
        turned = torch.cat(
            (gptj.apply_rotary_pos_emb(t[..., :8], sin, cos), t[..., 8:]), dim=-1
        ).numpy()
    layer = nn.RotaryPositions(12, rotary_dim=8, interleaved=True)
    assert relative_error(layer(x, start=3), turned) < 1e-9


@pytest.mark.parametrize("seed", range(20))
def test_gradients_of_rotations(seed: int):
    layer = nn.RotaryPositions(
        6,
        100.0,
        rotary_dim=(2, 4, 6)[seed % 3],
        interleaved=seed % 2 == 0,
        scaling={"rope_type": "yarn", "factor": 2.0} if seed % 5 == 0 else None,
        context=CONTEXT,
    )
    layer.build(seed)
    report = gradcheck(layer, x_of(2, 5, 3, 6, seed=seed), seed=seed)
    assert report.worst[1] < 1e-6


@pytest.mark.parametrize("scaling", ["none", "linear", "llama3", "yarn"])
def test_tables_grow_and_keep_their_bits(scaling: str):
    """What is asked for in pieces, at any time, is what a large table holds."""
    whole = nn.RotaryPositions(8, scaling=SCALINGS[scaling], context=300)
    grown = nn.RotaryPositions(8, scaling=SCALINGS[scaling])
    x = x_of(1, 300, 2, 8).astype(np.float32)
    expected = whole(x)
    start = 0
    for size in (1, 1, 7, 90, 1, 200):
        piece = grown(x[:, start : start + size], start=start)
        assert piece.tobytes() == expected[:, start : start + size].tobytes()
        start += size
    rows = np.random.default_rng(0).permutation(300)[None]
    shuffled = grown(np.ascontiguousarray(x[:, rows[0]]), rows)
    assert shuffled.tobytes() == expected[:, rows[0]].tobytes()


def test_dynamic_scaling_depends_on_the_length():
    """Up to the context there is none, and back there none again."""
    scaled = nn.RotaryPositions(8, scaling=SCALINGS["dynamic"], context=CONTEXT)
    plain = nn.RotaryPositions(8)
    x = x_of(1, 40, 2, 8)
    assert np.array_equal(scaled(x[:, :CONTEXT]), plain(x[:, :CONTEXT]))
    assert not np.allclose(scaled(x)[:, 1:CONTEXT], plain(x)[:, 1:CONTEXT])
    assert np.array_equal(scaled(x[:, :CONTEXT]), plain(x[:, :CONTEXT]))
    last = scaled(x[:, 30:], start=30)
    assert np.array_equal(last, scaled(x)[:, 30:])


def test_positions_of_packed_rows_may_be_changed_after_the_call():
    layer = nn.RotaryPositions(4)
    x, positions = x_of(1, 3, 1, 4), np.array([[0, 1, 0]])
    layer(x, positions)
    expected = layer.backward(x)
    layer(x, positions)
    positions[...] = 2
    assert np.array_equal(layer.backward(x), expected)


def test_a_rotation_in_place():
    layer = nn.RotaryPositions(6, rotary_dim=4)
    packed = x_of(2, 5, 7, 6).astype(np.float32)
    before = packed.copy()
    assert layer(packed[:, :, 1:4], out=packed[:, :, 1:4]).base is packed
    assert np.array_equal(packed[:, :, 1:4], layer(before[:, :, 1:4]))
    layer.backward(np.zeros((2, 5, 3, 6), np.float32))
    assert np.array_equal(packed[:, :, [0, 4, 5, 6]], before[:, :, [0, 4, 5, 6]])
    layer.backward(packed[:, :, 1:4], out=packed[:, :, 1:4])
    np.testing.assert_allclose(packed, before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.RotaryPositions(8, 500.0, LLAMA3, rotary_dim=6, context=9),
        lambda: nn.SinusoidalPositions(8),
        lambda: nn.LearnedPositions(9, 8),
    ],
)
def test_copies_compute_the_same(layer: Any):
    made = layer().build()
    x = x_of(2, 5, 8).astype(np.float32)
    x = x[:, :, None] if isinstance(made, nn.RotaryPositions) else x
    expected = made(x)
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert other(x).tobytes() == expected.tobytes()
        assert other.to(dtype="float64")(x.astype(np.float64)).dtype == np.float64
    assert "_tables" not in str(made.state_dict())


NAME = "RotaryPositions: "


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(head_dim=7), "head_dim must be even, got 7"),
        (dict(head_dim=8, rotary_dim=3), "rotary_dim must be even, got 3"),
        (dict(head_dim=8, rotary_dim=10), "rotary_dim must be at most head_dim, got 10 and 8"),
        (
            dict(head_dim=12, partial_rotary_factor=0.25),
            "head_dim * partial_rotary_factor must be even, got 3",
        ),
        (
            dict(head_dim=8, partial_rotary_factor=1.5),
            "partial_rotary_factor must be in 0..1, got 1.5",
        ),
        (
            dict(head_dim=8, partial_rotary_factor=0.5, rotary_dim=4),
            "give rotary_dim or partial_rotary_factor, not both",
        ),
        (dict(head_dim=8, base=1.0), "base must be a number greater than 1, got 1.0"),
        (dict(head_dim=8, context=0), "context must be at least 1, got 0"),
        (
            dict(head_dim=8, scaling={"rope_type": "lama3"}),
            "the rope_type of scaling must be one of 'default', 'linear', 'dynamic', 'llama3', "
            "'yarn', got 'lama3' (did you mean llama3?)",
        ),
        (
            dict(head_dim=8, scaling={"factor": 2.0}),
            "the rope_type of scaling must be one of 'default', 'linear', 'dynamic', 'llama3', "
            "'yarn', got None",
        ),
        (
            dict(head_dim=8, scaling={"type": "linear", "facto": 2.0}),
            "'linear' scaling has no field 'facto' (did you mean factor?)",
        ),
        (
            dict(head_dim=8, scaling={"type": "linear"}),
            "'linear' scaling needs the field 'factor'",
        ),
        (
            dict(head_dim=8, scaling={"type": "linear", "factor": 0.5}),
            "scaling['factor'] must be a number of at least 1, got 0.5",
        ),
        (
            dict(head_dim=8, scaling={"type": "dynamic", "factor": 2}),
            "'dynamic' scaling needs context, the length that the model was trained with",
        ),
        (
            dict(head_dim=2, context=3, scaling={"type": "dynamic", "factor": 2}),
            "'dynamic' scaling needs a rotary_dim of at least 4, got 2",
        ),
        (
            dict(head_dim=8, scaling={"type": "yarn", "factor": 2}),
            "'yarn' scaling needs the field 'original_max_position_embeddings', or context",
        ),
        (
            dict(head_dim=8, scaling={**LLAMA3, "original_max_position_embeddings": 0}),
            "scaling['original_max_position_embeddings'] must be at least 1, got 0",
        ),
        (
            dict(head_dim=8, scaling={**LLAMA3, "low_freq_factor": 4.0}),
            "low_freq_factor must be less than high_freq_factor, got 4.0 and 4.0",
        ),
        (
            dict(head_dim=8, context=9, scaling={"type": "yarn", "factor": 2, "beta_fast": 0.5}),
            "beta_slow must be at most beta_fast, got 1 and 0.5",
        ),
        (
            dict(head_dim=8, context=9, scaling={"type": "yarn", "factor": 2, "truncate": 1}),
            "scaling['truncate'] must be True or False, got 1",
        ),
    ],
)
def test_what_is_no_rotation_is_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=f"^{re.escape(NAME + message)}$"):
        nn.RotaryPositions(**arguments)


def test_a_scaling_is_a_dict():
    with pytest.raises(TypeError, match=r"scaling must be a dict such as .*, got 'linear'$"):
        nn.RotaryPositions(8, scaling="linear")  # type: ignore[arg-type]
    scaling = {"rope_type": "linear", "factor": 2.0}
    layer = nn.RotaryPositions(8, scaling=scaling)
    scaling["factor"] = 3.0
    assert layer.scaling == {"rope_type": "linear", "factor": 2.0}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda layer: layer(x_of(2, 3, 4)), ValueError, "x must have shape (B, T, H, 4)"),
        (lambda layer: layer(x_of(2, 3, 1, 6)), ValueError, "x must have shape (B, T, H, 4)"),
        (lambda layer: layer([1.0]), TypeError, "x must be an array, got list"),
        (lambda layer: layer(x_of(1, 2, 1, 4), start=-1), ValueError, "start must be at least 0"),
        (
            lambda layer: layer(x_of(1, 2, 1, 4), start=0.5),
            TypeError,
            "start must be a whole number, got 0.5",
        ),
        (
            lambda layer: layer(x_of(1, 2, 1, 4), [[0, 1]]),
            TypeError,
            "positions must be an array, got list",
        ),
    ],
)
def test_what_cannot_be_rotated_is_named(call: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=re.escape(NAME + message)):
        call(nn.RotaryPositions(4))


def test_a_negative_position_is_named():
    with pytest.raises(IndexError, match=r"positions\[0, 1\] = -2 is outside"):
        nn.RotaryPositions(4)(x_of(1, 2, 1, 4), np.array([[0, -2]]))


# --- Sinusoidal positions ---------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 2, 7, 75, 128])
def test_sinusoids_are_those_of_the_paper(dim: int):
    """Vaswani et al., 2017, section 3.5, element by element."""
    table = sinusoids(50, dim)
    assert table.shape == (50, dim)
    for position in (0, 1, 7, 49):
        for column in range(dim):
            angle = position / 10000 ** (2 * (column // 2) / dim)
            expected = np.cos(angle) if column % 2 else np.sin(angle)
            assert table[position, column] == pytest.approx(expected, abs=1e-14)
    assert np.array_equal(sinusoids(7, dim, start=43), table[43:])


def test_sinusoids_of_a_shift_are_a_rotation():
    """The reason for them in the paper: PE(p + k) is a linear function of PE(p)."""
    table = sinusoids(40, 8)
    for k in (1, 5):
        turn, *_ = np.linalg.lstsq(table[:-k], table[k:], rcond=None)
        np.testing.assert_allclose(table[:-k] @ turn, table[k:], atol=1e-10)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("dim", [5, 6])
def test_gradients_of_added_positions(seed: int, dim: int):
    rng = np.random.default_rng(seed)
    x = x_of(3, 4, dim, seed=seed)
    assert gradcheck(nn.SinusoidalPositions(dim).build(), x, seed=seed).worst[1] < 1e-6
    learned = nn.LearnedPositions(9, dim).build(seed)
    assert gradcheck(learned, x, seed=seed).worst[1] < 1e-6
    positions = rng.integers(0, 9, (3, 4))
    assert gradcheck(learned, x, positions, seed=seed).worst[1] < 1e-6


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_positions_are_added(dtype: str):
    learned = nn.LearnedPositions(30, 5).build(dtype=dtype)
    x = x_of(2, 6, 5).astype(dtype)
    for layer, table in (
        (nn.SinusoidalPositions(5), sinusoids(200, 5).astype(dtype)),
        (learned, learned.weight.value),
    ):
        assert np.array_equal(layer(x), x + table[:6])
        assert np.array_equal(layer(x, start=9), x + table[9:15])
        places = np.random.default_rng(3).integers(0, 30, (2, 6))
        assert np.array_equal(layer(x, places), x + table[places])
        assert np.array_equal(layer.backward(x), x)
        assert layer(x).dtype == dtype
    far = nn.SinusoidalPositions(5)
    np.testing.assert_array_equal(far(x, start=150), x + sinusoids(200, 5)[150:156].astype(dtype))


@pytest.mark.parametrize("scale", [1.0, 0.3, 9.0])
def test_a_scaled_embedding(scale: float):
    """scale * weight[ids], as in Vaswani et al., 2017, section 3.4, and its gradient."""
    ids = np.array([[0, 3, 3], [1, 3, 2]])
    layer = nn.Embedding(5, 4, scale=scale).build(dtype="float64")
    assert np.array_equal(layer(ids), scale * layer.weight.value[ids])
    dy = x_of(2, 3, 4)
    layer.backward(dy)
    np.testing.assert_allclose(layer.weight.grad[3], scale * (dy[0, 1] + dy[0, 2] + dy[1, 1]))
    assert gradcheck(nn.Embedding(5, 4, scale=scale).build(), ids).worst[1] < 1e-6
    for bad in (float("nan"), float("inf"), "x", None):
        with pytest.raises(ValueError, match=r"^Embedding: scale must be a finite number, got "):
            nn.Embedding(5, 4, scale=bad)


def test_learned_positions_that_were_read_get_gradients():
    layer = nn.LearnedPositions(6, 3).build(dtype="float64")
    dy = x_of(2, 3, 3)
    layer(np.zeros((2, 3, 3)), start=2)
    layer.backward(dy)
    assert np.allclose(layer.weight.grad[2:5], dy.sum(0))
    assert not layer.weight.grad[[0, 1, 5]].any()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda layer: layer(np.zeros((1, 7, 3), np.float32)),
            ValueError,
            "LearnedPositions: 7 positions do not fit the context of 6",
        ),
        (
            lambda layer: layer(np.zeros((1, 2, 3), np.float32), start=5),
            ValueError,
            "LearnedPositions: 2 positions after the first 5 do not fit the context of 6",
        ),
        (
            lambda layer: layer(np.zeros((1, 2, 3), np.float32), np.array([[5, 6]])),
            IndexError,
            "LearnedPositions: positions[0, 1] = 6 is outside the context 0..5",
        ),
        (
            lambda layer: layer(np.zeros((1, 2, 4), np.float32)),
            ValueError,
            "LearnedPositions: x must have shape (B, T, 3), got (1, 2, 4)",
        ),
        (
            lambda layer: layer(np.zeros((1, 2, 3))),
            TypeError,
            "LearnedPositions: x must be float32, as the parameters are, got float64",
        ),
        (
            lambda layer: layer(np.zeros((1, 2, 3), np.float32), start=-1),
            ValueError,
            "LearnedPositions: start must be at least 0, got -1",
        ),
    ],
)
def test_a_position_outside_the_context(call: Any, error: type[Exception], message: str):
    layer = nn.LearnedPositions(6, 3).build()
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        call(layer)
    layer(np.zeros((1, 6, 3), np.float32))


def test_a_negative_position_has_no_sinusoid():
    layer = nn.SinusoidalPositions(3)
    with pytest.raises(IndexError, match=r"SinusoidalPositions: positions\[0, 0\] = -1 is outside"):
        layer(np.zeros((1, 2, 3)), np.array([[-1, 0]]))
