"""A query's result has the same bits for any number of queries beside it, any batch, any padding
and any number of threads: what makes text the same with a cache and without.
"""

import numpy as np
import pytest

from byhand import backend, nn
from byhand.ops import attention

HEADS = 6
KEYS = 1150  # more than one chunk of keys
RULES = ("causal", "window", "slopes", "softcap", "mask")


def inputs(batch: int, groups: int, depth: int) -> list[np.ndarray]:
    """Scores of about -60 to 60, so that the base of the softmax changes often."""
    rng = np.random.default_rng(groups)
    shapes = (batch, KEYS, HEADS, depth), *[(batch, KEYS, groups, depth)] * 2
    return [
        rng.normal(size=s).astype(np.float32) * n for s, n in zip(shapes, (9, 2, 1), strict=True)
    ]


def options(rule: str, first: int, last: int) -> dict[str, object]:
    """Those of the queries [first, last) behind the keys before `last`."""
    found: dict[str, object] = {"causal": True}
    if rule == "window":
        found["window"] = 333
    elif rule == "slopes":
        found["slopes"] = nn.alibi_slopes(HEADS).astype(np.float32)
    elif rule == "softcap":
        found["softcap"] = 20.0
    elif rule == "mask":
        seen = np.random.default_rng(5).random((1, HEADS, KEYS, KEYS)) < 0.6
        seen[:, :, :, 64:200] = False
        found["mask"] = seen[:, :, first:last, :last]
    return found


def rows(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, rule: str, first: int, last: int
) -> tuple[np.ndarray, np.ndarray]:
    """o (B, T, H, D) and lse (B, H, T) of the queries [first, last), each behind its keys."""
    o, saved = attention.forward(
        q[:, first:last], k[:, :last], v[:, :last], **options(rule, first, last)
    )
    return o, saved[4]


@pytest.fixture(params=backend.cpu_modules())
def module(request):
    with backend.use_cpu(request.param):
        yield


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("groups", "depth"), [(6, 24), (2, 64), (1, 17)])
def test_few_queries_have_the_bits_of_many(groups: int, depth: int, rule: str):
    q, k, v = inputs(1, groups, depth)
    o, lse = rows(q, k, v, rule, 0, KEYS)
    assert np.isfinite(o).all()
    for last in (1, 3, 64, 65, 1023, 1024, 1025, KEYS):
        for count in (1, 7, 16, 17):
            first = max(last - count, 0)
            found, found_lse = rows(q, k, v, rule, first, last)
            np.testing.assert_array_equal(found, o[:, first:last])
            np.testing.assert_array_equal(found_lse, lse[:, :, first:last])


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("count", [1, 4, 40])
def test_a_padded_batch_has_the_bits_of_its_entries(threads: int, count: int):
    q, k, v = inputs(5, 2, 40)
    lengths = np.array([1149, 1024, 700, 64, count])
    before = backend.get_num_threads()
    try:
        backend.set_num_threads(threads)
        o, saved = attention.forward(q[:, :count], k, v, lengths=lengths)
    finally:
        backend.set_num_threads(before)
    for b, length in enumerate(lengths):
        alone, of_alone = attention.forward(
            q[b : b + 1, :count], k[b : b + 1, :length], v[b : b + 1, :length]
        )
        np.testing.assert_array_equal(o[b : b + 1], alone)
        np.testing.assert_array_equal(saved[4][b : b + 1], of_alone[4])
