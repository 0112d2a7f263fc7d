"""How the references of both kinds of attention read grouped heads (Ainslie et al., 2023)."""

from __future__ import annotations

import numpy as np

from byhand.backend import Array


def heads_first(a: Array) -> Array:
    """(B, T, H, D) as (B, H, T, D)."""
    return a.transpose(0, 2, 1, 3)


def for_every_head(a: Array, heads: int, lengths: Array | None) -> Array:
    """k or v (B, S, G, D) as (B, H, S, D): head h reads head h // (H // G); 0 for padding."""
    if lengths is not None:
        there = np.arange(a.shape[1]) < lengths[:, None]
        a = np.where(there[:, :, None, None], a, a.dtype.type(0))
    groups = a.shape[2]
    return np.repeat(heads_first(a), heads // groups if groups else 1, axis=1)


def for_every_group(a: Array, groups: int) -> Array:
    """Sums (B, H, S, D) over the heads of each group -> (B, S, G, D)."""
    b, h, s, d = a.shape
    return heads_first(a.reshape(b, groups, h // groups if groups else 1, s, d).sum(2))
