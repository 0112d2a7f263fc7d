"""Linear layer and cross-entropy in one op: the cases; blocks of rows and their memory; the bits of
the two ops.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import strategies as st

from byhand import _host, backend, ops
from tests.kernel_case import ROUNDING, Bug, Call, Cuda, Error, Op, Sample, generator, normal
from tests.ops.sizes import SMALL, SOME
from tests.ops.suite import OpSuite
from tests.ops.test_precision import torch_bf16_product


def sample(
    rows: tuple[int, ...],
    k: int,
    v: int,
    block: int = 4,
    ignore: int = -100,
    ignored: float = 0.3,
    smoothing: float = 0.0,
    mean: bool = True,
    frozen: str = "",
    bf16: bool = False,
    size: float = 1.0,
) -> Sample:
    label = f"{'x'.join(map(str, rows))}-{k}-{v}-by {block}{'' if mean else '-sum'}"
    label += (f"-smoothing {smoothing}" if smoothing else "") + f"-ignore {ignore}"
    label += (f"-size {size:g}" if size != 1 else "") + ("-all" if ignored == 1 else "")
    label += (f"-frozen {frozen}" if frozen else "") + ("-bf16" if bf16 else "")
    rng = generator("linear_cross_entropy", label)
    targets = np.asarray(rng.integers(0, v, rows))
    targets[rng.random(rows) < ignored] = ignore
    return Sample(
        label,
        {
            "x": normal(rng, *rows, k),
            "w": np.float32(size / math.sqrt(max(k, 1))) * normal(rng, v, k),
            "targets": targets,
        },
        {
            "ignore_index": ignore,
            "smoothing": smoothing,
            "mean": mean,
            "bf16": bf16,
            "block": block,
        },
        frozen=frozenset(frozen.split()),
        smooth=size == 1 and not bf16,
        # The gradient of the logits is rounded to bfloat16, where a last bit of float32 may decide.
        slack=2**-7 if bf16 and frozen != "dx dw" else 0,
    )


def shapes(s: Sample) -> dict[str, tuple[int, ...]]:
    rows = s.arrays["targets"].size
    blocks = max(1, math.ceil(rows / s.options["block"]))
    return {
        "loss": (),
        "count": (),
        "work": (max(1, math.ceil(rows / blocks)), s.arrays["w"].shape[0]),
    }


def torch_forward(t, o):
    import torch.nn.functional as f

    logits = torch_bf16_product(t.x, t.w.T) if o["bf16"] else f.linear(t.x, t.w)
    kept = (t.targets != o["ignore_index"]).sum().to(logits.dtype)
    if not kept:
        return {"loss": (0 * logits).sum(), "count": kept}  # PyTorch's mean over no rows is NaN
    loss = f.cross_entropy(
        logits.reshape(-1, logits.shape[-1]),
        t.targets.reshape(-1),
        ignore_index=o["ignore_index"],
        label_smoothing=o["smoothing"],
        reduction="mean" if o["mean"] else "sum",
    )
    return {"loss": loss, "count": kept}


def public(c: Call):
    o, need = c.options, "dx" not in c.into
    loss, dx = ops.linear_cross_entropy.forward(
        c.arrays["x"],
        c.arrays["w"],
        c.arrays["targets"],
        c.into["dw"],
        need,
        o["ignore_index"],
        o["smoothing"],
        "mean" if o["mean"] else "sum",
        c.upstream["dloss"],
        o["bf16"],
        o["block"],
    )
    assert (dx is not None) == need
    return {"loss": loss, "dx": dx} if need else {"loss": loss}


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape)


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def forward(*arguments, **options):
    return ops.linear_cross_entropy.forward(*arguments, **options)


def wide() -> Iterator[Sample]:
    yield sample((130,), 24, 136, block=50)
    yield sample((9,), 16, 2056, block=5, smoothing=0.1)


CUDA = Cuda(wide=wide, rounds=True, slack=2.0**-8, inexact=("linear_cross_entropy_forward",))

BUGS = (
    Bug("dloss ignored", "linear_cross_entropy_forward", "np.asarray(dloss,", "np.asarray(1,"),
    Bug("dw = for +=", "linear_cross_entropy_forward", "dw += ", "dw[...] = "),
    Bug("dx of the logits", "linear_cross_entropy_forward", "dlogits @ w", "logits @ w"),
    Bug("x not rounded", "linear_cross_entropy_forward", "x, w = operands(bf16, x, w)",
        "(w,) = operands(bf16, w)", None, ROUNDING),
    Bug("dlogits not rounded", "linear_cross_entropy_forward",
        "(dlogits,) = operands(bf16, dlogits)", "pass", None, "torch"),
)  # fmt: skip

OP = Op(
    name="linear_cross_entropy",
    forward="linear_cross_entropy_forward",
    samples=(
        sample((3, 5), 17, 11, smoothing=0.1),
        sample((0,), 3, 2),
        sample((0, 3), 5, 2, mean=False),
        sample((), 5, 3, ignored=0),
        sample((5,), 0, 3),
        sample((7,), 3, 1, block=2),
        sample((1,), 2, 3, ignored=0),
        sample((9,), 15, 17, block=9, mean=False),
        sample((9,), 15, 17, block=1, ignore=3, smoothing=0.2),
        sample((16,), 31, 33, block=15, mean=False, frozen="dw"),
        sample((17,), 33, 16, block=100, smoothing=1.0, frozen="dx"),
        sample((31,), 16, 127, block=16, smoothing=0.1, frozen="dx dw"),
        sample((33,), 17, 31, block=7, ignore=-1),
        sample((127,), 33, 65, block=50, smoothing=0.1, mean=False),
        sample((3,), 129, 1025, block=2, ignored=0, smoothing=0.1),
        sample((5,), 3, 33, ignored=1, smoothing=0.1),
        sample((5,), 3, 33, ignored=1, mean=False),
        sample((7,), 31, 65, size=1e4, ignored=0),
        sample((3, 5), 17, 11, smoothing=0.1, bf16=True),
        sample((0,), 3, 2, bf16=True),
        sample((9,), 15, 17, block=9, mean=False, bf16=True, frozen="dw"),
        sample((16,), 31, 33, block=7, bf16=True, frozen="dx"),
        sample((127,), 33, 65, block=50, smoothing=0.1, bf16=True),
        sample((127,), 33, 65, block=50, bf16=True, frozen="dx dw"),
    ),
    big=sample((301,), 65, 257, block=77, smoothing=0.1),
    shapes=shapes,
    upstream={"loss": "dloss"},
    gradients={"x": "dx", "w": "dw"},
    scratch=frozenset({"work"}),
    torch=torch_forward,
    public=public,
    rows={"linear_cross_entropy_forward": ("x", ("dx",))},
    planted=BUGS,
    drawn=st.builds(
        lambda rows, k, v, block, **options: sample((rows,), k, v, block, **options),
        SMALL,
        SMALL,
        SOME,
        SOME,
        bf16=st.booleans(),
        frozen=st.sampled_from(["", "dw"]),
    ),
    cuda=CUDA,
    errors=(
        Error(
            TypeError,
            "linear_cross_entropy.forward: targets must have dtype int64, got int32",
            lambda: forward(ones(2, 3), ones(5, 3), ids(0, 1).astype(np.int32)),
        ),
        Error(
            TypeError,
            "linear_cross_entropy.forward: x is float64 and dw is float32: all arrays of a call",
            lambda: forward(ones(2, 3), ones(5, 3), ids(0, 1), np.ones((5, 3), np.float32)),
        ),
        Error(
            IndexError,
            "linear_cross_entropy.forward: targets[0, 1] = 5 is outside the vocabulary 0..4",
            lambda: forward(ones(1, 2, 3), ones(5, 3), ids(-100, 5)[None]),
        ),
        Error(
            IndexError,
            "linear_cross_entropy.forward: targets[1] = -1 is outside the vocabulary 0..4",
            lambda: forward(ones(2, 3), ones(5, 3), ids(0, -1)),
        ),
        Error(
            ValueError,
            "linear_cross_entropy.forward: label_smoothing must be in 0..1, got -0.5",
            lambda: forward(ones(2, 3), ones(5, 3), ids(0, 1), label_smoothing=-0.5),
        ),
        Error(
            ValueError,
            "linear_cross_entropy.forward: label_smoothing must be in 0..1, got None",
            lambda: forward(ones(2, 3), ones(5, 3), ids(0, 1), label_smoothing=None),
        ),
        Error(
            ValueError,
            "linear_cross_entropy.forward: reduction must be 'mean' or 'sum', got 'none'",
            lambda: forward(ones(2, 3), ones(5, 3), ids(0, 1), reduction="none"),
        ),
        Error(
            ValueError,
            "linear_cross_entropy.forward: dloss must have shape (), got (2,)",
            lambda: forward(ones(2, 3), ones(5, 3), ids(0, 1), dloss=ones(2)),
        ),
        Error(
            TypeError,
            "linear_cross_entropy.forward: dloss must be an array, got list",
            lambda: forward(ones(2, 3), ones(5, 3), ids(0, 1), dloss=[1.0]),
        ),
        Error(
            ValueError,
            "linear_cross_entropy.forward: block must be at least 1, got 0",
            lambda: forward(ones(2, 3), ones(5, 3), ids(0, 1), block=0),
        ),
    ),
)


class TestLinearCrossEntropy(OpSuite):
    op = OP

    @pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
    @pytest.mark.parametrize(
        ("rows", "k", "v", "block"), [(1, 3, 2, 1), (33, 17, 65, 40), (70, 40, 257, 35)]
    )
    def test_it_is_the_two_ops_on_one_block_after_the_other(
        self, native: str, rows: int, k: int, v: int, block: int, bf16: bool
    ) -> None:
        """The gradients have the same bits: rows and products are computed alike."""
        a = sample((rows,), k, v, smoothing=0.1).arrays
        apart, fused = (np.full((v, k), 2, np.float32) for _ in range(2))
        options = {"label_smoothing": 0.1, "reduction": "sum"}
        with backend.use_cpu(native):
            loss, dx = forward(
                a["x"], a["w"], a["targets"], fused, dloss=0.3, bf16=bf16, block=block, **options
            )
            losses, grads = [], []
            for i in range(0, rows, block):
                part = slice(i, i + block)
                logits, saved = ops.linear.forward(a["x"][part], a["w"], bf16=bf16)
                one, kept = ops.cross_entropy.forward(logits, a["targets"][part], **options)
                dlogits = ops.cross_entropy.backward(0.3, kept)
                losses.append(float(one))
                grads.append(ops.linear.backward(dlogits, saved, apart))
        np.testing.assert_allclose(loss, sum(losses), rtol=1e-6)
        np.testing.assert_array_equal(dx, np.concatenate(grads))
        np.testing.assert_array_equal(fused, apart)

    @pytest.mark.parametrize("bad", [-1, 17, 1 << 40])
    def test_a_native_kernel_refuses_a_target_outside(self, native: str, bad: int) -> None:
        """In the last of many blocks, before anything was written."""
        kernel = backend.cpu_modules()[native].linear_cross_entropy_forward
        x, w = np.ones((5, 3), np.float32), np.ones((17, 3), np.float32)
        loss, count, dx, dw = (np.full(s, 7, np.float32) for s in ((), (), (5, 3), (17, 3)))
        work, one = np.full((2, 17), 7, np.float32), np.ones((), np.float32)
        targets = ids(0, 1, 2, 3, bad)
        with pytest.raises(IndexError, match=r"targets\[4\]"):
            kernel(loss, count, dx, dw, work, x, w, one, targets, -100, 0.0, True, False)
        assert all((a == 7).all() for a in (loss, count, dx, dw, work))

    def test_an_empty_vocabulary_ignores_everything(self, native: str) -> None:
        with backend.use_cpu(native):
            x, w = np.ones((2, 3), np.float32), np.ones((0, 3), np.float32)
            loss, dx = forward(x, w, ids(-100, -100), w.copy())
            assert loss == 0
            assert dx is not None
            assert not dx.any()

    def test_a_native_kernel_refuses_to_work_without_work(self, native: str) -> None:
        kernel = backend.cpu_modules()[native].linear_cross_entropy_forward
        x, w = np.ones((5, 3), np.float32), np.ones((17, 3), np.float32)
        loss, work = np.zeros((), np.float32), np.empty((0, 17), np.float32)
        arrays = loss, loss, None, None, work, x, w, loss, ids(0, 0, 0, 0, 0)
        with pytest.raises(ValueError, match="work must have at least one row"):
            kernel(*arrays, 0, 0.0, True, False)

    def test_dloss_is_read_where_it_lies(self, native: str) -> None:
        """A number and a 0-d array of the same value give the same bits, and each call reads the
        array again.
        """
        a = sample((5,), 17, 11).arrays
        scale = np.zeros((), np.float32)
        with backend.use_cpu(native):
            for value in (0.3, -1e3):
                scale[...] = value
                results = []
                for dloss in (value, scale, np.float32(value)):
                    dw = np.full((11, 17), 2, np.float32)
                    loss, dx = forward(a["x"], a["w"], a["targets"], dw, dloss=dloss)
                    results.append((loss.tobytes(), dx.tobytes(), dw.tobytes()))
                assert results[0] == results[1] == results[2]


def test_a_call_that_fails_has_added_nothing() -> None:
    dw = np.full((17, 3), 2, np.float32)
    for dtype in (np.float32, np.float64):
        x, w, into = np.ones((2, 3), dtype), np.ones((17, 3), dtype), dw.astype(dtype)
        with pytest.raises(IndexError, match="17"):
            forward(x, w, ids(1, 17), into)
        assert (into == 2).all()


@pytest.mark.parametrize("gradients", [False, True], ids=["loss", "gradients"])
def test_the_logits_never_exist_as_a_whole(gradients: bool) -> None:
    """A step takes the memory of one block of rows, whatever the number of rows."""
    R, K, V = 2100, 8, 20_000
    s = sample((R,), K, V, block=R).arrays
    dw = np.zeros_like(s["w"]) if gradients else None
    forward(s["x"], s["w"], s["targets"], dw, gradients)
    before = _host.pool_stats()["in_use"]
    _host.pool_reset_peak()
    forward(s["x"], s["w"], s["targets"], dw, gradients)
    used = _host.pool_stats()["peak"] - before
    assert used < 4 * R * V * 0.6
    _host.pool_reset_peak()
    forward(s["x"], s["w"], s["targets"], dw, gradients, block=10)
    assert _host.pool_stats()["peak"] - before < 4 * 20 * V + 8 * 4 * R * K


def test_how_many_rows_are_a_block() -> None:
    block = ops.linear_cross_entropy._block
    # All rows at once for small vocabularies, about 1024 for large ones.
    assert [block(rows, 65, None) for rows in (0, 1, 4096)] == [1, 1, 4096]
    assert [block(rows, 50257, None) for rows in (5, 1535, 1536, 4097)] == [5, 1535, 768, 1025]
    assert block(10**6, 10**6, None) == 1024
    assert [block(10**5, classes, None, True) for classes in (10**6, 65)] == [8334, 50000]
    assert block(5, 0, None) == 5
    assert [block(10, 7, most) for most in (1, 3, 4, 9, 10, 11)] == [1, 3, 4, 5, 10, 10]
