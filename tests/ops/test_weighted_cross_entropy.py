"""Cross-entropy with class weights: the cases; probabilities and ids, rows that are left out, large
logits, and the log-probabilities of targets.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import strategies as st

from byhand import backend, ops
from tests.cuda.rules import EXP2, Rule
from tests.kernel_case import FORWARD, Bug, Call, Cuda, Error, Op, Sample, generator, normal
from tests.ops.sizes import SMALL, SOME, WIDTHS, rows_of
from tests.ops.suite import OpSuite, native_kernels


def sample(
    *shape: int,
    given: str = "ids",
    weighted: bool = True,
    ignore: int = -100,
    ignored: float = 0.3,
    smoothing: float = 0.0,
    mean: bool = True,
    normalise: bool = True,
    size: float = 1.0,
) -> Sample:
    """given: "ids", "probabilities", "one-hot" or "both"."""
    label = f"{'x'.join(map(str, shape))}-{given}" + ("-weighted" if weighted else "")
    label += ("" if mean else "-sum") + ("" if normalise else "-nll")
    label += (f"-smoothing {smoothing}" if smoothing else "") + f"-ignore {ignore}"
    label += (f"-size {size:g}" if size != 1 else "") + ("-all" if ignored == 1 else "")
    rng = generator("weighted_cross_entropy", label)
    logits = np.asarray(size, np.float32) * normal(rng, *shape)
    targets = rng.integers(0, max(shape[-1], 1), shape[:-1])
    targets[rng.random(shape[:-1]) < ignored] = ignore
    arrays = {"logits": logits}
    if given in ("ids", "both"):
        arrays["targets"] = targets
    if given != "ids":
        probabilities = np.exp(normal(rng, *shape))
        if given == "one-hot" and shape[-1]:
            probabilities = np.eye(shape[-1])[np.maximum(targets, 0)]
        probabilities = probabilities / np.maximum(probabilities.sum(axis=-1, keepdims=True), 1e-9)
        arrays["probabilities"] = probabilities.astype(np.float32)
    if weighted:
        weight = rng.random(shape[-1]).astype(np.float32) + np.float32(0.2)
        if shape[-1] > 3:
            weight[1] = 0  # a class that does not count
        arrays["weight"] = weight
    options = {"ignore_index": ignore, "smoothing": smoothing, "mean": mean}
    return Sample(label, arrays, {**options, "normalise": normalise}, smooth=size == 1)


def shapes(s: Sample) -> dict[str, tuple[int, ...]]:
    rows = s.arrays["logits"].shape[:-1]
    return {"loss": (), "total": (), "losses": rows, "lse": rows, "mass": rows}


def torch_forward(t, o):
    """PyTorch's losses of each row, and its mean and sum."""
    import torch
    import torch.nn.functional as f

    x = t.logits.flatten(0, -2)
    ids, probabilities = getattr(t, "targets", None), getattr(t, "probabilities", None)
    weight = getattr(t, "weight", None)
    how = {"weight": weight, "reduction": "none"}
    if ids is not None:
        ids = ids.reshape(-1)
    if not o["normalise"]:
        losses = f.nll_loss(x, ids, ignore_index=o["ignore_index"], **how)
    elif probabilities is not None:
        probabilities = probabilities.flatten(0, -2)
        losses = f.cross_entropy(x, probabilities, label_smoothing=o["smoothing"], **how)
    else:
        how |= {"ignore_index": o["ignore_index"], "label_smoothing": o["smoothing"]}
        losses = f.cross_entropy(x, ids, **how)
    kept = torch.ones(len(x), dtype=bool) if ids is None else ids != o["ignore_index"]
    losses = torch.where(kept, losses, 0)
    loss, total = losses.sum(), kept.sum().double()
    if weight is not None and probabilities is None:
        total = weight[ids[kept]].sum()
    if o["mean"] and total > 0:
        loss = loss / total
        if probabilities is None and o["normalise"]:  # as PyTorch itself takes the mean
            loss = f.cross_entropy(x, ids, **{**how, "reduction": "mean"})
    return {"loss": loss, "losses": losses.reshape(t.logits.shape[:-1]), "total": total}


def public(c: Call):
    """The losses of the rows, then the loss and the gradient of both together as two of each."""
    o = c.options
    names = ("logits", "targets", "probabilities", "weight")
    arguments = [c.arrays.get(name) for name in names]
    arguments += [o["ignore_index"], o["smoothing"]]
    losses, _ = ops.weighted_cross_entropy.forward(*arguments, "none", o["normalise"])
    reduction = "mean" if o["mean"] else "sum"
    loss, _ = ops.weighted_cross_entropy.forward(*arguments, reduction, o["normalise"])
    return {"loss": loss, "losses": losses}


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape)


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def backward_of_each(dloss):
    _, saved = ops.weighted_cross_entropy.forward(ones(2, 3), ids(0, 1), reduction="none")
    return ops.weighted_cross_entropy.backward(dloss, saved)


def wide() -> Iterator[Sample]:
    for columns in WIDTHS:
        given = "probabilities" if columns % 8 == 0 else "ids"
        smoothing = 0.1 if columns % 2 else 0.0
        yield sample(rows_of(columns), columns, given=given, smoothing=smoothing, size=4)
    yield sample(9001, 12, given="probabilities")  # more rows than the last kernel has threads


BUGS = (
    Bug("mean over all", "weighted_cross_entropy_forward", "row_weights.sum(dtype=np.float64)",
        "float(len(x))", None, FORWARD),
    Bug("no maximum", "weighted_cross_entropy_forward", "np.exp(x - top[:, None])",
        "(np.exp(x) / np.exp(top)[:, None])", None, FORWARD),
    Bug("mean without weights", "weighted_cross_entropy_forward",
        "weight is not None and probabilities is None", "False", None, FORWARD),
    Bug("mean of probabilities by weight", "weighted_cross_entropy_forward",
        "kept.astype(x.dtype)",
        "kept.astype(x.dtype) * (q.sum(-1) if probabilities is not None else 1)", None, FORWARD),
    Bug("always normalised", "weighted_cross_entropy_forward", "if normalise and", "if", None,
        "torch native"),
    Bug("weight forgotten", "weighted_cross_entropy_backward", "q = q * weight", "q = q * 1",
        "_distributions"),
    Bug("smoothing without weights", "weighted_cross_entropy_forward", "q = q * weight",
        "q = (q - smoothing / classes) * weight + smoothing / classes", "_distributions"),
    Bug("probabilities not smoothed", "weighted_cross_entropy_forward",
        "(1 - smoothing) * as_rows(probabilities)", "as_rows(probabilities)", "_distributions"),
    Bug("ignored rows have a mass", "weighted_cross_entropy_forward",
        "np.where(_kept(rows, targets, ignore_index)[:, None], q, 0)", "q", "_distributions",
        "native"),
    Bug("ignored rows have an lse", "weighted_cross_entropy_forward", "np.where(kept & normalise",
        "np.where(normalise", None, "native"),
    Bug("mass forgotten", "weighted_cross_entropy_backward", "mass[..., None] * np.exp",
        "np.exp"),
    Bug("dloss ignored", "weighted_cross_entropy_backward", "k if dlosses is None else k + dlosses",
        "0 if dlosses is None else dlosses"),
    Bug("dlosses ignored", "weighted_cross_entropy_backward",
        "k if dlosses is None else k + dlosses", "k"),
    Bug("always the sum", "weighted_cross_entropy_backward", "if mean and total > 0", "if False"),
)  # fmt: skip

OP = Op(
    name="weighted_cross_entropy",
    forward="weighted_cross_entropy_forward",
    backward="weighted_cross_entropy_backward",
    samples=(
        sample(3, 5, 17, given="both", smoothing=0.1),
        sample(3, 15, mean=False),
        sample(15, 16, ignore=3, smoothing=0.2),
        sample(16, 31, weighted=False, ignore=-1, mean=False, smoothing=0.2),
        sample(7, 31, weighted=False),
        sample(33, 17, smoothing=1.0),
        sample(6, 11, given="probabilities"),
        sample(6, 12, given="probabilities", weighted=False, smoothing=0.1, mean=False),
        sample(6, 13, given="one-hot", smoothing=0.3),
        sample(6, 11, normalise=False),
        sample(6, 12, normalise=False, weighted=False, mean=False),
        sample(0, 3),
        sample(0, 3, given="probabilities"),
        sample(3, 0, given="probabilities"),
        sample(2, 1),
        sample(1, 2, ignored=0),
        sample(2, 1023, ignored=0),
        sample(3, 1025, ignored=0, smoothing=0.1),
        sample(3, 1040, given="probabilities"),
        sample(1023, 2, mean=False),
        sample(5, 33, ignored=1, smoothing=0.1),
        sample(5, 33, ignored=1, mean=False, normalise=False),
        sample(7, 65, size=1e4, ignored=0),
        sample(7, 65, size=1e4, given="one-hot", smoothing=0.1),
    ),
    big=sample(1023, 257, smoothing=0.1),
    shapes=shapes,
    upstream={"loss": "dloss", "losses": "dlosses"},
    gradients={"logits": "dlogits"},
    torch=torch_forward,
    public=public,
    in_place=(("weighted_cross_entropy_backward", "dlogits", "logits"),),
    rows={
        "weighted_cross_entropy_forward": ("logits", ("losses", "lse", "mass")),
        "weighted_cross_entropy_backward": ("logits", ("dlogits",)),
    },
    planted=BUGS,
    drawn=st.builds(
        sample,
        SMALL,
        SOME,
        given=st.sampled_from(["ids", "probabilities", "one-hot", "both"]),
        weighted=st.booleans(),
        smoothing=st.sampled_from([0.0, 0.1]),
        mean=st.booleans(),
    ),
    past_caches=True,
    cuda=Cuda(
        wide=wide,
        instructions=(
            Rule("weighted_cross_entropy_forward_rows", stores=0, needs=(EXP2,)),
            Rule("weighted_cross_entropy_backward_rows", needs=(EXP2,)),
        ),
        inexact=("weighted_cross_entropy_forward", "weighted_cross_entropy_backward"),
    ),
    errors=(
        Error(
            ValueError,
            "weighted_cross_entropy.forward: targets or probabilities must be given",
            lambda: ops.weighted_cross_entropy.forward(ones(2, 3)),
        ),
        Error(
            TypeError,
            "weighted_cross_entropy.forward: targets must have dtype int64, got float64",
            lambda: ops.weighted_cross_entropy.forward(ones(2, 3), ones(2)),
        ),
        Error(
            IndexError,
            "weighted_cross_entropy.forward: targets[1] = 3 is outside the vocabulary 0..2",
            lambda: ops.weighted_cross_entropy.forward(ones(2, 3), ids(0, 3)),
        ),
        Error(
            ValueError,
            "weighted_cross_entropy.forward: probabilities[1, 2] = -0.5 is outside 0..1",
            lambda: ops.weighted_cross_entropy.forward(
                ones(2, 3), None, np.array([[1, 0, 0], [1, 0.5, -0.5]])
            ),
        ),
        Error(
            ValueError,
            "weighted_cross_entropy.forward: weight[1] = -1.0 must be at least 0",
            lambda: ops.weighted_cross_entropy.forward(
                ones(2, 3), ids(0, 1), None, np.array([1.0, -1.0, 1.0])
            ),
        ),
        Error(
            ValueError,
            "weighted_cross_entropy.forward: label_smoothing must be in 0..1, got 1.5",
            lambda: ops.weighted_cross_entropy.forward(ones(2, 3), ids(0, 1), label_smoothing=1.5),
        ),
        Error(
            ValueError,
            "weighted_cross_entropy.forward: reduction must be 'mean', 'sum' or 'none', got 'summ' "
            "(did you mean sum?)",
            lambda: ops.weighted_cross_entropy.forward(ones(2, 3), ids(0, 1), reduction="summ"),  # type: ignore[arg-type]
        ),
        Error(
            ValueError,
            "weighted_cross_entropy.backward: dloss must have shape (2,), got (3,)",
            lambda: backward_of_each(ones(3)),
        ),
        Error(
            ValueError,
            "weighted_cross_entropy.log_probabilities_backward: dy must have shape (2,), got ()",
            lambda: ops.weighted_cross_entropy.log_probabilities_backward(
                ones(), ops.weighted_cross_entropy.log_probabilities(ones(2, 3), ids(0, 1))[1]
            ),
        ),
    ),
)  # fmt: skip


class TestWeightedCrossEntropy(OpSuite):
    op = OP

    @pytest.mark.parametrize("case", OP.samples[:6], ids=lambda s: s.label)
    @pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
    def test_the_public_backward_pass(self, case: Sample, native: str, reduction: str) -> None:
        """Of each reduction; the kernels take both gradients at once."""
        names = ("logits", "targets", "probabilities", "weight")
        arrays = [case.arrays.get(name) for name in names]
        options = case.options["ignore_index"], case.options["smoothing"], reduction
        rows = case.arrays["logits"].shape[:-1]
        shape = rows if reduction == "none" else ()
        dloss = normal(generator("weighted_cross_entropy", case.label), *shape)
        found = []
        for dtype in (np.float32, np.float64):
            of_dtype = [a.astype(dtype) if a is not None and a.dtype == np.float32 else a
                        for a in arrays]  # fmt: skip
            with backend.use_cpu(native):
                _, saved = ops.weighted_cross_entropy.forward(*of_dtype, *options)
                found.append(ops.weighted_cross_entropy.backward(dloss.astype(dtype), saved))
        assert np.abs(found[1]).max() > 0.001
        np.testing.assert_allclose(found[0], found[1], atol=2e-6 * np.abs(found[1]).max())

    def test_a_nan_in_an_ignored_row_has_no_effect(self, native: str) -> None:
        logits = normal(generator("weighted_cross_entropy", "nan"), 3, 17)
        logits[1] = np.nan
        weight = np.linspace(0, 1, 17).astype(np.float32)
        with backend.use_cpu(native):
            for x, w in ((logits, weight), (logits.astype(np.float64), weight.astype(np.float64))):
                loss, saved = ops.weighted_cross_entropy.forward(x, ids(4, -100, 9), None, w)
                dlogits = ops.weighted_cross_entropy.backward(1.0, saved)
                assert np.isfinite(loss)
                assert not dlogits[1].any()
                assert np.isfinite(dlogits).all()

    def test_a_class_without_probability_may_be_ruled_out(self, native: str) -> None:
        """A logit of -inf whose probability in the target is 0: 0 log 0 is 0."""
        x = np.array([[0, 1, -np.inf], [2, -np.inf, 0.5]])
        y = np.array([[0.5, 0.5, 0], [1, 0, 0]])
        with backend.use_cpu(native):
            for dtype in (np.float32, np.float64):
                with np.errstate(all="raise"):  # and there is no warning
                    loss, saved = ops.weighted_cross_entropy.forward(
                        x.astype(dtype), None, y.astype(dtype), reduction="sum"
                    )
                dx = ops.weighted_cross_entropy.backward(1.0, saved)
                expected = np.log(1 + np.e) - 0.5 + np.log(1 + np.exp(-1.5))
                assert loss == pytest.approx(expected, rel=1e-6)
                assert np.isfinite(dx).all()

    @pytest.mark.parametrize("bad", [-1, 17, 1 << 40])
    def test_a_native_kernel_refuses_a_target_outside(self, native: str, bad: int) -> None:
        loss, total = np.ones((2, 1), np.float32)
        losses, lse, mass = np.ones((3, 2), np.float32)
        kernel = native_kernels(native).weighted_cross_entropy_forward
        results = loss.reshape(()), total.reshape(()), losses, lse, mass
        logits = np.ones((2, 17), np.float32)
        with pytest.raises(IndexError):
            kernel(*results, logits, ids(3, bad), None, None, -100, 0.0, True, True)
        assert all((a == 1).all() for a in results)

    def test_a_native_kernel_needs_targets_or_probabilities(self, native: str) -> None:
        (f,) = np.ones((1, 2), np.float32)
        one, x = np.ones((), np.float32), np.ones((2, 17), np.float32)
        kernels = native_kernels(native)
        with pytest.raises(ValueError, match="forward: targets or probabilities must be given"):
            kernels.weighted_cross_entropy_forward(
                one, one.copy(), f, f.copy(), f.copy(), x, None, None, None, -100, 0.0, True, True
            )
        with pytest.raises(ValueError, match="backward: targets or probabilities must be given"):
            kernels.weighted_cross_entropy_backward(
                x.copy(), one, None, one, f, f, x, None, None, None, -100, 0.0, True
            )


def test_without_classes_the_losses_are_0_and_there_is_no_warning() -> None:
    for dtype in (np.float32, np.float64):
        x = np.ones((3, 0), dtype)
        with np.errstate(all="raise"):
            losses, saved = ops.weighted_cross_entropy.forward(x, None, x, reduction="none")
            dx = ops.weighted_cross_entropy.backward(losses, saved)
        assert losses.shape == (3,)
        assert dx.shape == (3, 0)


def test_one_hot_rows_are_ids() -> None:
    x = normal(generator("weighted_cross_entropy", "one-hot"), 5, 7).astype(np.float64)
    t = ids(3, 0, 6, 3, 1)
    for smoothing in (0.0, 0.2):
        a, of_a = ops.weighted_cross_entropy.forward(x, t, label_smoothing=smoothing)
        b, of_b = ops.weighted_cross_entropy.forward(x, None, np.eye(7)[t], None, -100, smoothing)
        assert a == pytest.approx(b, rel=1e-13)
        da, db = (ops.weighted_cross_entropy.backward(2.0, saved) for saved in (of_a, of_b))
        np.testing.assert_allclose(da, db, atol=1e-15)


def test_targets_beside_probabilities_only_leave_rows_out() -> None:
    rng = generator("weighted_cross_entropy", "beside")
    x, y = normal(rng, 4, 7).astype(np.float64), np.abs(normal(rng, 4, 7)).astype(np.float64)
    y /= y.sum(axis=-1, keepdims=True)
    a, of_a = ops.weighted_cross_entropy.forward(x, ids(0, -100, 5, -100), y)
    b, of_b = ops.weighted_cross_entropy.forward(x[::2].copy(), None, y[::2].copy())
    assert a == pytest.approx(b, rel=1e-13)
    da, db = (ops.weighted_cross_entropy.backward(1.0, saved) for saved in (of_a, of_b))
    np.testing.assert_allclose(da[::2], db, atol=1e-15)
    assert not da[1::2].any()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_without_weights_it_is_cross_entropy(reduction, smoothing) -> None:
    x = 3 * normal(generator("weighted_cross_entropy", "plain"), 6, 33).astype(np.float64)
    t = ids(3, -100, 32, 0, 7, -100)
    options = -100, smoothing, reduction
    a, of_a = ops.weighted_cross_entropy.forward(x, t, None, None, *options)
    b, of_b = ops.cross_entropy.forward(x, t, *options)
    assert a == pytest.approx(b, rel=1e-12)
    da = ops.weighted_cross_entropy.backward(0.7, of_a)
    np.testing.assert_allclose(da, ops.cross_entropy.backward(0.7, of_b), atol=1e-14)


def test_the_log_probabilities_of_targets() -> None:
    rng = generator("weighted_cross_entropy", "log probabilities")
    x, dy = normal(rng, 2, 3, 5).astype(np.float64), normal(rng, 2, 3).astype(np.float64)
    t = np.array([[4, 0, -100], [1, 1, 3]])
    y, saved = ops.weighted_cross_entropy.log_probabilities(x, t)
    dx = ops.weighted_cross_entropy.log_probabilities_backward(dy, saved)
    log_p, _ = ops.log_softmax.forward(x)
    kept = t != -100
    expected = np.where(kept, np.take_along_axis(log_p, np.maximum(t, 0)[..., None], -1)[..., 0], 0)
    np.testing.assert_allclose(y, expected, atol=1e-14)
    onehot = np.eye(5)[np.maximum(t, 0)]
    expected = np.where(kept, dy, 0)[..., None] * (onehot - np.exp(log_p))
    np.testing.assert_allclose(dx, expected, atol=1e-14)


@pytest.mark.parametrize("target", [-1, 33, 2**40, -(2**40)])
@pytest.mark.parametrize("cols", [33, 1200])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cuda_gives_a_nan_loss_for_an_invalid_target(target, cols, smoothing, device_kernels):
    """Nothing is read out of bounds, and the gradient is NaN in the row of that target only."""
    logits = np.random.default_rng(5).standard_normal((4, cols)).astype(np.float32)
    targets = np.array([1, target if target != 33 else cols, -100, 2], np.int64)
    weight = np.linspace(0.5, 1, cols).astype(np.float32)
    loss, total = (np.ones((), np.float32) for _ in range(2))
    losses, lse, mass = (np.zeros(4, np.float32) for _ in range(3))
    inputs = logits, targets, None, weight
    device_kernels.weighted_cross_entropy_forward(
        loss, total, losses, lse, mass, *inputs, -100, smoothing, True, True
    )
    assert np.isnan(loss)
    assert np.isnan(losses).tolist() == [False, True, False, False]
    dlogits = np.zeros_like(logits)
    device_kernels.weighted_cross_entropy_backward(
        dlogits, None, np.ones(4, np.float32), total, lse, mass, *inputs, -100, smoothing, False
    )
    assert np.isnan(dlogits).all(axis=1).tolist() == [False, True, False, False]
    assert np.isnan(dlogits).any(axis=1).tolist() == [False, True, False, False]
