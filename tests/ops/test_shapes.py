"""Shapes nobody thought of, drawn by hypothesis, on the best native back end."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from byhand import backend
from tests import oracle
from tests.kernel_case import Op, Sample
from tests.ops import (
    test_attention,
    test_cross_entropy,
    test_embedding,
    test_gelu_ffn,
    test_layernorm,
    test_linear,
    test_linear_cross_entropy,
    test_matmul,
    test_softmax,
)

SMALL = st.integers(0, 70)
SOME = st.integers(1, 70)
FEW = st.integers(1, 5)
drawn = settings(max_examples=20, deadline=None, derandomize=True)


def check(op: Op, sample: Sample, shift: int) -> None:
    kernels = backend.cpu()
    oracle.check_native(op, sample, kernels, shift)
    oracle.check_rows(op, sample, kernels)


@drawn
@given(shape=st.lists(SMALL, min_size=1, max_size=3), add=st.booleans(), shift=st.integers(0, 3))
def test_layernorm_of_any_shape(shape: list[int], add: bool, shift: int) -> None:
    check(test_layernorm.OP, test_layernorm.sample(*shape, add=add), shift)


@drawn
@given(
    shape=st.lists(SMALL, min_size=2, max_size=3), causal=st.booleans(), mask=st.sampled_from("1s")
)
def test_softmax_of_any_shape(shape: list[int], causal: bool, mask: str) -> None:
    axes = mask * (len(shape) - 1) + "s"
    check(test_softmax.OP, test_softmax.sample(*shape, mask=axes, causal=causal), 1)


@drawn
@given(rows=SMALL, k=SMALL, n=SMALL, add=st.booleans(), shift=st.integers(0, 3))
def test_linear_of_any_shape(rows: int, k: int, n: int, add: bool, shift: int) -> None:
    check(test_linear.OP, test_linear.sample((rows,), k, n, add=add), shift)


@drawn
@given(rows=SMALL, c=SMALL, f=SMALL, tanh=st.booleans())
def test_gelu_ffn_of_any_shape(rows: int, c: int, f: int, tanh: bool) -> None:
    check(test_gelu_ffn.OP, test_gelu_ffn.sample((rows,), c, f, tanh), 1)


@drawn
@given(m=SMALL, k=SMALL, n=SMALL, transposed=st.sampled_from(["", "a", "b", "ab"]))
def test_matmul_of_any_shape(m: int, k: int, n: int, transposed: str) -> None:
    check(test_matmul.OP, test_matmul.sample(m, k, n, transposed), 1)


@drawn
@given(
    sizes=st.tuples(FEW, SMALL, SMALL, FEW, SMALL),
    causal=st.booleans(),
    mask=st.sampled_from(["", "vvvv", "111v", "v11v", "1vv1"]),
    dropout=st.sampled_from([0.0, 0.25]),
    layout=st.sampled_from(["contiguous", "padded", "transposed"]),
)
def test_attention_of_any_shape(
    sizes: tuple[int, int, int, int, int],
    causal: bool,
    mask: str,
    dropout: float,
    layout: str,
) -> None:
    sample = test_attention.sample(*sizes, mask=mask, causal=causal, dropout=dropout, layout=layout)
    check(test_attention.OP, sample, 1)


@drawn
@given(rows=SMALL, v=SOME, smoothing=st.sampled_from([0.0, 0.1]), mean=st.booleans())
def test_cross_entropy_of_any_shape(rows: int, v: int, smoothing: float, mean: bool) -> None:
    sample = test_cross_entropy.sample(rows, v, smoothing=smoothing, mean=mean)
    check(test_cross_entropy.OP, sample, 1)


@drawn
@given(
    rows=SMALL, k=SMALL, v=SOME, block=SOME, bf16=st.booleans(), frozen=st.sampled_from(["", "dw"])
)
def test_linear_cross_entropy_of_any_shape(
    rows: int, k: int, v: int, block: int, bf16: bool, frozen: str
) -> None:
    sample = test_linear_cross_entropy.sample((rows,), k, v, block, bf16=bf16, frozen=frozen)
    check(test_linear_cross_entropy.OP, sample, 1)


@drawn
@given(rows=SMALL, v=SOME, c=SMALL, add=st.booleans())
def test_embedding_of_any_shape(rows: int, v: int, c: int, add: bool) -> None:
    check(test_embedding.OP, test_embedding.sample((rows,), v, c, add), 1)
