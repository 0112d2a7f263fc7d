"""The product of two matrices, both of them activations.

    c = op(a) op(b),      op(m) = m or mT
    da = dc op(b)T,  db = op(a)T dc,      transposed again where the input was

Giles, "An extended collection of matrix derivative results" (2008), section 2.2.2. Both gradients
are written, not added: neither input is a parameter (the product with a parameter is `linear`).
Saved: a, b.
"""

from __future__ import annotations

from byhand.backend import Array, In, Out, empty, kernels, reference_kernel
from byhand.ops import check
from byhand.ops.check import Saved
from byhand.ops.declare import op
from byhand.ops.precision import operands


@reference_kernel
def matmul_forward(c: Out, a: In, b: In, transpose_a: bool, transpose_b: bool, bf16: bool) -> None:
    a, b = operands(bf16, a, b)
    c[...] = (a.T if transpose_a else a) @ (b.T if transpose_b else b)


@reference_kernel
def matmul_backward(
    da: Out | None,
    db: Out | None,
    dc: In,
    a: In,
    b: In,
    transpose_a: bool,
    transpose_b: bool,
    bf16: bool,
) -> None:
    dc, a, b = operands(bf16, dc, a, b)
    if da is not None:
        g = dc @ (b if transpose_b else b.T)
        da[...] = g.T if transpose_a else g
    if db is not None:
        g = (a if transpose_a else a.T) @ dc
        db[...] = g.T if transpose_b else g


def _product_shape(
    a: tuple[int, int], b: tuple[int, int], transpose_a: bool, transpose_b: bool
) -> tuple[tuple[int, int], int, int]:
    rows, inner = (a[1], a[0]) if transpose_a else a
    depth, columns = (b[1], b[0]) if transpose_b else b
    return (rows, columns), inner, depth


@op(a="*", b="*")  # which dimension is which depends on the options
def forward(
    a: Array,
    b: Array,
    transpose_a: bool = False,
    transpose_b: bool = False,
    bf16: bool = False,
) -> tuple[Array, Saved]:
    """a (M, K), or (K, M) with transpose_a; b (K, N), or (N, K) with transpose_b -> c (M, N),
    saved.

    With bf16 the products take their factors rounded to bfloat16, here and in backward.
    ValueError when either is not a matrix or the inner sizes differ.
    """
    kernel = kernels(a).matmul_forward
    shape_a, shape_b = a.shape, b.shape
    if len(shape_a) != 2:
        raise check.wrong_shape("matmul.forward", "a", "(K, M)" if transpose_a else "(M, K)", a)
    if len(shape_b) != 2:
        raise check.wrong_shape("matmul.forward", "b", "(N, K)" if transpose_b else "(K, N)", b)
    shape, inner, depth = _product_shape(shape_a, shape_b, transpose_a, transpose_b)
    if inner != depth:
        expected = (shape[1], inner) if transpose_b else (inner, shape[1])
        error = check.wrong_shape("matmul.forward", "b", expected, b)
        raise ValueError(f"{error}, where a has shape {a.shape}")
    c = empty(shape, a)
    kernel(c, a, b, transpose_a, transpose_b, bf16)
    return c, (a, b, transpose_a, transpose_b, bf16)


@op(dy="*")
def backward(dy: Array, saved: Saved) -> tuple[Array, Array]:
    """dy (M, N) -> (da, db), each of the shape of its input."""
    a, b, transpose_a, transpose_b, bf16 = saved
    shape, _, _ = _product_shape(a.shape, b.shape, transpose_a, transpose_b)
    if dy.shape != shape:
        raise check.wrong_shape("matmul.backward", "dy", shape, dy)
    da, db = empty(a.shape, a), empty(b.shape, b)
    kernels(a).matmul_backward(da, db, dy, a, b, transpose_a, transpose_b, bf16)
    return da, db
