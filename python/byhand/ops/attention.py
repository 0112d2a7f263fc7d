"""Scaled dot-product attention.

    p = softmax(scale q kT) over the keys that may be seen,      o = (p * z) v
    dp = (do vT) * z,      ds = scale * p * (dp - sum over keys of p * dp)
    dq = ds k,      dk = dsT q,      dv = (p * z)T do

Vaswani et al., "Attention is all you need" (2017), equation 1; z is the dropout mask, 0 or
1/(1-dropout), redrawn in backward. Only the log-sum-exp of each row is kept: p = exp(scale q kT -
lse) is made again, and the sum over keys of p * dp equals sum(do * o), so the score matrix need
never reach memory (Dao et al., "FlashAttention", 2022, section 3.1 and appendix B). A query with
nothing to see gives o = 0 and lse = -inf, and no gradient. Saved: q, k, v, o, lse.
"""

import math

import numpy as np

from byhand.backend import (
    Array,
    In,
    Out,
    StridedIn,
    StridedOut,
    empty,
    kernels,
    reference_kernel,
    statistics,
)
from byhand.ops import check, philox
from byhand.ops.check import Saved
from byhand.ops.softmax import masked_scores


def _heads_first(a: Array) -> Array:
    return a.transpose(0, 2, 1, 3)


def _scores(q: Array, k: Array, mask: Array | None, scale: float, causal: bool) -> Array:
    scores = scale * (_heads_first(q) @ k.transpose(0, 2, 3, 1))
    return masked_scores(scores, mask, causal)


def _dropout_scale(p: Array, dropout: float, seed: int, offset: int) -> Array:
    """z (B, H, T, S) in p's dtype: 0 where dropped, 1/(1-dropout) where kept."""
    b, h, t, s = p.shape
    kept = philox.keep(b * h * t, s, dropout, seed, offset).reshape(p.shape)
    return kept.astype(p.dtype) * p.dtype.type(philox.rule(dropout)[1])


@reference_kernel
def attention_forward(
    o: Out,
    lse: Out,
    q: StridedIn,
    k: StridedIn,
    v: StridedIn,
    mask: StridedIn | None,
    scale: float,
    causal: bool,
    dropout: float,
    seed: int,
    offset: int,
) -> None:
    s = _scores(q, k, mask, scale, causal)
    top = s.max(axis=-1, keepdims=True, initial=-np.inf)
    e = np.exp(s - np.where(top == -np.inf, 0, top))
    total = e.sum(axis=-1, keepdims=True)
    p = e / np.where(total == 0, 1, total)
    with np.errstate(divide="ignore"):  # log(0) = -inf is the answer for a row with nothing to see
        lse[...] = (top + np.log(total))[..., 0]
    if dropout > 0:
        p = p * _dropout_scale(p, dropout, seed, offset)
    o[...] = _heads_first(p @ _heads_first(v))


@reference_kernel
def attention_backward(
    dq: StridedOut,
    dk: StridedOut,
    dv: StridedOut,
    do_: In,
    q: StridedIn,
    k: StridedIn,
    v: StridedIn,
    o: In,
    lse: In,
    mask: StridedIn | None,
    scale: float,
    causal: bool,
    dropout: float,
    seed: int,
    offset: int,
) -> None:
    s = _scores(q, k, mask, scale, causal)
    p = np.exp(s - np.where(lse == -np.inf, 0, lse)[..., None])
    g = _heads_first(do_)
    dp = g @ v.transpose(0, 2, 3, 1)
    used = p
    if dropout > 0:
        z = _dropout_scale(p, dropout, seed, offset)
        dp, used = dp * z, p * z
    delta = (g * _heads_first(o)).sum(axis=-1, keepdims=True)
    ds = scale * p * (dp - delta)
    dq[...] = _heads_first(ds @ _heads_first(k))
    dk[...] = _heads_first(ds.swapaxes(-1, -2) @ _heads_first(q))
    dv[...] = _heads_first(used.swapaxes(-1, -2) @ g)


@check.door
def forward(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    scale: float | None = None,
    causal: bool = False,
    dropout: float = 0.0,
    seed: int = 0,
    offset: int = 0,
) -> tuple[Array, Saved]:
    """q (B, T, H, D), k and v (B, S, H, D) -> o (B, T, H, D), saved.

    q, k and v may be strided views whose last axis is contiguous (three parts of one packed array).
    mask: bool, broadcastable to (B, H, T, S), True where a key may be seen. causal: query i sees
    key j when j <= i + S - T. scale: 1/sqrt(D) when None. dropout acts on the probabilities, its
    mask drawn from (seed, offset).
    ValueError when a shape does not fit, dropout is outside 0 <= p < 1, or seed or offset is no
    unsigned 64-bit integer.
    """
    kernel = kernels(q).attention_forward
    if q.ndim != 4:
        raise check.wrong_shape("attention.forward", "q", "(B, T, H, D)", q)
    batch, queries, heads, depth = shape = q.shape
    if k.ndim != 4 or k.shape != (batch, k.shape[1], heads, depth):
        raise check.wrong_shape("attention.forward", "k", f"({batch}, S, {heads}, {depth})", k)
    if v.shape != k.shape:
        raise check.wrong_shape("attention.forward", "v", k.shape, v)
    if mask is not None:
        mask = check.broadcast_mask("attention.forward", mask, (batch, heads, queries, k.shape[1]))
    if scale is None:
        scale = 1 / math.sqrt(depth) if depth else 1.0
    if dropout:
        check.probability("attention.forward", "dropout", dropout)
        check.counter("attention.forward", seed, offset)
    o, lse = empty(shape, q), empty((batch, heads, queries), q, statistics(q))
    kernel(o, lse, q, k, v, mask, scale, causal, dropout, seed, offset)
    return o, (q, k, v, o, lse, mask, scale, causal, dropout, seed, offset)


@check.door
def backward(
    dy: Array, saved: Saved, out: tuple[Array, Array, Array] | None = None
) -> tuple[Array, Array, Array]:
    """dy (B, T, H, D) -> (dq, dk, dv), each of the shape of its input.

    out: the three arrays to write into, which may be strided views with a contiguous last axis
    (three parts of one packed gradient); new ones are made when None.
    """
    q, k, v, o, lse, mask, scale, causal, dropout, seed, offset = saved
    if dy.shape != q.shape:
        raise check.wrong_shape("attention.backward", "dy", q.shape, dy)
    if out is None:
        out = empty(q.shape, q), empty(k.shape, q), empty(k.shape, q)
    dq, dk, dv = out
    if dq.shape != q.shape:
        raise check.wrong_shape("attention.backward", "out[0]", q.shape, dq)
    if dk.shape != k.shape:
        raise check.wrong_shape("attention.backward", "out[1]", k.shape, dk)
    if dv.shape != k.shape:
        raise check.wrong_shape("attention.backward", "out[2]", k.shape, dv)
    kernel = kernels(q).attention_backward
    kernel(dq, dk, dv, dy, q, k, v, o, lse, mask, scale, causal, dropout, seed, offset)
    return out
