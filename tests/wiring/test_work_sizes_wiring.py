"""Sizes that Python and the kernels must agree on are the same in both."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from byhand.backend import reference
from byhand.ops import attention, embedding, grad_norm

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("value", "file", "line"),
    [
        (attention._FEW_QUERIES, "cuda/ops/attention/attention_few.cuh", "kFewQueries = (.*?);"),
        (attention._PIECE, "cuda/ops/attention/attention_few.cuh", "kPiece = (.*?);"),
        (grad_norm._BLOCK, "csrc/ops/optim/grad_norm.h", "kNormBlock = (.*?);"),
    ],
)
def test_a_constant_of_python_is_that_of_the_kernel(value: int, file: str, line: str):
    found = re.findall(line, (ROOT / file).read_text())
    assert found == [str(value)]


def test_the_work_of_the_embedding_is_that_of_its_contract():
    contract = (ROOT / "csrc/ops/embedding/embedding.h").read_text()
    assert "W >= 3R + 512 + C ceil(R/32)" in contract
    for rows, columns in ((1, 1), (32, 5), (33, 5), (100, 7)):
        assert embedding.work_size(rows, columns) == 3 * rows + 512 + columns * -(-rows // 32)


@pytest.mark.parametrize("queries", [1, 4, 5])
@pytest.mark.parametrize("keys", [1, 256, 257, 1000])
def test_the_work_of_attention_is_a_partial_result_for_each_piece(queries: int, keys: int):
    """Of each piece of 256 keys the weighted sum of values, its maximum and its sum."""
    q, k = (2, queries, 6, 16), (2, keys, 3, 16)
    pieces = -(-keys // 256) if queries <= 4 else 0
    assert attention.forward_work_size(q, k) == 2 * queries * 6 * pieces * (16 + 2)
    assert attention.backward_work_size(q) == 2 * queries * 6


@pytest.mark.parametrize(("size", "shares"), [(1, 1), (4096, 1), (4097, 2), (20000, 5), (20000, 2)])
def test_the_norm_is_added_up_in_shares_of_whole_blocks(size: int, shares: int):
    g = np.random.default_rng(size).standard_normal(size)
    norm, work = np.empty(()), np.empty(shares)
    reference.grad_norm(norm, work, g)
    share = 4096 * -(-size // (4096 * shares))
    parts = [float((g[p * share : (p + 1) * share] ** 2).sum()) for p in range(shares)]
    np.testing.assert_allclose(work, parts, rtol=1e-12)
    assert float(norm) == pytest.approx(float(np.linalg.norm(g)), rel=1e-12)
