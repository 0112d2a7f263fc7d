"""Attention: the cases, masks of every kind, packed and strided arrays, dropout, empty rows."""

from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from byhand import backend, ops
from tests import oracle
from tests.cuda.rules import EXP2, TENSOR_CORES, Rule
from tests.kernel_case import Bug, Call, Cuda, Error, Op, Sample, generator, normal
from tests.ops.attention_samples import sample, shapes, torch_forward, wide
from tests.ops.sizes import FEW, SMALL
from tests.ops.suite import OpSuite, native_kernels


def public(c: Call):
    a = c.arrays
    options = {n: a[n] for n in ("lengths", "slopes", "bias", "sequences")}
    options |= {n: v or None if n in ("window", "softcap") else v for n, v in c.options.items()}
    o, saved = ops.attention.forward(a["q"], a["k"], a["v"], a["mask"], **options)
    found = ops.attention.backward(
        c.upstream["do_"], saved, need_dbias=a["bias"] is not None and "dbias" not in c.into
    )
    return {"o": o, **dict(zip(("dq", "dk", "dv", "dbias"), found, strict=False))}


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape)


GOOD = (ones(2, 3, 4, 5), ones(2, 6, 4, 5), ones(2, 6, 4, 5))


CUDA = Cuda(
    wide=wide,
    instructions=(
        Rule("attention_forward_tiles", needs=(*TENSOR_CORES, EXP2)),
        Rule("attention_backward_tiles", needs=(*TENSOR_CORES, EXP2)),
        Rule("attention_row_sums", loads=2, stores=0),  # dout o
        Rule("attention_bias_tiles", needs=(*TENSOR_CORES, EXP2)),
        Rule("attention_few_pieces", loads=2, stores=0, needs=(EXP2,)),  # k v
    ),
    either=("work",),  # used for a few queries only
    rounds=True,
    inexact=("attention_forward", "attention_backward"),
)

BUGS = (
    Bug("heads mixed up", "attention_forward",
        "heads_first(p @ for_every_head(v, q.shape[2], lengths))",
        "(p @ for_every_head(v, q.shape[2], lengths)).reshape(o.shape)"),
    Bug("lse without maximum", "attention_forward", "top + np.log(total)", "np.log(total)"),
    Bug("no 1/(1-p)", "attention_forward", " * p.dtype.type(philox.rule(dropout)[1])", "",
        "_dropout_scale"),
    Bug("lengths ignored", "attention_forward", "mask, lengths,", "mask, None,"),
    Bug("window one-sided", "attention_forward", "abs(_positions(queries, keys))",
        "_positions(queries, keys)", "_hidden"),
    Bug("another group", "attention_forward", "np.repeat(heads_first(a), heads // groups if "
        "groups else 1, axis=1)", "np.tile(heads_first(a), (1, heads // groups if groups else 1, "
        "1, 1))", "for_every_head"),
    Bug("dk doubled", "attention_backward", "for_every_group(ds.swapaxes",
        "for_every_group(2 * ds.swapaxes"),
    Bug("scale missing", "attention_backward", "ds = scale * ds", "ds = ds"),
    Bug("delta missing", "attention_backward", "(dp - delta)", "dp"),
    Bug("mask ignored", "attention_backward", "(s, mask,", "(s, None,"),
    Bug("not causal", "attention_backward", "sequences, causal,",
        "sequences, False,"),
    Bug("window one wider", "attention_backward", "causal, window)",
        "causal, window + (window > 0))"),
    Bug("lengths one longer", "attention_backward", "mask, lengths,",
        "mask, lengths if lengths is None else lengths + 1,"),
    Bug("a head missing", "attention_backward", ".sum(2))", "[:, :, 0])", "for_every_group"),
    Bug("another dropout", "attention_backward", "seed, offset)", "seed, offset - 1)"),
    Bug("dv not dropped", "attention_backward", "dp * z, p * z", "dp * z, p"),
    Bug("slopes of another head", "attention_forward", "slopes[:, None, None]",
        "slopes[::-1, None, None]", "_adjusted"),
    Bug("slopes upwards", "attention_backward", "scores + slopes", "scores - slopes", "_adjusted"),
    Bug("bias ignored", "attention_backward", "scores + bias", "scores", "_adjusted"),
    Bug("dbias not a sum", "attention_backward", "ds.sum(axis=shared", "ds.mean(axis=shared"),
    Bug("dbias of products", "attention_backward", "dbias[...] = ds", "dbias[...] = scale * ds"),
    Bug("cap doubled", "attention_forward", "np.tanh(scores / softcap)",
        "np.tanh(scores / (2 * softcap))", "_adjusted"),
    Bug("derivative of the cap missing", "attention_backward",
        "slope = 1 - np.tanh(products / softcap) ** 2", "slope = 1"),
    Bug("sequences ignored", "attention_forward", "if sequences is not None", "if False",
        "_hidden"),
    Bug("later sequences seen", "attention_backward", "None] == sequences", "None] <= sequences",
        "_hidden"),
    Bug("dk and dv swapped", "attention_backward", "dk[...] =", "dv, dk = dk, dv\n    dv[...] ="),
)  # fmt: skip

OP = Op(
    name="attention",
    forward="attention_forward",
    backward="attention_backward",
    samples=(
        sample(
            6,
            5,
            7,
            3,
            4,
            mask="vvvv",
            lengths=(7, 0, 4, 6, 1, 5),
            slopes=True,
            bias="vv",
            softcap=2.0,
        ),
        sample(
            4,
            7,
            7,
            5,
            6,
            mask="vvvv",
            lengths=(7, 0, 4, 6),
            slopes=True,
            bias="vv",
            softcap=2.0,
            sequences=((7,), (2, 5), (1, 3, 3), (5, 2)),
        ),
        sample(0, 2, 3, 4, 5),
        sample(2, 0, 3, 4, 5),
        sample(2, 3, 0, 4, 5),
        sample(2, 3, 4, 0, 5),
        sample(2, 3, 4, 5, 0),
        sample(1, 1, 3, 2, 4),
        sample(1, 3, 1, 2, 5),
        sample(2, 3, 4, 5, 1),
        sample(3, 15, 17, 2, 16, causal=True),
        sample(2, 17, 15, 3, 33, causal=True),
        sample(1, 33, 31, 2, 64, mask="v11v", layout="padded"),
        sample(2, 16, 33, 3, 15, mask="111v", causal=True, layout="transposed"),
        sample(2, 31, 16, 3, 17, mask="1vv1", layout="padded"),
        sample(3, 7, 9, 2, 8, mask="none seen", causal=True),
        sample(2, 5, 1025, 1, 3),
        sample(1, 127, 129, 2, 16, causal=True, layout="padded"),
        sample(1, 1, 1023, 3, 31, layout="transposed"),
        sample(2, 17, 19, 3, 5, dropout=0.3),
        sample(2, 9, 130, 3, 16, dropout=0.5, causal=True, mask="v1vv", layout="padded"),
        sample(2, 5, 33, 3, 16, size=1e4),
        sample(2, 6, 11, 3, 4, scale=-0.3),
        sample(1, 64, 64, 3, 32, causal=True),
        sample(2, 7, 9, 4, 8, groups=2),
        sample(2, 3, 4, 0, 5, groups=2),
        sample(2, 0, 4, 4, 5, groups=2, window=2),
        sample(1, 70, 66, 4, 16, groups=1, causal=True),
        sample(3, 9, 70, 3, 8, lengths=(0, 1, 70)),
        sample(2, 65, 130, 2, 16, lengths=(129, 64), causal=True, layout="padded"),
        sample(1, 200, 200, 2, 8, window=3),
        sample(1, 66, 66, 2, 8, window=1, causal=True),
        sample(1, 130, 200, 1, 16, window=65, causal=True),
        sample(1, 200, 130, 1, 16, window=64),
        sample(2, 33, 40, 2, 8, window=1000, mask="v1vv"),
        sample(1, 2, 1100, 4, 16, groups=2, window=70, lengths=(1090,)),
        sample(2, 4, 600, 4, 8, groups=1, lengths=(1, 599), causal=True, layout="transposed"),
        sample(1, 3, 2300, 2, 16, groups=1, window=1500, causal=True),
        sample(2, 17, 19, 4, 8, slopes=True, causal=True),
        sample(1, 130, 70, 3, 16, slopes=True, window=65, layout="padded"),
        sample(2, 3, 300, 4, 16, groups=2, slopes=True, bias="v1", softcap=1.5, lengths=(300, 40)),
        sample(2, 33, 40, 3, 8, bias="vv", dropout=0.3),
        sample(3, 65, 130, 2, 16, bias="1v", causal=True, layout="transposed"),
        sample(2, 70, 300, 2, 8, bias="11", mask="111v", lengths=(290, 3)),
        sample(2, 9, 70, 2, 8, bias="v1", scale=-0.3, frozen="dbias"),
        sample(2, 31, 70, 2, 16, softcap=0.5, causal=True),
        sample(2, 70, 31, 4, 8, groups=2, softcap=3.0, slopes=True, bias="1v", size=3.0),
        sample(2, 70, 70, 2, 16, sequences=((30, 1, 39), (70,))),
        sample(
            2,
            150,
            150,
            4,
            8,
            groups=2,
            sequences=((64, 86), (5, 140, 5)),
            causal=True,
            lengths=(150, 60),
            layout="padded",
        ),
        sample(1, 12, 12, 2, 8, sequences=((4, 8),), bias="11", dropout=0.2),
        # Keys that no query sees, before and after the others, in one block of queries.
        sample(3, 20, 300, 2, 16, window=5, lengths=(290, 100, 300)),
        sample(1, 20, 600, 1, 16, window=40, mask="v1vv"),
        # Queries that see no key, before and after the others.
        sample(2, 200, 70, 1, 16, window=10, lengths=(70, 20)),
        sample(
            2,
            200,
            200,
            6,
            16,
            groups=2,
            sequences=((70, 130), (3, 90, 107)),
            causal=True,
            dropout=0.2,
            slopes=True,
            bias="1v",
            softcap=2.0,
            window=60,
            mask="11vv",
            layout="transposed",
        ),
        sample(
            2,
            130,
            190,
            6,
            16,
            groups=2,  # three threads cut these heads into blocks
            window=70,
            lengths=(190, 101),
            causal=True,
            dropout=0.2,
            mask="11vv",
            layout="transposed",
        ),
    ),
    big=sample(2, 129, 257, 2, 33, causal=True, dropout=0.1),
    shapes=shapes,
    upstream={"o": "do_"},
    gradients={"q": "dq", "k": "dk", "v": "dv", "bias": "dbias"},
    scratch=frozenset({"work"}),
    torch=torch_forward,
    public=public,
    rows={"attention_forward": ("q", ("o",)), "attention_backward": ("q", ("dq",))},
    planted=BUGS,
    drawn=st.builds(
        sample,
        FEW,
        SMALL,
        SMALL,
        FEW,
        SMALL,
        causal=st.booleans(),
        mask=st.sampled_from(["", "vvvv", "111v", "v11v", "1vv1"]),
        dropout=st.sampled_from([0.0, 0.25]),
        slopes=st.booleans(),
        bias=st.sampled_from(["", "vv", "1v", "v1", "11"]),
        softcap=st.sampled_from([0.0, 1.5]),
        layout=st.sampled_from(["contiguous", "padded", "transposed"]),
    ),
    cuda=CUDA,
    errors=(
        Error(
            ValueError,
            "k must have shape (2, S, G, 5) with a G that divides 4, got (2, 6, 3, 5)",
            lambda: ops.attention.forward(GOOD[0], ones(2, 6, 3, 5), ones(2, 6, 3, 5)),
        ),
        Error(
            ValueError,
            "attention.forward: lengths[1] = 7 is outside 0..6",
            lambda: ops.attention.forward(*GOOD, lengths=np.array([6, 7])),
        ),
        Error(
            TypeError,
            "attention.forward: lengths must have dtype int64, got float64",
            lambda: ops.attention.forward(*GOOD, lengths=ones(2)),
        ),
        Error(
            ValueError,
            "attention.forward: window must be at least 1, got 0",
            lambda: ops.attention.forward(*GOOD, window=0),
        ),
        Error(
            ValueError,
            "mask must have shape that broadcasts to (2, 4, 3, 6), got (2, 3, 6)",
            lambda: ops.attention.forward(*GOOD, np.ones((2, 3, 6), bool)),
        ),
        Error(
            TypeError,
            "attention.forward: mask must have dtype bool, got float64",
            lambda: ops.attention.forward(*GOOD, ones(3, 6)),
        ),
        Error(
            ValueError,
            "attention.forward: dropout must be at least 0 and less than 1, got 1.0",
            lambda: ops.attention.forward(*GOOD, dropout=1.0),
        ),
        Error(
            ValueError,
            "attention.forward: seed must be an integer in 0..2**64-1, got -1",
            lambda: ops.attention.forward(*GOOD, dropout=0.5, seed=-1),
        ),
        Error(
            ValueError,
            "attention.forward: slopes must have shape (4,), got (3,), where q has shape (2, 3, 4,",
            lambda: ops.attention.forward(*GOOD, slopes=ones(3)),
        ),
        Error(
            ValueError,
            "attention.forward: bias must have shape (2 or 1, 4 or 1, 3, 6), got (3, 4, 3, 6)",
            lambda: ops.attention.forward(*GOOD, bias=ones(3, 4, 3, 6)),
        ),
        Error(
            ValueError,
            "attention.forward: softcap must be a number greater than 0, got 0.0",
            lambda: ops.attention.forward(*GOOD, softcap=0.0),
        ),
        Error(
            ValueError,
            "attention.forward: sequences are for as many keys as queries, got 6 and 3",
            lambda: ops.attention.forward(*GOOD, sequences=np.zeros((2, 3), np.int64)),
        ),
        Error(
            TypeError,
            "attention.forward: sequences must have dtype int64, got float64",
            lambda: ops.attention.forward(*GOOD[:1] * 3, sequences=ones(2, 3)),
        ),
        Error(
            ValueError,
            "attention.forward: sequences must not decrease, as row 1 does",
            lambda: ops.attention.forward(
                *GOOD[:1] * 3, sequences=np.array([[0, 0, 1], [0, 1, 0]])
            ),
        ),
        Error(
            ValueError,
            "attention.backward: need_dbias is for a forward pass with a bias",
            lambda: ops.attention.backward(
                GOOD[0], ops.attention.forward(*GOOD)[1], need_dbias=True
            ),
        ),
        Error(
            ValueError,
            "attention.backward: out[1] must have shape (2, 6, 4, 5), got (2, 3, 4, 5)",
            lambda: ops.attention.backward(
                GOOD[0], ops.attention.forward(*GOOD)[1], (GOOD[0], GOOD[0], GOOD[2])
            ),
        ),
        Error(
            TypeError,
            "attention.forward: q is float64 and k is float32: all arrays of a call",
            lambda: ops.attention.forward(GOOD[0], GOOD[1].astype("f"), GOOD[2]),
        ),
    ),
)


def check_padding(case: Sample, kernels: Any, dtype: type) -> None:
    """NaN in the padding beyond the lengths changes no bit of any result."""
    lengths = case.arrays["lengths"]
    for stage in oracle.stages(OP, case, oracle.bare_reference()):
        clean = oracle.run(kernels, stage.kernel, stage.env, stage.shapes, dtype)
        padding = np.arange(stage.env["k"].shape[1]) >= lengths[:, None]
        env = dict(stage.env)
        for name in "kv":
            env[name] = np.where(padding[:, :, None, None], np.nan, env[name])
        got = oracle.run(kernels, stage.kernel, env, stage.shapes, dtype)
        for name in got.keys() - OP.scratch:
            assert got[name].tobytes() == clean[name].tobytes(), (case.label, name)


def check_parts_of_offset(kernels: Any, dtype: type) -> None:
    """The mask is that of their sum, in both directions."""
    case = sample(2, 40, 33, 2, 8, dropout=0.3)
    for stage in oracle.stages(OP, case, oracle.bare_reference()):
        whole = oracle.run(kernels, stage.kernel, stage.env, stage.shapes, dtype)
        parts = {**stage.env, "offset": (stage.env["offset"] - 5, np.array(5))}
        got = oracle.run(kernels, stage.kernel, parts, stage.shapes, dtype)
        for name in got.keys() - OP.scratch:
            assert got[name].tobytes() == whole[name].tobytes(), name


class TestAttention(OpSuite):
    op = OP

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_packed(self, dtype: type) -> None:
        """Three parts of one array in, three parts of one gradient out, without a copy."""
        packed = normal(generator("attention", "packed"), 2, 9, 3, 4, 16).astype(dtype)
        dy = np.ascontiguousarray(packed[:, :, 1] + 1)
        parts = [packed[:, :, i] for i in range(3)]
        o, saved = ops.attention.forward(*parts, causal=True)
        gradient = np.full_like(packed, np.nan)
        ops.attention.backward(dy, saved, tuple(gradient[:, :, i] for i in range(3)))
        apart, saved = ops.attention.forward(*map(np.ascontiguousarray, parts), causal=True)
        assert o.tobytes() == apart.tobytes()
        for i, expected in enumerate(ops.attention.backward(dy, saved)):
            assert gradient[:, :, i].tobytes() == expected.tobytes()

    def test_an_empty_row_gives_nothing_and_gets_nothing(self, native: str) -> None:
        case = sample(2, 5, 3, 4, 8, causal=True)  # the first two queries see no key
        kernels = backend.cpu_modules()[native]
        forward, backward = oracle.stages(OP, case, oracle.bare_reference())
        got = oracle.run(kernels, forward.kernel, forward.env, forward.shapes, np.float32)
        assert not got["o"][:, :2].any()
        assert np.all(got["lse"][:, :, :2] == -np.inf)
        got = oracle.run(kernels, backward.kernel, backward.env, backward.shapes, np.float32)
        assert not got["dq"][:, :2].any()

    def test_what_padding_holds_does_not_matter(self, backend_name: str) -> None:
        dtype = np.float64 if backend_name == "reference" else np.float32
        for case in OP.samples:
            if case.arrays["lengths"] is not None:
                check_padding(case, native_kernels(backend_name), dtype)

    def test_the_offset_of_dropout_in_two_parts(self, backend_name: str) -> None:
        check_parts_of_offset(
            native_kernels(backend_name), np.float64 if backend_name == "reference" else np.float32
        )

    def test_later_keys_do_not_reach_earlier_queries(self, native: str) -> None:
        case = sample(1, 33, 33, 2, 16, causal=True)
        q, k, v = (case.arrays[n] for n in "qkv")
        with backend.use_cpu(native):
            before, _ = ops.attention.forward(q, k, v, causal=True)
            k, v = k.copy(), v.copy()
            k[:, 20:] += 1
            v[:, 20:] = 1e9
            after, _ = ops.attention.forward(q, k, v, causal=True)
        assert before[:, :20].tobytes() == after[:, :20].tobytes()


def test_dropout_keeps_the_mean() -> None:
    rng = generator("attention", "mean")
    q, k = rng.standard_normal((2, 1, 8, 1, 4))
    v = np.ones(k.shape)
    total = sum(
        ops.attention.forward(q, k, v, dropout=0.4, seed=3, offset=n)[0].mean() for n in range(400)
    )
    assert total / 400 == pytest.approx(1, abs=0.05)
