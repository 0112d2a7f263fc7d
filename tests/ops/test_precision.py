"""bf16 precision: the rounding, and what it means for a product."""

import numpy as np
import pytest

from byhand import backend, ops
from byhand.ops.precision import round_bf16
from tests.kernel_case import generator


def torch_bf16_product(a, b):
    """a @ b in PyTorch where every product, backward too, takes its factors from bfloat16."""
    import torch

    def rounded(t):
        return t.to(torch.bfloat16).to(t.dtype)

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a, b):
            ctx.save_for_backward(rounded(a), rounded(b))
            return rounded(a) @ rounded(b)

        @staticmethod
        def backward(ctx, dc):
            a, b = ctx.saved_tensors
            dc = rounded(dc)
            leading = list(range(a.ndim - 1))
            return dc @ b.T, torch.tensordot(a, dc, dims=(leading, leading))

    return Product.apply(a, b)


def every_kind_of_float() -> np.ndarray:
    """All signs and exponents, with mantissas around every tie of the first few."""
    rng = generator("precision", "floats")
    tops = np.arange(0, 1 << 16, 37, dtype=np.uint32)
    lows = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    grid = (tops[:, None] << 16 | lows).ravel()
    return np.concatenate([grid, rng.integers(0, 1 << 32, 1000, dtype=np.uint32)]).view(np.float32)


def test_rounding_is_pytorchs() -> None:
    torch = pytest.importorskip("torch")
    x = every_kind_of_float()
    expected = torch.from_numpy(x).to(torch.bfloat16).to(torch.float32).numpy()
    np.testing.assert_array_equal(round_bf16(x), expected)
    finite = x[np.isfinite(x)].astype(np.float64)
    assert round_bf16(finite).dtype == np.float64
    np.testing.assert_array_equal(round_bf16(finite), expected[np.isfinite(x)])


def test_kernels_round_as_the_reference(native: str) -> None:
    """Products with the identity where packing rounds: along k, across it, and with few rows."""
    x = every_kind_of_float()
    x = x[np.isnan(x) | (np.abs(x) >= np.finfo(np.float32).tiny)]  # bfloat16 units drop subnormals
    x = x[np.abs(round_bf16(x)) != np.inf]
    x = x[: x.size // 50 * 50].reshape(-1, 50)
    kernel = backend.cpu_modules()[native]
    one = np.eye(50, dtype=np.float32)
    for rows in (x, x[:1]):
        for a, b, transposed in ((rows, one, ""), (rows.T.copy(), one, "a"), (one, rows, "b")):
            m, n = (50, rows.shape[0]) if transposed == "b" else (rows.shape[0], 50)
            c = np.empty((m, n), np.float32)
            # 0 * inf and 0 * NaN would spread: those rows are compared separately
            finite = np.isfinite(rows).all(axis=1)
            kernel.matmul_forward(c, a, b, transposed == "a", transposed == "b", True)
            got = c.T if transposed == "b" else c
            np.testing.assert_array_equal(got[finite], round_bf16(rows)[finite])
            assert np.isnan(got[np.isnan(rows).any(axis=1)]).all()


@pytest.mark.parametrize("approximate", ["tanh", "none"])
@pytest.mark.parametrize(("rows", "c", "f"), [(1, 3, 2), (17, 33, 15), (33, 15, 127), (3, 127, 65)])
def test_feed_forward_is_its_parts(
    native: str, approximate: str, rows: int, c: int, f: int
) -> None:
    """In bf16 the fused layer gives the bits of linear, GELU, linear: h and dpre are rounded once,
    from float32, wherever they are made.
    """
    rng = generator("precision", "ffn", approximate, str(rows), str(c), str(f))

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    x, w1, b1, w2, b2 = normal(rows, c), normal(f, c), normal(f), normal(c, f), normal(c)
    add, dy = normal(rows, c), normal(rows, c)
    with backend.use_cpu(native):
        y, saved = ops.gelu_ffn.forward(x, w1, b1, w2, b2, add, approximate, bf16=True)
        u, saved_1 = ops.linear.forward(x, w1, b1, bf16=True)
        h, saved_g = ops.bias_gelu.forward(u, None, approximate)
        z, saved_2 = ops.linear.forward(h, w2, b2, add, bf16=True)
        np.testing.assert_array_equal(y, z)
        fused = [np.ones_like(a) for a in (w1, b1, w2, b2)]
        apart = [np.ones_like(a) for a in (w1, b1, w2, b2)]
        dx = ops.gelu_ffn.backward(dy, saved, *fused)
        dh = ops.linear.backward(dy, saved_2, apart[2], apart[3])
        du = ops.bias_gelu.backward(dh, saved_g)
        expected = ops.linear.backward(du, saved_1, apart[0], apart[1])
    for a, b in zip([dx, *fused], [expected, *apart], strict=True):
        np.testing.assert_array_equal(a, b)
