"""Scaled dot-product attention.

    p = softmax(scale q kT) over the keys that may be seen,      o = (p * z) v
    dp = (do vT) * z,      ds = scale * p * (dp - sum over keys of p * dp)
    dq = ds k,      dk = dsT q,      dv = (p * z)T do

Scores may be capped, s = cap tanh(s / cap), and then numbers may be added to them: slope times
distance (ALiBi) and a bias of any kind, whose gradient is ds / scale before the cap.

Vaswani et al., "Attention is all you need" (2017), equation 1; z is the dropout mask, 0 or
1/(1-dropout), redrawn in backward. Only the log-sum-exp of each row is kept: p = exp(scale q kT -
lse) is recomputed, and the sum over keys of p * dp equals sum(do * o), so the score matrix is never
written to memory (Dao et al., "FlashAttention", 2022, section 3.1 and appendix B). A query that may
see no key gives o = 0, lse = -inf and no gradient. Saved: q, k, v, o, lse.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from byhand.backend import (
    Array,
    In,
    Out,
    StridedIn,
    StridedOut,
    empty,
    is_array,
    is_cupy,
    kernels,
    reference_kernel,
    statistics,
    to_numpy,
)
from byhand.ops import check, philox
from byhand.ops.check import Saved
from byhand.ops.declare import op
from byhand.ops.heads import for_every_group, for_every_head, heads_first
from byhand.ops.philox import Offset
from byhand.ops.softmax import masked_scores


def _products(q: Array, k: Array, lengths: Array | None, scale: float) -> Array:
    keys = for_every_head(k, q.shape[2], lengths)
    return scale * (heads_first(q) @ keys.swapaxes(-1, -2))


def _positions(queries: int, keys: int) -> Array:
    """j - (i + S - T) for query i and key j: how far ahead a key is."""
    return np.arange(keys) - (np.arange(queries)[:, None] + keys - queries)


def _adjusted(scores: Array, slopes: Array | None, bias: Array | None, softcap: float) -> Array:
    """The scores after everything that acts on them before the masks."""
    if softcap > 0:
        scores = softcap * np.tanh(scores / softcap)
    if slopes is not None:
        ahead = _positions(*scores.shape[-2:]).astype(scores.dtype)
        scores = scores + slopes[:, None, None] * ahead
    if bias is not None:
        scores = scores + bias
    return scores


def _hidden(
    scores: Array,
    mask: Array | None,
    lengths: Array | None,
    sequences: Array | None,
    causal: bool,
    window: int,
) -> Array:
    """The scores, -inf for unseen keys."""
    queries, keys = scores.shape[-2:]
    seen = np.ones((1, 1, queries, keys), bool)
    if lengths is not None:
        seen = seen & (np.arange(keys) < lengths[:, None, None, None])
    if sequences is not None:
        seen = seen & (sequences[:, None, :, None] == sequences[:, None, None, :])
    if window > 0:
        seen = seen & (abs(_positions(queries, keys)) < window)
    return masked_scores(np.where(seen, scores, scores.dtype.type(-np.inf)), mask, causal)


def _dropout_scale(p: Array, dropout: float, seed: int, offset: Offset) -> Array:
    """z (B, H, T, S) in p's dtype: 0 where dropped, 1/(1-dropout) where kept."""
    b, h, t, s = p.shape
    kept = philox.keep(b * h * t, s, dropout, seed, philox.sum_of(offset)).reshape(p.shape)
    return kept.astype(p.dtype) * p.dtype.type(philox.rule(dropout)[1])


@reference_kernel
def attention_forward(
    o: Out,
    lse: Out[np.float32],
    work: Out[np.float32],
    q: StridedIn,
    k: StridedIn,
    v: StridedIn,
    mask: StridedIn[np.bool_] | None,
    lengths: In[np.int64] | None,
    slopes: In[np.float32] | None,
    bias: StridedIn | None,
    sequences: In[np.int64] | None,
    scale: float,
    causal: bool,
    window: int,
    softcap: float,
    dropout: float,
    seed: int,
    offset: Offset,
) -> None:
    work[...] = 0  # for CUDA
    s = _adjusted(_products(q, k, lengths, scale), slopes, bias, softcap)
    s = _hidden(s, mask, lengths, sequences, causal, window)
    top = s.max(axis=-1, keepdims=True, initial=-np.inf)
    e = np.exp(s - np.where(top == -np.inf, 0, top))
    total = e.sum(axis=-1, keepdims=True)
    p = e / np.where(total == 0, 1, total)
    with np.errstate(divide="ignore"):  # log(0) = -inf is right for a query that sees no key
        lse[...] = (top + np.log(total))[..., 0]
    if dropout > 0:
        p = p * _dropout_scale(p, dropout, seed, offset)
    o[...] = heads_first(p @ for_every_head(v, q.shape[2], lengths))


@reference_kernel
def attention_backward(
    dq: StridedOut,
    dk: StridedOut,
    dv: StridedOut,
    dbias: Out | None,
    work: Out[np.float32],
    do_: In,
    q: StridedIn,
    k: StridedIn,
    v: StridedIn,
    o: In,
    lse: In[np.float32],
    mask: StridedIn[np.bool_] | None,
    lengths: In[np.int64] | None,
    slopes: In[np.float32] | None,
    bias: StridedIn | None,
    sequences: In[np.int64] | None,
    scale: float,
    causal: bool,
    window: int,
    softcap: float,
    dropout: float,
    seed: int,
    offset: Offset,
) -> None:
    work[...] = 0  # for CUDA
    products = _products(q, k, lengths, scale)
    s = _adjusted(products, slopes, bias, softcap)
    s = _hidden(s, mask, lengths, sequences, causal, window)
    p = np.exp(s - np.where(lse == -np.inf, 0, lse)[..., None])
    g = heads_first(do_)
    dp = g @ for_every_head(v, q.shape[2], lengths).swapaxes(-1, -2)
    used = p
    if dropout > 0:
        z = _dropout_scale(p, dropout, seed, offset)
        dp, used = dp * z, p * z
    delta = (g * heads_first(o)).sum(axis=-1, keepdims=True)
    ds = p * (dp - delta)
    if dbias is not None:
        shared = tuple(axis for axis in (0, 1) if dbias.shape[axis] == 1)
        dbias[...] = ds.sum(axis=shared, keepdims=True)
    if softcap > 0:
        slope = 1 - np.tanh(products / softcap) ** 2
        ds = ds * np.where(p == 0, 0, slope)  # a NaN does not spread from what is not seen
    ds = scale * ds
    dq[...] = heads_first(ds @ for_every_head(k, q.shape[2], lengths))
    dk[...] = for_every_group(ds.swapaxes(-1, -2) @ heads_first(q), k.shape[2])
    dv[...] = for_every_group(used.swapaxes(-1, -2) @ g, k.shape[2])


# For a few queries the keys are divided among the multiprocessors, in pieces: attention_few.cuh.
_FEW_QUERIES = 4
_PIECE = 256


def forward_work_size(q: tuple[int, ...], k: tuple[int, ...]) -> int:
    """The size of `work` that CUDA needs for q and k of these shapes; the CPU needs none."""
    batch, queries, heads, depth = q
    pieces = -(-k[1] // _PIECE) if queries <= _FEW_QUERIES else 0
    return batch * queries * heads * pieces * (depth + 2)


def backward_work_size(q: tuple[int, ...]) -> int:
    """The same for the backward kernel: sum(do * o) of every query."""
    batch, queries, heads, _ = q
    return batch * queries * heads


@op(
    q="B T H D", k="B S G D", v="B S G D", mask="*?", lengths="B?", slopes="H?", bias="*?",
    sequences="B T?",
)  # fmt: skip
def forward(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    scale: float | None = None,
    causal: bool = False,
    dropout: float = 0.0,
    seed: int = 0,
    offset: Offset = 0,
    *,
    lengths: Array | None = None,
    window: int | None = None,
    slopes: Array | None = None,
    bias: Array | None = None,
    softcap: float | None = None,
    sequences: Array | None = None,
) -> tuple[Array, Saved]:
    """q (B, T, H, D), k and v (B, S, G, D) -> o (B, T, H, D), saved.

    q, k and v may be strided views whose last axis is contiguous (three parts of one packed array).
    H is a multiple of G: head h reads head h // (H // G) of k and v (grouped-query attention,
    Ainslie et al., 2023). A query sees the keys that all of these allow:

    mask: bool, broadcastable to (B, H, T, S), True where a key may be seen.
    causal: query i sees key j when j <= i + S - T.
    lengths: (B,) int64, how many keys each batch entry has; what follows is padding.
    window: query i sees key j when |i + S - T - j| < window (Beltagy et al., "Longformer", 2020).
    sequences: (B, T) int64 for S = T, several sequences packed in one row: the number of each
        position's sequence, which never decreases along a row. A query sees the keys of its own
        sequence only, and a row costs as much as its sequences apart.

    The scores of the keys are, in this order:

    scale: multiplied by it, 1/sqrt(D) when None.
    softcap: s becomes softcap tanh(s / softcap) (Gemma team, "Gemma 2", 2024, section 2).
    slopes: (H,) of float32 (float64 where q is): slopes[h] (j - (i + S - T)) is added (Press et
        al., "Train short, test long", 2022); nn.alibi_slopes makes those of the paper.
    bias: (B or 1, H or 1, T, S) in q's dtype, strided, is added (Raffel et al., "T5", 2020).

    dropout acts on the probabilities, its mask drawn from (seed, offset) as in dropout.forward.
    TypeError for a view with gaps in its last axis.
    ValueError when a shape does not fit, a length (of numpy arrays) is not in 0..S, sequences (of
    numpy arrays) decrease, window is below 1, softcap is not positive, dropout is outside
    0 <= p < 1, or seed or offset is not an unsigned 64-bit integer.
    """
    kernel = kernels(q).attention_forward
    for name, array in (("q", q), ("k", k), ("v", v)):
        check.last_axis("attention.forward", name, array)
    batch, queries, heads, depth = shape = q.shape
    if heads != k.shape[2] and (not k.shape[2] or heads % k.shape[2]):
        expected = f"({batch}, S, G, {depth}) with a G that divides {heads}"
        error = check.wrong_shape("attention.forward", "k", expected, k)
        raise ValueError(f"{error}, where q has shape {shape}")
    if mask is not None:
        mask = check.broadcast_mask("attention.forward", mask, (batch, heads, queries, k.shape[1]))
    if lengths is not None:
        check.lengths("attention.forward", "lengths", lengths, k.shape[1])
    if bias is not None:
        _check_bias(bias, (batch, heads, queries, k.shape[1]))
    if sequences is not None:
        _check_sequences(sequences, k.shape[1])
    if window is None:
        window = 0
    elif window < 1:
        raise check.wrong_value("attention.forward", "window", "at least 1", window)
    if softcap is None:
        softcap = 0.0
    else:
        check.positive("attention.forward", "softcap", softcap)
    if scale is None:
        scale = 1 / math.sqrt(depth) if depth else 1.0
    if dropout:
        check.probability("attention.forward", "dropout", dropout)
        check.counter("attention.forward", seed, offset)
    o, lse = empty(shape, q), empty((batch, heads, queries), q, statistics(q))
    work = empty((forward_work_size(shape, k.shape) if is_cupy(q) else 0,), q, statistics(q))
    options = (mask, lengths, slopes, bias, sequences, scale, causal, window, softcap, dropout)
    kernel(o, lse, work, q, k, v, *options, seed, offset)
    return o, (q, k, v, o, lse, *options, seed, offset)


def _check_bias(bias: Array, shape: tuple[int, ...]) -> None:
    batch, heads, queries, keys = shape
    if len(bias.shape) == 4 and bias.shape[2:] == (queries, keys):
        if bias.shape[0] in (1, batch) and bias.shape[1] in (1, heads):
            return
    expected = f"({batch} or 1, {heads} or 1, {queries}, {keys})"
    raise check.wrong_shape("attention.forward", "bias", expected, bias)


def _check_sequences(sequences: Array, keys: int) -> None:
    if sequences.dtype != np.int64:
        raise TypeError(
            f"attention.forward: sequences must have dtype int64, got {sequences.dtype}"
        )
    if sequences.shape[1] != keys:
        raise ValueError(
            f"attention.forward: sequences are for as many keys as queries, got {keys} and "
            f"{sequences.shape[1]}"
        )
    if isinstance(sequences, np.ndarray) and (sequences[:, 1:] < sequences[:, :-1]).any():
        row = int(np.argwhere((sequences[:, 1:] < sequences[:, :-1]).any(1))[0, 0])
        raise ValueError(f"attention.forward: sequences must not decrease, as row {row} does")


@op(saved={"q": "B T H D"}, dy="B T H D")
def backward(
    dy: Array,
    saved: Saved,
    out: tuple[Array, ...] | None = None,
    need_dbias: bool = False,
) -> tuple[Array, ...]:
    """dy (B, T, H, D) -> (dq, dk, dv), each of the shape of its input; with need_dbias or a fourth
    array in ``out`` (dq, dk, dv, dbias), which costs a pass of its own.

    out: the arrays to write into, of which the first three may be strided views with a contiguous
    last axis (three parts of one packed gradient); new ones are made when None. dbias is summed
    over the axes along which bias was repeated. ValueError when dbias is asked for without a bias.
    """
    q, k, v, o, lse, *options = saved
    bias = options[3]
    if out is None:
        out = empty(q.shape, q), empty(k.shape, q), empty(k.shape, q)
    dq, dk, dv, *rest = out
    if need_dbias and not rest and bias is not None:
        rest = [empty(bias.shape, q)]
    if (need_dbias or rest) and bias is None:
        raise ValueError("attention.backward: need_dbias is for a forward pass with a bias")
    if dq.shape != q.shape:
        raise check.wrong_shape("attention.backward", "out[0]", q.shape, dq)
    if dk.shape != k.shape:
        raise check.wrong_shape("attention.backward", "out[1]", k.shape, dk)
    if dv.shape != k.shape:
        raise check.wrong_shape("attention.backward", "out[2]", k.shape, dv)
    for n, given in enumerate((dq, dk, dv)):
        check.last_axis("attention.backward", f"out[{n}]", given)
    dbias = rest[0] if rest else None
    if dbias is not None and dbias.shape != bias.shape:
        raise check.wrong_shape("attention.backward", "out[3]", bias.shape, dbias)
    work = empty((backward_work_size(q.shape) if is_cupy(q) else 0,), q, statistics(q))
    kernels(q).attention_backward(dq, dk, dv, dbias, work, dy, q, k, v, o, lse, *options)
    return (dq, dk, dv) if dbias is None else (dq, dk, dv, dbias)


def weights(saved: Saved) -> np.ndarray:
    """The probabilities (B, H, T, S) of a forward pass, before dropout: a numpy array to be read.

    They take the memory that attention itself avoids.
    """
    entries: list[Any] = [to_numpy(a) if is_array(a) else a for a in saved]
    q, k, _, _, lse, mask, lengths, slopes, bias, sequences, *rules = entries
    scale, causal, window, softcap, *_ = rules
    q, k = q.astype(lse.dtype), k.astype(lse.dtype)  # numpy multiplies no bfloat16
    bias = None if bias is None else bias.astype(lse.dtype)
    scores = _adjusted(_products(q, k, lengths, scale), slopes, bias, softcap)
    scores = _hidden(scores, mask, lengths, sequences, causal, window)
    p: np.ndarray = np.exp(scores - np.where(lse == -np.inf, 0, lse)[..., None])
    return p
