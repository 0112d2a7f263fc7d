"""The oracle on trial: it must reject every planted bug, and accept what is right.

Most bugs are edits of the reference's own text, so that each differs from the truth by one thought.
"""

from __future__ import annotations

import ctypes
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from byhand import backend
from tests import oracle
from tests.kernel_case import Op, Rejected, bare_reference
from tests.ops.test_registry import all_ops

OPS = {op.name: op for op in all_ops()}
OP_OF = {kernel: op for op in OPS.values() for kernel in op.kernels}


def rejects(check: str, op: Op, kernels: Any) -> bool:
    """Whether one check of the oracle finds fault with `kernels` in any sample."""
    for sample in op.samples:
        try:
            if check == "differences":
                if sample.smooth:
                    oracle.check_differences(op, sample, kernels)
            elif check == "torch":
                oracle.check_torch(op, sample, kernels)
            elif check == "native":
                oracle.check_native(op, sample, kernels)
                oracle.check_native(op, sample, kernels, shift=1)
            elif check == "bits":
                oracle.check_same_bits(op, sample, kernels, backend.set_num_threads)
            elif check == "in place":
                oracle.check_in_place(op, sample, kernels)
            else:
                oracle.check_rows(op, sample, kernels)
        except Rejected:
            return True
    return False


def source_of(function: Callable[..., Any]) -> str:
    lines = textwrap.dedent(inspect.getsource(inspect.unwrap(function))).splitlines()
    return "\n".join(line for line in lines if not line.startswith("@")) + "\n"


def edited(kernel: str, helper: str | None, edits: tuple[tuple[str, str], ...]) -> SimpleNamespace:
    """The reference kernels with one of them, or a function it calls, rewritten."""
    body = inspect.unwrap(getattr(backend.reference, kernel))
    scope = dict(body.__globals__)
    target = kernel if helper is None else helper
    text = source_of(body if helper is None else scope[helper])
    for old, new in edits:
        assert text.count(old) >= 1, f"{target} has no {old!r} to edit"
        text = text.replace(old, new)
    for name, code in ((target, text), (kernel, None if helper is None else source_of(body))):
        if code is not None:
            exec(compile(code, f"<{name} with a bug>", "exec"), scope)
    kernels = bare_reference()
    setattr(kernels, kernel, scope[kernel])
    return kernels


@dataclass(frozen=True)
class Bug:
    """caught_by: every check here must reject it."""

    what: str
    kernel: str
    old: str
    new: str
    helper: str | None = None
    caught_by: str = "differences torch native"


FORWARD = "torch native"  # a wrong forward pass may still be differentiated correctly
ROUNDING = "torch native"  # what is rounded has no finite differences
NUMERIC = "native"  # right in float64

BUGS = [
    # softmax
    Bug("mask ignored", "softmax_forward", "if mask is not None", "if False", "masked_scores",
        FORWARD),
    Bug("causal by one", "softmax_forward", "keys - queries", "keys - queries + 1",
        "masked_scores", FORWARD),
    Bug("causal from the start", "softmax_forward", "keys - queries", "0", "masked_scores",
        FORWARD),
    Bug("scale missing forward", "softmax_forward", "scale * x", "x"),
    Bug("scale missing backward", "softmax_backward", "scale * y", "y"),
    Bug("sum missing", "softmax_backward", "(dy - (dy * y).sum(axis=-1, keepdims=True))", "dy"),
    Bug("no maximum", "softmax_forward", "z - np.where(top == -np.inf, 0, top)", "z", None,
        FORWARD),
    Bug("0/0", "softmax_forward", "np.where(total == 0, 1, total)", "total", None, FORWARD),
    # log_softmax
    Bug("exp missing", "log_softmax_backward", "np.exp(y) * ", ""),
    Bug("sign", "log_softmax_backward", "dy - ", "dy + "),
    Bug("log of softmax", "log_softmax_forward",
        "z - np.log(np.exp(z).sum(axis=-1, keepdims=True))",
        "np.log(np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True))", None, FORWARD),
    # layernorm
    Bug("mean term dropped", "layernorm_backward", "mean_last(g) + ", ""),
    Bug("projection dropped", "layernorm_backward", " + shat * mean_last(g * shat)", ""),
    Bug("weight forgotten", "layernorm_backward", "g = dy * w", "g = dy"),
    Bug("dw without shat", "layernorm_backward", "(dy * shat).sum", "dy.sum"),
    Bug("dw = for +=", "layernorm_backward", "dw += ", "dw[...] = "),
    Bug("db = for +=", "layernorm_backward", "db += ", "db[...] = "),
    Bug("db twice", "layernorm_backward", "db += ", "db += 2 * "),
    Bug("ds ignored", "layernorm_backward", "(g - through) + ds", "(g - through)"),
    Bug("eps outside", "layernorm_forward", "mean_last(centred * centred) + eps)",
        "mean_last(centred * centred)) + eps * 0"),
    Bug("C - 1", "layernorm_forward", "mean_last(centred * centred)",
        "mean_last(centred * centred) * x.shape[-1] / max(x.shape[-1] - 1, 1)"),
    Bug("bias forgotten", "layernorm_forward", "normal + b", "normal"),
    Bug("one pass", "layernorm_forward", "mean_last(centred * centred)",
        "mean_last(x * x) - mu * mu", None, NUMERIC),
    Bug("half precision", "layernorm_forward", "centred * scale",
        "(centred * scale).astype(np.float16).astype(x.dtype)", None, FORWARD),
    Bug("residual forgotten", "layernorm_forward", "s[...] = x + add", "s[...] = x", "sum_of"),
    Bug("norm of x alone", "layernorm_forward", "return s\n", "return x\n", "sum_of"),
    # rmsnorm
    Bug("projection dropped", "rmsnorm_backward", "through = shat * ", "through = 0 * "),
    Bug("weight forgotten", "rmsnorm_backward", "g = dy * w", "g = dy"),
    Bug("dw without shat", "rmsnorm_backward", "(dy * shat).sum", "dy.sum"),
    Bug("dw = for +=", "rmsnorm_backward", "dw += ", "dw[...] = "),
    Bug("ds ignored", "rmsnorm_backward", "(g - through) + ds", "(g - through)"),
    Bug("centred", "rmsnorm_forward", "mean_last(x * x) + eps", "x.var(-1, keepdims=True) + eps",
        None, FORWARD),
    Bug("eps outside", "rmsnorm_forward", "np.sqrt(mean_last(x * x) + eps)",
        "(np.sqrt(mean_last(x * x)) + eps)"),
    Bug("sum for mean", "rmsnorm_forward", "mean_last(x * x)", "(x * x).sum(-1, keepdims=True)"),
    Bug("norm of x alone", "rmsnorm_forward", "return s\n", "return x\n", "sum_of"),
    # bias_gelu
    Bug("x pdf dropped", "bias_gelu_backward",
        " + u * np.exp(-0.5 * u * u) / math.sqrt(2 * math.pi)", "", "gelu_derivative"),
    Bug("inner dropped", "bias_gelu_backward", "(1 - t * t) * inner", "(1 - t * t)",
        "gelu_derivative"),
    Bug("bias ignored", "bias_gelu_backward", "x if b is None else x + b", "x"),
    Bug("forms swapped", "bias_gelu_forward", "x + b, tanh", "x + b, not tanh"),
    Bug("rounded constant", "bias_gelu_forward", "_CUBIC", "0.0447", "gelu"),
    Bug("output read", "bias_gelu_forward", "y[...] = ", "y[...] += "),
    Bug("db = for +=", "bias_gelu_backward", "db += ", "db[...] = "),
    # linear
    Bug("bias forgotten", "linear_forward", "out = out + b", "pass"),
    Bug("residual forgotten", "linear_forward", "out + add", "out"),
    Bug("dw transposed", "linear_backward", "dw += as_rows(dy).T @ as_rows(x)",
        "dw += (as_rows(x).T @ as_rows(dy)).reshape(dw.shape)"),
    Bug("dw = for +=", "linear_backward", "dw += ", "dw[...] = "),
    Bug("db averaged", "linear_backward", "as_rows(dy).sum(axis=0)",
        "as_rows(dy).sum(axis=0) / max(len(as_rows(dy)), 1)"),
    Bug("dx reversed", "linear_backward", "dy @ w", "(dy @ w)[..., ::-1]"),
    Bug("w not rounded", "linear_forward", "operands(bf16, x, w)",
        "(*operands(bf16, x), w)", None, ROUNDING),
    Bug("dy not rounded", "linear_backward", "dy, x, w = operands(bf16, dy, x, w)",
        "x, w = operands(bf16, x, w)", None, ROUNDING),
    Bug("bias rounded", "linear_forward", "out + b", "out + operands(bf16, b)[0]", None, ROUNDING),
    Bug("db from rounded dy", "linear_backward", "as_rows(dy).sum(axis=0)",
        "as_rows(operands(bf16, dy)[0]).sum(axis=0)", None, ROUNDING),
    # gelu_ffn
    Bug("b1 forgotten", "gelu_ffn_forward", "x @ w1.T + b1", "x @ w1.T"),
    Bug("derivative at h", "gelu_ffn_backward", "gelu_derivative(pre,", "gelu_derivative(hidden,"),
    Bug("dw2 from pre", "gelu_ffn_backward", "as_rows(dy).T @ as_rows(hidden)",
        "as_rows(dy).T @ as_rows(pre)"),
    Bug("db1 before the gate", "gelu_ffn_backward", "as_rows(d).sum(axis=0)",
        "as_rows(dy @ w2).sum(axis=0)"),
    Bug("dw1 = for +=", "gelu_ffn_backward", "dw1 += ", "dw1[...] = "),
    # matmul
    Bug("da not turned back", "matmul_backward", "g.T if transpose_a else g",
        "g.reshape(da.shape)"),
    Bug("db not turned back", "matmul_backward", "g.T if transpose_b else g",
        "g.reshape(db.shape)"),
    Bug("written is added", "matmul_backward", "db[...] = ", "db[...] += "),
    # attention
    Bug("heads mixed up", "attention_forward",
        "_heads_first(p @ _for_every_head(v, q.shape[2], lengths))",
        "(p @ _for_every_head(v, q.shape[2], lengths)).reshape(o.shape)"),
    Bug("lse without maximum", "attention_forward", "top + np.log(total)", "np.log(total)"),
    Bug("dk doubled", "attention_backward", "_for_every_group(ds.swapaxes",
        "_for_every_group(2 * ds.swapaxes"),
    Bug("scale missing", "attention_backward", "ds = scale * p", "ds = p"),
    Bug("delta missing", "attention_backward", "(dp - delta)", "dp"),
    Bug("mask ignored", "attention_backward", "k, mask,", "k, None,"),
    Bug("not causal", "attention_backward", "scale, causal, window)",
        "scale, False, window)"),
    Bug("no 1/(1-p)", "attention_forward", " * p.dtype.type(philox.rule(dropout)[1])", "",
        "_dropout_scale"),
    Bug("window one wider", "attention_backward", "causal, window)",
        "causal, window + (window > 0))"),
    Bug("lengths ignored", "attention_forward", "mask, lengths,", "mask, None,"),
    Bug("lengths one longer", "attention_backward", "mask, lengths,",
        "mask, lengths if lengths is None else lengths + 1,"),
    Bug("window one-sided", "attention_forward", "abs(position - np.arange(keys))",
        "(position - np.arange(keys))", "_scores"),
    Bug("another group", "attention_forward", "np.repeat(_heads_first(a), heads // groups if "
        "groups else 1, axis=1)", "np.tile(_heads_first(a), (1, heads // groups if groups else 1, "
        "1, 1))", "_for_every_head"),
    Bug("a head missing", "attention_backward", ".sum(2))", "[:, :, 0])", "_for_every_group"),
    Bug("another dropout", "attention_backward", "seed, offset)", "seed, offset - 1)"),
    Bug("dv not dropped", "attention_backward", "dp * z, p * z", "dp * z, p"),
    Bug("dk and dv swapped", "attention_backward", "dk[...] =", "dv, dk = dk, dv\n    dv[...] ="),
    # cross_entropy
    Bug("no smoothing", "cross_entropy_backward", "g -= smoothing / max(logits.shape[-1], 1)",
        "pass"),
    Bug("mean over all", "cross_entropy_forward", "max(kept.size, 1) if",
        "max(targets.size, 1) if"),
    Bug("ignored rows kept", "cross_entropy_backward", "g[~kept] = 0", "pass"),
    Bug("dloss ignored", "cross_entropy_backward",
        "dloss / np.maximum(count, 1) if mean else dloss",
        "1 / max(count, 1) if mean else 1"),
    Bug("one-hot forgotten", "cross_entropy_backward", "g[rows, ids[rows]] -= 1 - smoothing",
        "pass"),
    Bug("no maximum", "cross_entropy_forward", "np.exp(logits - top)",
        "(np.exp(logits) / np.exp(top))", None, FORWARD),
    # cross_entropy_gradient
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
    # linear_cross_entropy
    Bug("dloss ignored", "linear_cross_entropy_forward", "np.asarray(dloss,", "np.asarray(1,"),
    Bug("dw = for +=", "linear_cross_entropy_forward", "dw += ", "dw[...] = "),
    Bug("dx of the logits", "linear_cross_entropy_forward", "dlogits @ w", "logits @ w"),
    Bug("x not rounded", "linear_cross_entropy_forward", "x, w = operands(bf16, x, w)",
        "(w,) = operands(bf16, w)", None, ROUNDING),
    Bug("dlogits not rounded", "linear_cross_entropy_forward",
        "(dlogits,) = operands(bf16, dlogits)", "pass", None, "torch"),
    # embedding
    Bug("overwritten", "embedding_backward", "np.add.at(dw, ids.reshape(-1), as_rows(dy))",
        "dw[ids.reshape(-1)] = as_rows(dy)"),
    Bug("repeats lost", "embedding_backward", "np.add.at(dw, ids.reshape(-1), as_rows(dy))",
        "dw[ids.reshape(-1)] += as_rows(dy)"),
    Bug("residual forgotten", "embedding_forward", "w[ids] + add", "w[ids]"),
    # dropout
    Bug("no 1/(1-p)", "dropout_forward", "x * x.dtype.type(philox.rule(p)[1])", "x",
        "_dropped"),
    Bug("another mask", "dropout_backward", "seed, offset)", "seed ^ 1, offset)"),
    Bug("residual dropped", "dropout_forward", "_dropped(x, p, seed, offset)",
        "_dropped(x if add is None else x + add, p, seed, offset) - (0 if add is None else add)"),
    # adamw, grad_norm, clip
    Bug("m not corrected", "adamw_step", "rate / (1 - beta1**steps)", "rate", None, FORWARD),
    Bug("v not corrected", "adamw_step", "v / (1 - beta2**steps)", "v", None, FORWARD),
    Bug("corrected by the step before", "adamw_step", "steps = int(t)", "steps = int(t) - 1", None,
        FORWARD),
    Bug("not counted", "adamw_step", "t += 1\n    steps = int(t)", "steps = int(t) + 1", None,
        FORWARD),
    Bug("group ends one late", "adamw_step", 'side="right"', 'side="left"', None, FORWARD),
    Bug("one group for all", "adamw_step", "lr[group], weight_decay[group]",
        "lr[0], weight_decay[0]", None, FORWARD),
    Bug("decay of the next group", "adamw_step", "weight_decay[group]",
        "np.roll(weight_decay, -1)[group]", None, FORWARD),
    Bug("decay not times rate", "adamw_step", "1 - rate * decay", "1 - lr[0] * decay", None,
        FORWARD),
    Bug("copy of the old weights", "adamw_step", "    w *= 1 - rate * decay\n",
        "    if copy is not None:\n        copy[...], copy = w, None\n"
        "    w *= 1 - rate * decay\n", None, FORWARD),
    Bug("eps inside", "adamw_step", "v / (1 - beta2**steps)) + eps",
        "v / (1 - beta2**steps) + eps)", None, FORWARD),
    Bug("not clipped", "adamw_step", "if norm is not None:", "if False:", None, FORWARD),
    Bug("made with an infinite norm", "adamw_step", "not np.isfinite(norm)", "np.isnan(norm)", None,
        FORWARD),
    Bug("made with a norm of NaN", "adamw_step", "not np.isfinite(norm)", "np.isinf(norm)", None,
        FORWARD),
    Bug("g not squared", "adamw_step", "* g * g", "* abs(g)", None, FORWARD),
    Bug("not rooted", "grad_norm", "np.sqrt(work.sum(dtype=np.float64))",
        "work.sum(dtype=np.float64)", None, FORWARD),
    Bug("last share lost", "grad_norm", "range(work.size)", "range(max(work.size - 1, 1))", None,
        NUMERIC),
    Bug("made longer", "clip", "np.minimum(1, max_norm / (norm + 1e-6))",
        "np.asarray(max_norm / (norm + 1e-6))", "clip_factor", FORWARD),
]  # fmt: skip


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: f"{bug.kernel}-{bug.what}")
def test_a_planted_bug_is_rejected(bug: Bug) -> None:
    kernels = edited(bug.kernel, bug.helper, ((bug.old, bug.new),))
    for check in bug.caught_by.split():
        if check == "torch":
            pytest.importorskip("torch")
        assert rejects(check, OP_OF[bug.kernel], kernels), f"{check} lets it pass"


# --- Bugs of memory, order and isolation --------------------------------------------------------


def writable(a: Any, count: int) -> Any:
    """The memory of `a`, and what lies after it, as C sees it: `count` numbers, all writable."""
    pointer = ctypes.cast(a.ctypes.data, ctypes.POINTER(ctypes.c_float))
    return np.ctypeslib.as_array(pointer, (count,))


def reads_past_the_tail(y: Any, x: Any, b: Any, tanh: bool) -> None:
    TRUTH.bias_gelu_forward(y, x, b, tanh)
    if x.size:
        y.reshape(-1)[-1] += 0 * writable(x, x.size + 1)[-1]


def writes_past_the_tail(y: Any, x: Any, b: Any, tanh: bool) -> None:
    TRUTH.bias_gelu_forward(y, x, b, tanh)
    writable(y, y.size + 1)[-1] = 0


def leaves_the_tail(y: Any, x: Any, b: Any, tanh: bool) -> None:
    whole = x.shape[-1] // 16 * 16
    if b is None:
        y[..., :whole] = TRUTH_GELU(x[..., :whole], tanh)
    else:
        y[..., :whole] = TRUTH_GELU(x[..., :whole] + b[:whole], tanh)


def changes_an_input(y: Any, x: Any, b: Any, tanh: bool) -> None:
    TRUTH.bias_gelu_forward(y, x, b, tanh)
    if b is not None and x.size:
        writable(x, x.size)[...] = (x + b).reshape(-1)


def writes_between_strided_rows(*arguments: Any) -> None:
    TRUTH.attention_backward(*arguments)
    dq = arguments[0]
    if dq.size and not dq.flags.c_contiguous:
        writable(dq, dq.shape[-1] + 1)[-1] = 0


def adds_by_thread(dw: Any, work: Any, dy: Any, ids: Any) -> None:
    if dw is not None:
        threads = backend.get_num_threads()
        for part in range(threads):
            np.add.at(dw, ids.reshape(-1)[part::threads], dy.reshape(ids.size, -1)[part::threads])


def adds_in_any_order(dw: Any, work: Any, dy: Any, ids: Any) -> None:
    if dw is not None:
        order = np.random.default_rng().permutation(ids.size)
        np.add.at(dw, ids.reshape(-1)[order], dy.reshape(ids.size, dw.shape[1])[order])


def reads_what_it_has_written(dx: Any, dy: Any, y: Any, scale: float) -> None:
    dx[...] = scale * y * dy
    dx -= scale * y * (dy * y).sum(axis=-1, keepdims=True)


def spreads_nan(y: Any, x: Any) -> None:
    TRUTH.log_softmax_forward(y, x)
    y += 0 * x.sum()


def loses_nan(y: Any, x: Any) -> None:
    TRUTH.log_softmax_forward(y, np.nan_to_num(x))


TRUTH = bare_reference()
TRUTH_GELU = inspect.unwrap(backend.reference.bias_gelu_forward).__globals__["gelu"]

MISBEHAVIOURS = [
    ("bias_gelu_forward", reads_past_the_tail, "native"),
    ("bias_gelu_forward", writes_past_the_tail, "native"),
    ("bias_gelu_forward", leaves_the_tail, "native"),
    ("bias_gelu_forward", changes_an_input, "native"),
    ("attention_backward", writes_between_strided_rows, "native"),
    ("embedding_backward", adds_by_thread, "bits"),
    ("embedding_backward", adds_in_any_order, "bits"),
    ("softmax_backward", reads_what_it_has_written, "in place"),
    ("log_softmax_forward", spreads_nan, "rows"),
    ("log_softmax_forward", loses_nan, "rows"),
]


@pytest.fixture
def threads() -> Iterator[None]:
    before = backend.get_num_threads()
    yield
    backend.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("kernel", "body", "check"), MISBEHAVIOURS, ids=lambda p: str(p)[:40])
def test_misbehaviour_is_rejected(kernel: str, body: Callable[..., None], check: str) -> None:
    kernels = bare_reference()
    setattr(kernels, kernel, body)
    assert rejects(check, OP_OF[kernel], kernels)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("op", OPS.values(), ids=lambda op: op.name)
def test_what_is_right_is_accepted(op: Op) -> None:
    """The reference itself, run in float32 where a native kernel would run."""
    for check in ("native", "bits", "in place", "rows"):
        assert not rejects(check, op, bare_reference()), check


def test_ones_upstream_would_let_bugs_pass() -> None:
    """Why the upstream gradient is random: with ones the gradient of softmax is 0, bug or not."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 5))
    broken = edited("softmax_backward", None, (("scale * y", "7 * y"),))
    y, right, wrong = (np.empty_like(x) for _ in range(3))
    TRUTH.softmax_forward(y, x, None, 1.0, False)
    TRUTH.softmax_backward(right, np.ones_like(y), y, 1.0)
    broken.softmax_backward(wrong, np.ones_like(y), y, 1.0)
    np.testing.assert_allclose(right, wrong, atol=1e-15)
    assert rejects("differences", OPS["softmax"], broken)
