"""Tests for the CUDA kernels of attention alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from byhand.ops import attention
from tests.ops.test_attention import OP, check_padding, check_parts_of_offset

PADDED = [
    sample for sample in (*OP.samples, *OP.cuda.wide()) if sample.arrays["lengths"] is not None
]


@pytest.mark.deep
@pytest.mark.parametrize("sample", PADDED, ids=lambda s: s.label)
def test_the_content_of_padding_does_not_matter(sample, device_kernels):
    check_padding(sample, device_kernels, np.float32)


def test_the_offset_of_dropout_in_two_parts(device_kernels):
    check_parts_of_offset(device_kernels, np.float32)


def _zeros(*shape: int) -> Any:
    return np.zeros(shape, np.float32)


def _calls(queries: int, keys: int, depth: int, short: int) -> dict[str, tuple[Any, ...]]:
    """Both kernels' arguments; `work` is `short` elements smaller than it must be."""
    q, k = _zeros(2, queries, 3, depth), _zeros(2, keys, 3, depth)
    o, lse = np.full_like(q, 7), _zeros(2, 3, queries)
    rules = (*(None,) * 5, 1, False, 0, 0, 0, 0, 0)
    forward_room = _zeros(max(0, attention.forward_work_size(q.shape, k.shape) - short))
    backward_room = _zeros(attention.backward_work_size(q.shape) - short)
    gradients = np.full_like(q, 7), np.full_like(k, 7), np.full_like(k, 7)
    return {
        "attention_forward": (o, lse, forward_room, q, k, k, *rules),
        "attention_backward": (*gradients, None, backward_room, q, q, k, k, q, lse, *rules),
    }


@pytest.mark.parametrize("queries", [1, 9])
@pytest.mark.parametrize("kernel", ["attention_forward", "attention_backward"])
def test_heads_too_large_are_refused(kernel, queries, device_kernels):
    arguments = _calls(queries, 11, 129, 0)[kernel]
    said = "^attention: the CUDA kernels take heads of at most 128 dimensions, got 129$"
    with pytest.raises(ValueError, match=said):
        getattr(device_kernels, kernel)(*arguments)
    assert (arguments[0] == 7).all()


@pytest.mark.parametrize(
    ("kernel", "queries"),
    [("attention_forward", 1), ("attention_backward", 1), ("attention_backward", 9)],
)
def test_a_too_small_workspace_is_refused(kernel, queries, device_kernels):
    arguments = _calls(queries, 300, 16, 1)[kernel]
    with pytest.raises(ValueError, match=f"^{kernel}: work is too small$"):
        getattr(device_kernels, kernel)(*arguments)
    assert (arguments[0] == 7).all()


def test_many_queries_need_no_workspace(device_kernels):
    assert attention.forward_work_size((2, 5, 3, 16), (2, 300, 3, 16)) == 0
    device_kernels.attention_forward(*_calls(5, 300, 16, 0)["attention_forward"])
