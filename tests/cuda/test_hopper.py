"""The kernels for Hopper: the primitives of cuda/core/hopper.cuh, and the ops that use its matrix
multiply, on the CPU and on a GPU if there is one.
"""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from byhand import backend
from tests import oracle
from tests.cuda import compile, half
from tests.cuda.samples import MOST_ON_CPU, OPS, WIDE, name_of
from tests.cuda.test_kernels import on_both, size_of
from tests.kernel_case import bare_reference
from tests.ops.test_gelu_ffn import OP as GELU_FFN
from tests.ops.test_gelu_ffn import sample as gelu_ffn_sample
from tests.ops.test_linear import OP as LINEAR
from tests.ops.test_linear import sample as linear_sample
from tests.ops.test_linear_cross_entropy import OP as LINEAR_CROSS_ENTROPY
from tests.ops.test_linear_cross_entropy import sample as linear_cross_entropy_sample
from tests.ops.test_matmul import OP as MATMUL
from tests.ops.test_matmul import sample as matmul_sample
from tests.ops.test_swiglu_ffn import OP as SWIGLU_FFN
from tests.ops.test_swiglu_ffn import sample as swiglu_ffn_sample

ml_dtypes = pytest.importorskip("ml_dtypes")
BF16 = np.dtype(ml_dtypes.bfloat16)
SOURCE, CAPABILITY = "hopper", (9, 0)


# --- Primitives --------------------------------------------------------------------------------


def normal(*shape, seed=0, dtype=BF16):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


@pytest.mark.deep
@pytest.mark.parametrize(
    ("shape", "box_rows", "at"),
    [((64, 64), 64, (0, 0)), ((200, 136), 128, (0, 0)), ((200, 136), 128, (128, 64)),
     ((200, 136), 64, (192, 128)), ((3, 8), 8, (0, 0)), ((70, 72), 16, (64, 64))],
)  # fmt: skip
def test_boxes(primitives, shape, box_rows, at):
    x = normal(*shape)
    y = np.full((box_rows, 64), np.nan, BF16)
    primitives.box(y, x, *shape, box_rows, *at)
    expected = np.zeros_like(y)
    inside = x[at[0] :, at[1] :][:box_rows, :64]
    expected[: inside.shape[0], : inside.shape[1]] = inside
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("k", [8, 64, 72, 200])
@pytest.mark.parametrize("right_across", [False, True])
@pytest.mark.parametrize("left_across", [False, True])
def test_products(primitives, left_across, right_across, k):
    a, b, d = normal(64, k), normal(k, 128, seed=1), normal(64, 128, dtype=np.float32)
    exact = d + a.astype(np.float64) @ b.astype(np.float64)
    left = np.ascontiguousarray(a.T if left_across else a)
    right = np.ascontiguousarray(b if right_across else b.T)
    primitives.product(d, left, right, int(left_across), int(right_across), k)
    np.testing.assert_allclose(d, exact, rtol=1e-5, atol=1e-4)


@pytest.mark.deep
def test_nvcc_takes_the_same_file(cache_dir):
    assert compile.with_nvcc(SOURCE, cache_dir, library=False).exists()
    assert compile.with_nvcc(SOURCE, cache_dir, library=False, arch="90a").exists()


# --- The matrix multiply -------------------------------------------------------------------------


def products():
    """Sizes around a tile and its steps; more tiles than blocks, so that a block computes several;
    more steps than stages; rows that are not a multiple of 16 bytes.
    """
    for i, transposed in enumerate(("", "a", "b", "ab")):
        yield MATMUL, matmul_sample((136, 8, 64, 264)[i], 64, 136, transposed, bf16=True)
        yield MATMUL, matmul_sample((128, 256, 72, 8)[i], 8, 128, transposed, bf16=True)
        yield MATMUL, matmul_sample(40, (72, 128, 392, 776)[i], 24, transposed, bf16=True)
    yield MATMUL, matmul_sample(1, 64, 128, bf16=True)
    yield MATMUL, matmul_sample(1, 200, 1, "b", bf16=True)
    yield MATMUL, matmul_sample(7, 9, 11, bf16=True)
    yield MATMUL, matmul_sample(640, 16, 264, bf16=True)
    yield LINEAR, linear_sample((129,), 72, 264, add=True, bf16=True)
    yield LINEAR, linear_sample((300,), 400, 130, bf16=True)
    yield GELU_FFN, gelu_ffn_sample((130,), 72, 136, add=True)
    yield GELU_FFN, gelu_ffn_sample((9,), 136, 8, tanh=False, b1=False)
    yield SWIGLU_FFN, swiglu_ffn_sample((130,), 72, 136, biases="b1 b3 b2", add=True)
    yield SWIGLU_FFN, swiglu_ffn_sample((9,), 136, 8, "gelu")
    yield LINEAR_CROSS_ENTROPY, linear_cross_entropy_sample((70,), 72, 264, block=33)


MADE_OF_PRODUCTS = {op.name for op in (MATMUL, LINEAR, GELU_FFN, SWIGLU_FFN, LINEAR_CROSS_ENTROPY)}
FEW = tuple(products())
EVERY = (*FEW, *((op, s) for op in OPS for s in op.samples), *WIDE)
EVERY = tuple(case for case in EVERY if case[0].name in MADE_OF_PRODUCTS)


@pytest.fixture(autouse=True)
def on_hopper(monkeypatch):
    monkeypatch.setenv("BYHAND_GEMM_HOPPER", "1")


@on_both(EVERY)
def test_against_the_reference(op, sample, device_kernels):
    half.check(op, sample, device_kernels)


@pytest.mark.deep
@pytest.mark.parametrize(("op", "sample"), FEW, ids=name_of)
def test_same_bits_under_every_schedule_and_as_the_portable_path(op, sample, on_cpu, monkeypatch):
    """Both kernels add products in the same order, and the emulator rounds at the same places."""
    assert size_of(op, sample) <= 4 * MOST_ON_CPU
    for stage in oracle.stages(op, sample, bare_reference()):
        env = {name: half.rounded(stage.kernel, name, v) for name, v in stage.env.items()}
        results = [half.call(on_cpu, stage.kernel, env, stage.shapes)]
        monkeypatch.setenv("BYHAND_GEMM_HOPPER", "0")
        results += [half.call(on_cpu, stage.kernel, env, stage.shapes)]
        monkeypatch.setenv("BYHAND_GEMM_HOPPER", "1")
        for way in on_cpu.again():
            with way:
                results += [half.call(on_cpu, stage.kernel, env, stage.shapes)]
        for name in results[0].keys() - op.scratch:
            assert len({r[name].tobytes() for r in results}) == 1, name


def taken(a, b):
    """The threads per block of the kernel that computes a b."""
    c = np.zeros((a.shape[0], b.shape[1]), a.dtype)
    backend.cuda_on_cpu().matmul_forward(c, a, b, False, False, False)
    return importlib.import_module("byhand_cuda_on_cpu").last_block()


@pytest.mark.usefixtures("on_cpu")
def test_what_it_does_not_take_goes_the_portable_way(monkeypatch):
    a, b = normal(16, 24), normal(24, 8)
    away = np.empty(24 * 8 + 1, BF16)[1:].reshape(24, 8)
    away[...] = b
    assert taken(a, b) == 384
    assert taken(a, normal(24, 9)) == 256  # rows that are not a multiple of 16 bytes
    assert taken(a, away) == 256  # not aligned to 16
    assert taken(a.astype(np.float32), b.astype(np.float32)) == 256
    assert taken(normal(16, 0), normal(0, 8)) == 256
    for other in ("0", "", "on"):
        monkeypatch.setenv("BYHAND_GEMM_HOPPER", other)
        assert taken(a, b) == 256
    monkeypatch.delenv("BYHAND_GEMM_HOPPER")
    assert taken(a, b) == 256
