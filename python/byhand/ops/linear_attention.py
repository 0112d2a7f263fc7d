"""Linear attention.

    w[i, j] = phi(q_i) . phi(k_j),    n_i = sum over j of w[i, j]
    o_i = sum over j of w[i, j] v_j / n_i

over the keys j that query i sees, with phi(x) = elu(x) + 1 (Katharopoulos et al., "Transformers are
RNNs", 2020, equations 4 to 9). Because a weight is a product, the sums over the keys are those of
phi(k_j) v_jT, a D x E matrix, and of phi(k_j): attention to S keys costs O(S D E) and not O(S^2).
With causality they are running sums, which are updated after each chunk of positions.

With g_i = do_i / n_i and c_i = -(do_i . o_i) / n_i:

    dphi(q_i) = sum over j of (g_i . v_j + c_i) phi(k_j),    dv_j = sum over i of w[i, j] g_i
    dphi(k_j) = sum over i of (g_i . v_j + c_i) phi(q_i)

Saved: q, k, v, o and n.
"""

from __future__ import annotations

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
from byhand.ops import check
from byhand.ops.check import Saved
from byhand.ops.declare import op
from byhand.ops.heads import for_every_group, for_every_head, heads_first


def _phi(x: Array) -> Array:
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


def _dphi(x: Array) -> Array:
    return np.exp(np.minimum(x, 0))


def _seen(w: Array, lengths: Array | None, causal: bool) -> Array:
    """The weights of the keys that are seen, 0 for the others."""
    queries, keys = w.shape[-2:]
    if causal:
        w = np.where(np.tri(queries, keys, dtype=bool), w, w.dtype.type(0))
    if lengths is not None:
        w = np.where(np.arange(keys) < lengths[:, None, None, None], w, w.dtype.type(0))
    return w


@reference_kernel
def linear_attention_forward(
    o: Out,
    norm: Out[np.float32],
    q: StridedIn,
    k: StridedIn,
    v: StridedIn,
    lengths: In[np.int64] | None,
    causal: bool,
) -> None:
    keys = _phi(for_every_head(k, q.shape[2], lengths))
    w = _seen(_phi(heads_first(q)) @ keys.swapaxes(-1, -2), lengths, causal)
    total = w.sum(-1, keepdims=True)
    norm[...] = total[..., 0]
    sums = w @ for_every_head(v, q.shape[2], lengths)
    o[...] = heads_first(sums / np.where(total == 0, 1, total))


@reference_kernel
def linear_attention_backward(
    dq: StridedOut,
    dk: StridedOut,
    dv: StridedOut,
    do_: In,
    q: StridedIn,
    k: StridedIn,
    v: StridedIn,
    o: In,
    norm: In[np.float32],
    lengths: In[np.int64] | None,
    causal: bool,
) -> None:
    queries, heads = heads_first(q), q.shape[2]
    keys = for_every_head(k, heads, lengths)
    total = np.where(norm == 0, 1, norm)[..., None]
    g = np.where(norm[..., None] == 0, 0, heads_first(do_) / total)
    c = -(g * heads_first(o)).sum(-1, keepdims=True)
    values = for_every_head(v, heads, lengths)
    dw = _seen(g @ values.swapaxes(-1, -2) + c, lengths, causal)
    w = _seen(_phi(queries) @ _phi(keys).swapaxes(-1, -2), lengths, causal)
    dq[...] = heads_first(dw @ _phi(keys) * _dphi(queries))
    dk[...] = for_every_group(dw.swapaxes(-1, -2) @ _phi(queries) * _dphi(keys), k.shape[2])
    dv[...] = for_every_group(w.swapaxes(-1, -2) @ g, k.shape[2])


@op(q="B T H D", k="B S G D", v="B S G E", lengths="B?")
def forward(
    q: Array,
    k: Array,
    v: Array,
    causal: bool = False,
    *,
    lengths: Array | None = None,
) -> tuple[Array, Saved]:
    """q (B, T, H, D), k (B, S, G, D), v (B, S, G, E) -> o (B, T, H, E), saved.

    q, k and v may be strided views whose last axis is contiguous. H is a multiple of G: head h
    reads head h // (H // G) of k and v (Ainslie et al., 2023). A query sees the keys that all of
    these allow, and gives 0 if it sees none:

    causal: query i sees key j when j <= i; there are as many queries as keys.
    lengths: (B,) int64, how many keys each batch entry has; what follows is padding.

    ValueError when a shape does not fit or a length (of numpy arrays) is not in 0..S.
    """
    kernel = kernels(q).linear_attention_forward
    for name, array in (("q", q), ("k", k), ("v", v)):
        check.last_axis("linear_attention.forward", name, array)
    batch, queries, heads, depth = q.shape
    groups = k.shape[2]
    if heads != groups and (not groups or heads % groups):
        expected = f"({batch}, S, G, {depth}) with a G that divides {heads}"
        error = check.wrong_shape("linear_attention.forward", "k", expected, k)
        raise ValueError(f"{error}, where q has shape {q.shape}")
    if causal and queries != k.shape[1]:
        raise ValueError(
            "linear_attention.forward: causal is for as many queries as keys, got "
            f"{queries} and {k.shape[1]}"
        )
    if lengths is not None:
        check.lengths("linear_attention.forward", "lengths", lengths, k.shape[1])
    o = empty((batch, queries, heads, v.shape[3]), q)
    norm = empty((batch, heads, queries), q, statistics(q))
    kernel(o, norm, q, k, v, lengths, causal)
    return o, (q, k, v, o, norm, lengths, causal)


@op(saved={"q": "B T H D", "k": "B S G D", "v": "B S G E"}, dy="B T H E")
def backward(
    dy: Array, saved: Saved, out: tuple[Array, Array, Array] | None = None
) -> tuple[Array, Array, Array]:
    """dy (B, T, H, E) -> (dq, dk, dv), each of the shape of its input.

    out: the three arrays to write into, which may be strided views with a contiguous last axis;
    new ones are made when None.
    """
    q, k, v, o, norm, lengths, causal = saved
    if out is None:
        out = empty(q.shape, q), empty(k.shape, q), empty(v.shape, q)
    for n, (given, x) in enumerate(zip(out, (q, k, v), strict=True)):
        if given.shape != x.shape:
            raise check.wrong_shape("linear_attention.backward", f"out[{n}]", x.shape, given)
        check.last_axis("linear_attention.backward", f"out[{n}]", given)
    kernels(q).linear_attention_backward(*out, dy, q, k, v, o, norm, lengths, causal)
    return out
