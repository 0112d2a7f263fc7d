"""Cross-entropy: the cases; ignored targets, smoothing, extreme logits, ids outside the table; and
its gradient in place.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import strategies as st

from byhand import backend, ops
from tests.cuda.rules import EXP2, Rule
from tests.kernel_case import FORWARD, Bug, Call, Cuda, Error, Op, Sample, generator, normal
from tests.ops.sizes import SMALL, SOME, WIDTHS, rows_of
from tests.ops.suite import OpSuite


def sample(
    *shape: int,
    ignore: int = -100,
    ignored: float = 0.3,
    smoothing: float = 0.0,
    mean: bool = True,
    size: float = 1.0,
) -> Sample:
    label = "x".join(map(str, shape)) + ("" if mean else "-sum")
    label += (f"-smoothing {smoothing}" if smoothing else "") + f"-ignore {ignore}"
    label += (f"-size {size:g}" if size != 1 else "") + ("-all" if ignored == 1 else "")
    rng = generator("cross_entropy", label)
    logits = np.asarray(size, np.float32) * normal(rng, *shape)
    targets = rng.integers(0, shape[-1], shape[:-1])
    targets[rng.random(shape[:-1]) < ignored] = ignore
    return Sample(
        label,
        {"logits": logits, "targets": targets},
        {"ignore_index": ignore, "smoothing": smoothing, "mean": mean},
        smooth=size == 1,
    )


def shapes(s: Sample) -> dict[str, tuple[int, ...]]:
    return {"loss": (), "count": (), "lse": s.arrays["targets"].shape}


def torch_forward(t, o):
    import torch
    import torch.nn.functional as f

    lse = torch.where(t.targets == o["ignore_index"], torch.inf, torch.logsumexp(t.logits, -1))
    if not (t.targets != o["ignore_index"]).any():
        return {"loss": (0 * t.logits).sum()}  # PyTorch's mean over no rows is NaN, ours is 0
    loss = f.cross_entropy(
        t.logits.reshape(-1, t.logits.shape[-1]),
        t.targets.reshape(-1),
        ignore_index=o["ignore_index"],
        label_smoothing=o["smoothing"],
        reduction="mean" if o["mean"] else "sum",
    )
    return {"loss": loss, "lse": lse}


def public(c: Call):
    o = c.options
    loss, saved = ops.cross_entropy.forward(
        c.arrays["logits"],
        c.arrays["targets"],
        o["ignore_index"],
        o["smoothing"],
        "mean" if o["mean"] else "sum",
    )
    return {"loss": loss, "dlogits": ops.cross_entropy.backward(c.upstream["dloss"], saved)}


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape)


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def wide() -> Iterator[Sample]:
    for columns in WIDTHS:
        yield _of_width(rows_of(columns), columns)
    yield _of_width(9001, 12)  # more rows than partial sums


def wide_gradient() -> Iterator[Sample]:
    yield from wide()
    yield _of_width(5, 2053)  # in float32 the fifth row has a pack more than the third
    yield _of_width(5, 2061)  # in bfloat16
    for rows, columns in ((2, 60_000), (1, 125_003), (5, 131_072)):  # more than shared memory holds
        yield _of_width(rows, columns)


def _of_width(rows: int, columns: int) -> Sample:
    rng = generator("wide cross_entropy", str(columns))
    targets = rng.integers(0, columns, rows)
    targets[rows // 2 :][1:2] = -100
    arrays = {"logits": 4 * normal(rng, rows, columns), "targets": targets.astype(np.int64)}
    smoothing = 0.1 if columns % 2 else 0.0
    options = {"ignore_index": -100, "smoothing": smoothing, "mean": columns % 4 != 0}
    return Sample(f"{rows}x{columns}", arrays, options)


CUDA = Cuda(
    wide=wide,
    instructions=(
        Rule("cross_entropy_forward_rows", stores=0, needs=(EXP2,)),
        Rule("cross_entropy_backward_rows", needs=(EXP2,)),
    ),
    inexact=("cross_entropy_forward", "cross_entropy_backward"),
)

BUGS = (
    Bug("mean over all", "cross_entropy_forward", "max(kept.size, 1) if",
        "max(targets.size, 1) if"),
    Bug("no maximum", "cross_entropy_forward", "np.exp(logits - top)",
        "(np.exp(logits) / np.exp(top))", None, FORWARD),
    Bug("no smoothing", "cross_entropy_backward", "g -= smoothing / max(logits.shape[-1], 1)",
        "pass"),
    Bug("ignored rows kept", "cross_entropy_backward", "g[~kept] = 0", "pass"),
    Bug("dloss ignored", "cross_entropy_backward",
        "dloss / np.maximum(count, 1) if mean else dloss",
        "1 / max(count, 1) if mean else 1"),
    Bug("one-hot forgotten", "cross_entropy_backward", "g[rows, ids[rows]] -= 1 - smoothing",
        "pass"),
)  # fmt: skip

OP = Op(
    name="cross_entropy",
    forward="cross_entropy_forward",
    backward="cross_entropy_backward",
    samples=(
        sample(3, 5, 17, smoothing=0.1),
        sample(0, 3),
        sample(2, 1),
        sample(1, 2, ignored=0),
        sample(3, 15, mean=False),
        sample(15, 16, ignore=3),
        sample(16, 31, smoothing=0.2, mean=False, ignore=-1),
        sample(33, 17, smoothing=1.0),
        sample(2, 1023, ignored=0),
        sample(3, 1025, ignored=0, smoothing=0.1),
        sample(127, 3),
        sample(1023, 2, mean=False),
        sample(5, 33, ignored=1, smoothing=0.1),
        sample(5, 33, ignored=1, mean=False),
        sample(7, 65, size=1e4, ignored=0),
        sample(7, 65, size=1e4, ignored=0, smoothing=0.1),
    ),
    big=sample(1023, 257, smoothing=0.1),
    shapes=shapes,
    upstream={"loss": "dloss"},
    gradients={"logits": "dlogits"},
    torch=torch_forward,
    public=public,
    in_place=(("cross_entropy_backward", "dlogits", "logits"),),
    rows={
        "cross_entropy_forward": ("logits", ("lse",)),
        "cross_entropy_backward": ("logits", ("dlogits",)),
    },
    planted=BUGS,
    drawn=st.builds(sample, SMALL, SOME, smoothing=st.sampled_from([0.0, 0.1]), mean=st.booleans()),
    past_caches=True,
    cuda=CUDA,
    errors=(
        Error(
            TypeError,
            "cross_entropy.forward: targets must have dtype int64, got int32",
            lambda: ops.cross_entropy.forward(ones(2, 3), ids(0, 1).astype(np.int32)),
        ),
        Error(
            TypeError,
            "cross_entropy.forward: targets must have dtype int64, got float64",
            lambda: ops.cross_entropy.forward(ones(2, 3), ones(2)),
        ),
        Error(
            IndexError,
            "cross_entropy.forward: targets[1] = 3 is outside the vocabulary 0..2",
            lambda: ops.cross_entropy.forward(ones(2, 3), ids(0, 3)),
        ),
        Error(
            IndexError,
            "cross_entropy.forward: targets[0, 1] = -1 is outside the vocabulary 0..2",
            lambda: ops.cross_entropy.forward(ones(1, 3, 3), ids(-100, -1, 9)[None]),
        ),
        Error(
            ValueError,
            "cross_entropy.forward: label_smoothing must be in 0..1, got 1.5",
            lambda: ops.cross_entropy.forward(ones(2, 3), ids(0, 1), label_smoothing=1.5),
        ),
        Error(
            ValueError,
            "cross_entropy.forward: label_smoothing must be in 0..1, got 'a'",
            lambda: ops.cross_entropy.forward(ones(2, 3), ids(0, 1), label_smoothing="a"),  # type: ignore[arg-type]
        ),
        Error(
            ValueError,
            "cross_entropy.forward: reduction must be 'mean' or 'sum', got 'none'",
            lambda: ops.cross_entropy.forward(ones(2, 3), ids(0, 1), reduction="none"),
        ),
        Error(
            ValueError,
            "cross_entropy.backward: dloss must have shape (), got (2,)",
            lambda: ops.cross_entropy.backward(
                ones(2), ops.cross_entropy.forward(ones(2, 3), ids(0, 1))[1]
            ),
        ),
    ),
)


def public_gradient(c: Call):
    o = c.options
    loss = ops.cross_entropy.gradient_in_place(
        c.arrays["logits"],
        c.arrays["targets"],
        c.upstream["dloss"],
        o["ignore_index"],
        o["smoothing"],
        "mean" if o["mean"] else "sum",
    )
    return {"loss": loss, "logits": c.arrays["logits"]}


GRADIENT_BUGS = (
    Bug("dloss ignored", "cross_entropy_gradient", "(logits, dloss,",
        "(logits, np.ones_like(dloss),"),
    Bug("scaled twice", "cross_entropy_gradient", "count, lses, logits, *options)",
        "count, lses, logits, *options)\n    logits *= dloss"),
    Bug("always the sum", "cross_entropy_gradient", "dloss, count, lses, logits, *options)",
        "dloss, count, lses, logits, *options[:-1], False)"),
    Bug("logits left", "cross_entropy_gradient", "_backward(logits, ",
        "_backward(logits.copy(), "),
    Bug("loss of the gradient", "cross_entropy_gradient", "_backward(logits, dloss",
        "_forward(loss, count, lses.copy(), 2 * logits, *options)\n    _backward(logits, dloss",
        None, FORWARD),
)  # fmt: skip

GRADIENT = replace(
    OP,
    name="cross_entropy_gradient",
    forward="cross_entropy_gradient",
    backward=None,
    gradients={"logits": "logits"},
    public=public_gradient,
    in_place=(),
    rows={"cross_entropy_gradient": ("logits", ("lse", "logits"))},
    planted=GRADIENT_BUGS,
    past_caches=False,
    cuda=Cuda(
        wide=wide_gradient,
        instructions=(Rule("cross_entropy_gradient", needs=(EXP2,)),),
        inexact=("cross_entropy_gradient",),
    ),
    errors=(
        Error(
            ValueError,
            "cross_entropy.gradient_in_place: dloss must have shape (), got (2,)",
            lambda: ops.cross_entropy.gradient_in_place(ones(2, 3), ids(0, 1), ones(2)),
        ),
        Error(
            TypeError,
            "cross_entropy.gradient_in_place: dloss must be an array, got list",
            lambda: ops.cross_entropy.gradient_in_place(ones(2, 3), ids(0, 1), [1.0]),
        ),
        Error(
            IndexError,
            "cross_entropy.gradient_in_place: targets[1] = 3 is outside the vocabulary 0..2",
            lambda: ops.cross_entropy.gradient_in_place(ones(2, 3), ids(0, 3)),
        ),
    ),
)


class TestCrossEntropy(OpSuite):
    op = OP

    def test_a_nan_in_an_ignored_row_has_no_effect(self, native: str) -> None:
        logits = normal(generator("cross_entropy", "nan"), 3, 17)
        logits[1] = np.nan
        with backend.use_cpu(native):
            for x in (logits, logits.astype(np.float64)):
                loss, saved = ops.cross_entropy.forward(x, ids(4, -100, 9))
                dlogits = ops.cross_entropy.backward(1.0, saved)
                assert np.isfinite(loss)
                assert not dlogits[1].any()
                assert np.isfinite(dlogits).all()

    @pytest.mark.parametrize("bad", [-1, 17, 1 << 40])
    def test_a_native_kernel_refuses_a_target_outside(self, native: str, bad: int) -> None:
        kernels = backend.cpu_modules()[native]
        loss, count, lse = (np.zeros(s, np.float32) for s in ((), (), (2,)))
        logits = np.ones((2, 17), np.float32)
        with pytest.raises(IndexError):
            kernels.cross_entropy_forward(loss, count, lse, logits, ids(3, bad), -100, 0.0, True)


def test_dloss_may_be_a_number() -> None:
    logits = normal(generator("cross_entropy", "number"), 3, 5)
    _, saved = ops.cross_entropy.forward(logits, ids(0, 1, 2))
    a = ops.cross_entropy.backward(2.0, saved)
    b = ops.cross_entropy.backward(np.asarray(2, np.float32), saved)
    assert a.tobytes() == b.tobytes()
    assert ops.cross_entropy.backward(2.0, saved, logits) is logits
    assert logits.tobytes() == a.tobytes()


class TestCrossEntropyGradient(OpSuite):
    op = GRADIENT

    @pytest.mark.parametrize("rows", [0, 1, 70])
    @pytest.mark.parametrize("classes", [2, 65, 2049, 40_000])
    def test_it_is_the_two_kernels_to_the_bit(self, native: str, rows: int, classes: int) -> None:
        s = sample(rows if classes < 3000 else min(rows, 5), classes, smoothing=0.1)
        logits, targets = s.arrays["logits"], s.arrays["targets"]
        options = tuple(s.options.values())
        dloss, lse = np.asarray(0.7, np.float32), np.zeros(targets.shape, np.float32)
        expected, got = np.zeros((2, 2), np.float32)
        kernels = backend.cpu_modules()[native]
        loss, count = expected[0:1].reshape(()), expected[1:2].reshape(())
        kernels.cross_entropy_forward(loss, count, lse, logits, targets, *options)
        dlogits = np.empty_like(logits)
        kernels.cross_entropy_backward(dlogits, dloss, count, lse, logits, targets, *options)
        for lses in (np.full_like(lse, 7), None):
            mine = logits.copy()
            loss, count = got[0:1].reshape(()), got[1:2].reshape(())
            kernels.cross_entropy_gradient(loss, count, lses, mine, dloss, targets, *options)
            assert mine.tobytes() == dlogits.tobytes()
            assert got.tobytes() == expected.tobytes()
            assert lses is None or lses.tobytes() == lse.tobytes()

    @pytest.mark.parametrize("bad", [-1, 17, 1 << 40])
    def test_nothing_is_written_before_the_targets_are_checked(self, native: str, bad: int) -> None:
        loss, count, dloss, logits = (np.ones(s, np.float32) for s in ((), (), (), (2, 17)))
        kernel = backend.cpu_modules()[native].cross_entropy_gradient
        with pytest.raises(IndexError):
            kernel(loss, count, None, logits, dloss, ids(3, bad), -100, 0.0, True)
        assert np.all(logits == 1)
        assert loss == count == 1


def test_the_upstream_gradient_may_be_a_number() -> None:
    logits = normal(generator("cross_entropy", "gradient"), 3, 5)
    a, b, default, one = (logits.copy() for _ in range(4))
    ops.cross_entropy.gradient_in_place(a, ids(0, 1, 2), 2.0)
    ops.cross_entropy.gradient_in_place(b, ids(0, 1, 2), np.asarray(2, np.float32))
    assert a.tobytes() == b.tobytes()
    ops.cross_entropy.gradient_in_place(default, ids(0, 1, 2))
    ops.cross_entropy.gradient_in_place(one, ids(0, 1, 2), 1.0)
    assert default.tobytes() == one.tobytes() != a.tobytes()


@pytest.mark.parametrize("target", [-1, 33, 2**40, -(2**40)])
@pytest.mark.parametrize("cols", [33, 1200])
def test_cuda_gives_a_nan_loss_for_an_invalid_target(target, cols, device_kernels):
    """Nothing is read out of bounds, and the gradient is NaN in the row of that target only."""
    logits = np.random.default_rng(5).standard_normal((4, cols)).astype(np.float32)
    targets = np.array([1, target if target != 33 else cols, -100, 2], np.int64)
    loss, count = np.zeros((), np.float32), np.zeros((), np.float32)
    lse, dlogits = np.zeros(4, np.float32), np.zeros_like(logits)
    options = (-100, 0.0, True)
    device_kernels.cross_entropy_forward(loss, count, lse, logits, targets, *options)
    assert np.isnan(loss)
    assert count == 3
    one = np.ones((), np.float32)
    device_kernels.cross_entropy_backward(dlogits, one, count, lse, logits, targets, *options)
    assert np.isnan(dlogits).all(axis=1).tolist() == [False, True, False, False]
    assert np.isnan(dlogits).any(axis=1).tolist() == [False, True, False, False]


@pytest.mark.parametrize("target", [-1, 33, 2**40, -(2**40)])
@pytest.mark.parametrize("cols", [33, 1200, 1203])
@pytest.mark.parametrize("shift", [0, 1])
def test_cuda_gives_a_nan_gradient_in_place_for_an_invalid_target(
    target, cols, shift, device_kernels
):
    """Rows begin at every distance from a multiple of 16 bytes; the other rows are right."""
    memory = np.random.default_rng(5).standard_normal(6 * cols + shift).astype(np.float32)
    logits = memory[shift:].reshape(6, cols)
    targets = np.array([1, target if target != 33 else cols, -100, 2, 0, cols - 1], np.int64)
    (loss, count), lse = np.zeros((2, 1), np.float32), np.zeros(6, np.float32)
    loss, count, dloss = loss.reshape(()), count.reshape(()), np.ones((), np.float32)
    device_kernels.cross_entropy_gradient(loss, count, lse, logits, dloss, targets, -100, 0.1, True)
    assert np.isnan(loss)
    assert count == 5
    wrong = [False, True, False, False, False, False]
    assert np.isnan(logits).all(axis=1).tolist() == np.isnan(logits).any(axis=1).tolist() == wrong
    assert not logits[2].any()
    np.testing.assert_allclose(logits[[0, 3, 4, 5]].sum(axis=1), 0, atol=1e-6)


def test_the_cuda_gradient_needs_no_lse(device_kernels):
    for cols in (33, 1200):
        logits = np.random.default_rng(5).standard_normal((4, cols)).astype(np.float32)
        targets = np.array([1, 3, -100, 2], np.int64)
        results = []
        for lse in (np.zeros(4, np.float32), None):
            loss, count, dloss = (np.ones((), np.float32) for _ in range(3))
            mine = logits.copy()
            device_kernels.cross_entropy_gradient(
                loss, count, lse, mine, dloss, targets, -100, 0.1, True
            )
            results.append((loss.tobytes(), count.tobytes(), mine.tobytes()))
        assert results[0] == results[1]
