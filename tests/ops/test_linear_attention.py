"""Linear attention: the cases; chunks and their ends, causality, shared keys, padding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from byhand import backend, ops
from tests import oracle
from tests.cuda.rules import Rule
from tests.kernel_case import Bug, Call, Cuda, Error, Op, Sample, generator, normal
from tests.ops.sizes import FEW, SMALL
from tests.ops.suite import OpSuite


def sample(
    b: int,
    t: int,
    s: int,
    h: int,
    d: int,
    e: int,
    causal: bool = False,
    groups: int | None = None,
    lengths: tuple[int, ...] | None = None,
    layout: str = "contiguous",
    size: float = 1.0,
) -> Sample:
    label = f"{b}x{t}x{s}x{h}x{d}x{e}{'-causal' if causal else ''}"
    label += (f"-groups {groups}" if groups else "") + (f"-{layout}" if layout[0] != "c" else "")
    label += f"-lengths {','.join(map(str, lengths))}" if lengths else ""
    label += f"-size {size:g}" if size != 1 else ""
    rng = generator("linear_attention", label)
    groups = h if groups is None else groups
    return Sample(
        label,
        {
            "q": np.asarray(size, np.float32) * normal(rng, b, t, h, d),
            "k": normal(rng, b, s, groups, d),
            "v": normal(rng, b, s, groups, e),
            "lengths": None if lengths is None else np.array(lengths, np.int64),
        },
        {"causal": causal},
        layout=layout,
        smooth=size == 1,
    )


def shapes(case: Sample) -> dict[str, tuple[int, ...]]:
    b, t, h, _ = case.arrays["q"].shape
    return {"o": (b, t, h, case.arrays["v"].shape[3]), "norm": (b, h, t)}


def torch_forward(t, o):
    import torch
    from torch.nn.functional import elu

    times = t.q.shape[2] // max(t.k.shape[2], 1)
    k, v = (torch.repeat_interleave(a, times, dim=2) for a in (t.k, t.v))
    w = torch.einsum("bthd,bshd->bhts", elu(t.q) + 1, elu(k) + 1)
    seen = torch.ones(w.shape[-2:], dtype=torch.bool)
    if o["causal"]:
        seen = torch.tril(seen)
    if t.lengths is not None:
        seen = seen & (torch.arange(w.shape[-1]) < t.lengths[:, None, None, None])
    w = torch.where(seen, w, 0)
    norm = w.sum(-1)
    p = w / torch.where(norm == 0, 1, norm)[..., None]
    return {"o": torch.einsum("bhts,bshe->bthe", p, v), "norm": norm}


def public(c: Call):
    a = c.arrays
    o, saved = ops.linear_attention.forward(
        a["q"], a["k"], a["v"], c.options["causal"], lengths=a["lengths"]
    )
    dq, dk, dv = ops.linear_attention.backward(c.upstream["do_"], saved)
    return {"o": o, "dq": dq, "dk": dk, "dv": dv}


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape)


GOOD = (ones(2, 3, 4, 5), ones(2, 6, 4, 5), ones(2, 6, 4, 7))


def wide() -> Iterator[Sample]:
    yield sample(1, 70, 70, 2, 128, 128, causal=True)
    yield sample(2, 33, 130, 4, 64, 96, groups=2, lengths=(130, 40))
    yield sample(1, 200, 200, 6, 33, 65, groups=2, causal=True, layout="transposed")


BUGS = (
    Bug("not normalised", "linear_attention_forward",
        "sums / np.where(total == 0, 1, total)", "sums"),
    Bug("elu without 1", "linear_attention_forward", "x + 1", "x", "_phi"),
    Bug("keys without features", "linear_attention_forward",
        "keys = _phi(for_every_head(k, q.shape[2], lengths))",
        "keys = for_every_head(k, q.shape[2], lengths)"),
    Bug("one later key seen", "linear_attention_forward", "np.tri(queries, keys,",
        "np.tri(queries, keys, 1,", "_seen"),
    Bug("lengths ignored", "linear_attention_forward", "if lengths is not None", "if False",
        "_seen"),
    Bug("another group", "linear_attention_forward",
        "np.repeat(heads_first(a), heads // groups if groups else 1, axis=1)",
        "np.tile(heads_first(a), (1, heads // groups if groups else 1, 1, 1))",
        "for_every_head"),
    Bug("the norm as a constant", "linear_attention_backward", "+ c, lengths", ", lengths"),
    Bug("the slope of the features missing", "linear_attention_backward",
        "@ _phi(keys) * _dphi(queries)", "@ _phi(keys)"),
    Bug("not causal", "linear_attention_backward", "lengths, causal)\n    dq",
        "lengths, False)\n    dq"),
    Bug("a head missing", "linear_attention_backward", ".sum(2))", "[:, :, 0])",
        "for_every_group"),
    Bug("dv of features", "linear_attention_backward", "w.swapaxes(-1, -2) @ g, k",
        "dw.swapaxes(-1, -2) @ g, k"),
)  # fmt: skip

OP = Op(
    name="linear_attention",
    forward="linear_attention_forward",
    backward="linear_attention_backward",
    samples=(
        sample(4, 7, 7, 3, 5, 6, causal=True, lengths=(7, 0, 4, 6)),
        sample(0, 2, 3, 4, 5, 6),
        sample(2, 0, 3, 4, 5, 6),
        sample(2, 3, 0, 4, 5, 6),
        sample(2, 3, 4, 0, 5, 6),
        sample(2, 3, 4, 5, 0, 6),
        sample(2, 3, 4, 5, 6, 0),
        sample(1, 1, 1, 2, 4, 3, causal=True),
        sample(1, 1, 9, 2, 1, 1),
        sample(2, 15, 17, 3, 16, 8),
        sample(2, 17, 17, 3, 33, 31, causal=True),
        sample(1, 63, 63, 2, 16, 15, causal=True, layout="padded"),
        sample(1, 64, 64, 2, 17, 16, causal=True),
        sample(2, 65, 65, 2, 8, 9, causal=True, layout="transposed"),
        sample(1, 130, 70, 2, 15, 32, layout="transposed"),
        sample(1, 40, 200, 4, 16, 17, groups=2, layout="padded"),
        sample(2, 200, 200, 4, 8, 5, groups=2, causal=True, lengths=(200, 70)),
        sample(3, 9, 70, 3, 8, 4, lengths=(0, 1, 70)),
        sample(2, 33, 33, 6, 8, 16, groups=1, causal=True),
        sample(2, 20, 20, 2, 8, 8, causal=True, size=10.0),
        sample(2, 150, 150, 6, 16, 8, groups=2, causal=True, lengths=(150, 101), layout="padded"),
    ),
    big=sample(2, 129, 129, 4, 33, 40, causal=True),
    shapes=shapes,
    upstream={"o": "do_"},
    gradients={"q": "dq", "k": "dk", "v": "dv"},
    torch=torch_forward,
    public=public,
    rows={"linear_attention_forward": ("q", ("o",)), "linear_attention_backward": ("q", ("dq",))},
    planted=BUGS,
    drawn=st.builds(
        lambda b, t, h, d, e, causal, layout: sample(b, t, t, h, d, e, causal, layout=layout),
        FEW,
        SMALL,
        FEW,
        SMALL,
        SMALL,
        st.booleans(),
        st.sampled_from(["contiguous", "padded", "transposed"]),
    ),
    cuda=Cuda(
        wide=wide,
        instructions=(
            Rule("linear_attention_tokens", loads=0, stores=0),
            Rule("linear_attention_dq", loads=0, stores=0),
            Rule("linear_attention_dkv", loads=0, stores=0),
        ),
        inexact=("linear_attention_forward", "linear_attention_backward"),
    ),
    errors=(
        Error(
            ValueError,
            "k must have shape (2, S, G, 5) with a G that divides 4, got (2, 6, 3, 5)",
            lambda: ops.linear_attention.forward(GOOD[0], ones(2, 6, 3, 5), ones(2, 6, 3, 7)),
        ),
        Error(
            ValueError,
            "linear_attention.forward: causal is for as many queries as keys, got 3 and 6",
            lambda: ops.linear_attention.forward(*GOOD, causal=True),
        ),
        Error(
            ValueError,
            "linear_attention.forward: lengths[1] = 7 is outside 0..6",
            lambda: ops.linear_attention.forward(*GOOD, lengths=np.array([6, 7])),
        ),
        Error(
            ValueError,
            "linear_attention.backward: out[2] must have shape (2, 6, 4, 7), got (2, 6, 4, 5)",
            lambda: ops.linear_attention.backward(
                ones(2, 3, 4, 7),
                ops.linear_attention.forward(*GOOD)[1],
                (GOOD[0], GOOD[1], GOOD[1]),
            ),
        ),
    ),
)


class TestLinearAttention(OpSuite):
    op = OP

    def test_what_padding_holds_does_not_matter(self, native: str) -> None:
        kernels = backend.cpu_modules()[native]
        for case in OP.samples:
            if case.arrays["lengths"] is None:
                continue
            for stage in oracle.stages(OP, case, oracle.bare_reference()):
                clean = oracle.run(kernels, stage.kernel, stage.env, stage.shapes, np.float32)
                padding = np.arange(case.arrays["k"].shape[1]) >= case.arrays["lengths"][:, None]
                env: dict[str, Any] = dict(stage.env)
                for name in "kv":
                    env[name] = np.where(padding[:, :, None, None], np.nan, env[name])
                got = oracle.run(kernels, stage.kernel, env, stage.shapes, np.float32)
                for name in got:
                    assert got[name].tobytes() == clean[name].tobytes(), (case.label, name)

    def test_later_keys_do_not_reach_earlier_queries(self, native: str) -> None:
        q, k, v = (sample(1, 150, 150, 2, 16, 8, causal=True).arrays[n] for n in "qkv")
        with backend.use_cpu(native):
            before, _ = ops.linear_attention.forward(q, k, v, causal=True)
            k, v = k.copy(), v.copy()
            k[:, 100:] += 1
            v[:, 100:] = 1e9
            after, _ = ops.linear_attention.forward(q, k, v, causal=True)
        assert before[:, :100].tobytes() == after[:, :100].tobytes()


def test_equal_keys_give_the_mean_of_the_values() -> None:
    rng = generator("linear_attention", "mean")
    q, v = rng.standard_normal((1, 5, 2, 3)), rng.standard_normal((1, 5, 2, 4))
    k = np.broadcast_to(rng.standard_normal((1, 1, 2, 3)), (1, 5, 2, 3)).copy()
    o, _ = ops.linear_attention.forward(q, k, v)
    assert np.allclose(o, v.mean(1, keepdims=True))
    o, _ = ops.linear_attention.forward(q, k, v, causal=True)
    assert np.allclose(o, v.cumsum(1) / np.arange(1, 6)[:, None, None])


@pytest.mark.parametrize("causal", [False, True])
def test_strided_parts_of_one_array(causal: bool) -> None:
    packed = generator("linear_attention", "packed").standard_normal((2, 9, 3, 4, 8))
    parts = [packed[:, :, i] for i in range(3)]
    o, saved = ops.linear_attention.forward(*parts, causal=causal)
    dpacked = np.full_like(packed, np.nan)
    ops.linear_attention.backward(o, saved, tuple(dpacked[:, :, i] for i in range(3)))
    apart, saved = ops.linear_attention.forward(*map(np.ascontiguousarray, parts), causal=causal)
    assert o.tobytes() == apart.tobytes()
    for i, expected in enumerate(ops.linear_attention.backward(o, saved)):
        assert dpacked[:, :, i].tobytes() == expected.tobytes()
