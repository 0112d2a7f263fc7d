"""What the tests of attention compute with: samples, and the same op in PyTorch."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from byhand import ops
from byhand.ops import philox
from tests.kernel_case import Sample, generator, normal
from tests.ops.test_softmax import seen_keys


def sample(
    b: int,
    t: int,
    s: int,
    h: int,
    d: int,
    mask: str = "",
    causal: bool = False,
    dropout: float = 0.0,
    scale: float | None = None,
    size: float = 1.0,
    layout: str = "contiguous",
    groups: int | None = None,
    lengths: tuple[int, ...] | None = None,
    window: int = 0,
    slopes: bool = False,
    bias: str = "",
    softcap: float = 0.0,
    sequences: tuple[tuple[int, ...], ...] | None = None,
    frozen: str = "",
) -> Sample:
    """mask: one letter an axis of (B, H, T, S), "v" where it varies, or "none seen". bias: the
    same for (B, H). sequences: how many positions each of a row's sequences has.
    """
    label = f"{b}x{t}x{s}x{h}x{d}{'-causal' if causal else ''}"
    label += (f"-mask {mask}" if mask else "") + (f"-dropout {dropout}" if dropout else "")
    label += (f"-size {size:g}" if size != 1 else "") + (f"-{layout}" if layout[0] != "c" else "")
    label += (f"-groups {groups}" if groups else "") + (f"-window {window}" if window else "")
    label += f"-lengths {','.join(map(str, lengths))}" if lengths else ""
    label += f"{'-slopes' if slopes else ''}{f'-bias {bias}' if bias else ''}"
    label += f"-softcap {softcap:g}" if softcap else ""
    label += f"-sequences {'/'.join(','.join(map(str, n)) for n in sequences)}" if sequences else ""
    label += f"-frozen {frozen}" if frozen else ""
    rng = generator("attention", label)
    groups = h if groups is None else groups
    seen = None
    if mask:
        axes = "v1vv" if mask == "none seen" else mask
        shape = [n if a == "v" else 1 for n, a in zip((b, h, t, s), axes, strict=True)]
        seen = rng.random(shape) < 0.7
        if mask == "none seen":
            seen[-1, :, t // 2] = False
    repeats = [n if a == "v" else 1 for n, a in zip((b, h), bias or "11", strict=True)]
    return Sample(
        label,
        {
            "q": np.asarray(size, np.float32) * normal(rng, b, t, h, d),
            "k": normal(rng, b, s, groups, d),
            "v": normal(rng, b, s, groups, d),
            "mask": seen,
            "lengths": None if lengths is None else np.array(lengths, np.int64),
            "slopes": normal(rng, h) if slopes else None,
            "bias": normal(rng, *repeats, t, s) if bias else None,
            "sequences": None if sequences is None else numbered(sequences),
        },
        {
            "scale": 1 / math.sqrt(max(d, 1)) if scale is None else scale,
            "causal": causal,
            "window": window,
            "softcap": softcap,
            "dropout": dropout,
            "seed": 0x1234_5678_9ABC_DEF0,
            "offset": 0xFEDC_BA98_7654_3210,
        },
        frozen=frozenset(frozen.split()),
        smooth=size == 1,
        layout=layout,
    )


def numbered(sequences: tuple[tuple[int, ...], ...]) -> np.ndarray:
    """The number of each position's sequence; numbers that are not used lie between them."""
    return np.array([np.repeat(np.arange(len(n)) * 3 - 2, n) for n in sequences], np.int64)


def shapes(case: Sample) -> dict[str, tuple[int, ...]]:
    q, k = case.arrays["q"].shape, case.arrays["k"].shape
    b, t, h, _ = q
    room = max(ops.attention.forward_work_size(q, k), ops.attention.backward_work_size(q))
    return {"o": q, "lse": (b, h, t), "mask": (b, h, t, k[1]), "work": (room,)}


def torch_forward(t, o):
    import torch

    times = t.q.shape[2] // max(t.k.shape[2], 1)
    k, v = (torch.repeat_interleave(a, times, dim=2) for a in (t.k, t.v))
    z = o["scale"] * torch.einsum("bthd,bshd->bhts", t.q, k)
    seen = seen_keys(t, o, z)
    queries, keys = z.shape[-2:]
    position = torch.arange(queries)[:, None] + keys - queries
    if o["softcap"]:
        z = o["softcap"] * torch.tanh(z / o["softcap"])
    if t.slopes is not None:
        z = z + t.slopes[:, None, None] * (torch.arange(keys) - position)
    if t.bias is not None:
        z = z + t.bias
    if t.sequences is not None:
        seen = seen & (t.sequences[:, None, :, None] == t.sequences[:, None, None, :])
    if t.lengths is not None:
        seen = seen & (torch.arange(keys) < t.lengths[:, None, None, None])
    if o["window"]:
        seen = seen & ((position - torch.arange(keys)).abs() < o["window"])
    z = torch.where(seen, z, -torch.inf)
    lse = torch.logsumexp(z, -1)
    z = torch.where(seen.any(-1, keepdim=True), z, 0)
    p = torch.where(seen, torch.softmax(z, -1), 0)
    if o["dropout"] > 0:
        b, h, queries, keys = p.shape
        kept = philox.keep(b * h * queries, keys, o["dropout"], o["seed"], o["offset"])
        p = p * torch.from_numpy(kept.reshape(p.shape)) * philox.rule(o["dropout"])[1]
    return {"o": torch.einsum("bhts,bshd->bthd", p, v), "lse": lse}


def wide() -> Iterator[Sample]:
    """Every rule at lengths around a tile and at several, heads of every depth that has kernels."""
    depths = itertools.cycle((32, 64, 80, 96, 128))
    for n in (1, 17, 63, 64, 65, 200, 256, 1000):
        heads, long = 2 if n < 100 else 1, n > 256
        rules: tuple[dict[str, Any], ...] = (
            {},
            {"causal": True},
            {"lengths": (n - n // 3,)},
            {"window": n // 4 + 1},
            {"mask": "111v" if long else "11vv"},
            {"dropout": 0.2, "causal": True},
        )
        for rule in rules:
            yield sample(1, n, n, heads, 32 if long else next(depths), **rule)
    for depth in (40, 72, 100, 120):  # not a whole number of tiles, or of packs
        yield sample(1, 70, 100, 2, depth, causal=True, layout="transposed")
    yield sample(2, 130, 70, 4, 64, groups=2, lengths=(70, 33), window=40, causal=True)
    yield sample(1, 64, 200, 6, 33, groups=2, mask="1vvv", dropout=0.3, scale=-0.2)
    # Decoding: one query and a few, one head a group and several, pieces of keys without a query.
    yield sample(2, 1, 257, 2, 64, lengths=(257, 0))
    yield sample(1, 1, 1300, 8, 128, groups=2, window=600)
    yield sample(2, 3, 515, 6, 96, groups=2, causal=True, lengths=(515, 200))
    yield sample(1, 4, 300, 3, 65, mask="1vvv", causal=True)
    yield sample(1, 2, 300, 2, 32, dropout=0.2)
    # The kernels of their own for slopes, bias, cap and packed sequences, at every depth.
    for depth in (32, 64, 80, 96, 128):
        yield sample(2, 70, 70, 2, depth, slopes=True, bias="1v", softcap=3.0, dropout=0.2)
    yield sample(1, 130, 130, 2, 40, causal=True, sequences=((3, 70, 57),), layout="transposed")
    yield sample(2, 200, 200, 2, 64, sequences=((120, 80), (1, 199)), slopes=True, window=50)
    yield sample(2, 65, 130, 4, 33, groups=2, bias="11", lengths=(130, 40), causal=True)
    yield sample(2, 3, 515, 6, 96, groups=2, slopes=True, bias="v1", softcap=2.0)
