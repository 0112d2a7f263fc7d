"""The matrix multiply by cuBLASLt: every op that multiplies matrices, with a stand-in for the
library that checks its arguments (kernels/cublaslt.cpp); the messages when something is missing or
fails; and the real library's header and file, if they are installed.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from byhand import _host, backend, cublaslt
from byhand.training import GraphStep
from tests import oracle
from tests.cuda import compile, half
from tests.cuda.samples import MOST_ON_CPU, OPS, WIDE
from tests.cuda.test_kernels import size_of
from tests.cuda.test_step import batches, eager, made

NAMES = ("matmul", "linear", "gelu_ffn", "swiglu_ffn", "linear_cross_entropy")
PRODUCTS = [op for op in OPS if op.name in NAMES]
CASES = [
    (op, sample)
    for op, sample in (*((op, s) for op in PRODUCTS for s in op.samples), *WIDE)
    if op in PRODUCTS and size_of(op, sample) <= MOST_ON_CPU
]
NOT_SUPPORTED, ANOTHER = 15, 13


class StandIn:
    """Counts and failures of the library that the module has loaded."""

    def __init__(self, path: Path):
        self._library = ctypes.CDLL(str(path))

    def __getattr__(self, name: str) -> int:
        return int(getattr(self._library, f"count_{name}")())

    def fail_next(self, function: str, status: int) -> None:
        self._library.fail_next(function.encode(), status)


@pytest.fixture(scope="session")
def stand_in_file(cache_dir: Path) -> Path:
    return compile.plain("cublaslt", cache_dir)


@pytest.fixture
def stand_in(stand_in_file: Path, on_cpu: Any, monkeypatch: Any) -> Iterator[StandIn]:
    monkeypatch.setenv("BYHAND_CUBLASLT", str(stand_in_file))
    with backend.cuda_gemm("cublaslt", "cuda_on_cpu"):
        yield StandIn(stand_in_file)


@pytest.fixture
def real_on_gpu(on_gpu: Any) -> Iterator[Any]:
    with backend.cuda_gemm("cublaslt"):
        try:
            matmul(on_gpu, np.ones((2, 3), np.float32), np.ones((3, 4), np.float32))
        except RuntimeError as error:
            if "cannot be loaded" not in str(error):
                raise
            pytest.skip(str(error))
        yield on_gpu


def matmul(kernels: Any, a: Any, b: Any, bf16: bool = False) -> Any:
    c = np.full((a.shape[0], b.shape[1]), np.nan, np.float32)
    kernels.matmul_forward(c, a, b, False, False, bf16)
    return c


def pair(seed: int, rows: int, inner: int, cols: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(s).astype(np.float32) for s in ((rows, inner), (inner, cols)))


@pytest.mark.deep
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize(("op", "sample"), CASES, ids=lambda c: getattr(c, "label", None))
def test_samples(op, sample, shift, stand_in, on_cpu):
    before = stand_in.multiplied
    oracle.check_native(op, sample, on_cpu, shift)
    ours = sample.options.get("bf16") or size_of(op, sample) == 0
    assert ours or stand_in.multiplied > before or 0 in _sizes(sample)


def _sizes(sample):
    return {n for a in sample.arrays.values() if a is not None for n in a.shape}


@pytest.mark.parametrize(("op", "sample"), CASES, ids=lambda c: getattr(c, "label", None))
def test_bfloat16(op, sample, stand_in, on_cpu):
    pytest.importorskip("ml_dtypes")
    before = stand_in.multiplied
    half.check(op, sample, on_cpu)
    assert stand_in.multiplied > before or 0 in _sizes(sample)


@pytest.mark.gpu
@pytest.mark.parametrize(("op", "sample"), CASES, ids=lambda c: getattr(c, "label", None))
def test_samples_on_a_gpu(op, sample, real_on_gpu):
    pytest.importorskip("ml_dtypes")
    oracle.check_native(op, sample, real_on_gpu)
    half.check(op, sample, real_on_gpu)


def test_ten_steps_in_a_graph_are_those_of_the_cpu(stand_in, cupy):
    host, (task, optimizer), expected = made("cpu"), made("cuda"), []
    step, before = GraphStep(task, optimizer, clip_norm=0.5), stand_in.multiplied
    for step_batches in batches(10):
        expected.append(eager(*host, step_batches))
        step(step_batches)
    np.testing.assert_allclose(step.read(), expected, rtol=2e-5)
    assert stand_in.multiplied > before


def test_an_algorithm_is_asked_for_once_a_shape(stand_in, on_cpu):
    a, b = pair(1, 11, 13, 17)
    before = stand_in.heuristics
    first = matmul(on_cpu, a, b)
    assert first.tobytes() == matmul(on_cpu, a, b).tobytes()
    assert stand_in.heuristics == before + 1
    matmul(on_cpu, a[:7].copy(), b)
    assert stand_in.heuristics == before + 2
    shifted = np.append(np.float32(0), a)[1:].reshape(a.shape)  # 4 bytes past 16
    matmul(on_cpu, shifted, b)
    assert stand_in.heuristics == before + 3
    assert stand_in.handles == 1


def test_threads_share_it(stand_in, on_cpu):
    pairs = [tuple(pair(seed, 19, 70, 23)) for seed in range(8)]
    before = stand_in.heuristics, stand_in.open
    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(lambda p: matmul(on_cpu, *p), pairs))
    np.testing.assert_array_equal(at_once, [matmul(on_cpu, *p) for p in pairs])
    # Three descriptors are kept for each shape.
    assert (stand_in.heuristics, stand_in.open) == (before[0] + 1, before[1] + 3)


def test_what_stays_ours(stand_in, on_cpu):
    """Factors rounded to bfloat16, and a product of no depth."""
    a, b = pair(2, 5, 8, 9)
    before = stand_in.multiplied
    with backend.cuda_gemm("hand", "cuda_on_cpu"):
        by_hand = matmul(on_cpu, a, b, bf16=True)
    assert matmul(on_cpu, a, b, bf16=True).tobytes() == by_hand.tobytes()
    assert not matmul(on_cpu, a[:, :0].copy(), b[:0]).any()
    assert stand_in.multiplied == before


FAILING = ("MatmulDescCreate", "MatmulDescSetAttribute", "MatrixLayoutCreate", "Matmul",
           "MatmulPreferenceCreate", "MatmulPreferenceSetAttribute",
           "MatmulAlgoGetHeuristic")  # fmt: skip


@pytest.mark.parametrize("function", [f"cublasLt{name}" for name in FAILING])
def test_a_failure_is_an_exception_that_names_the_op(function, stand_in, on_cpu):
    rows = 100 + FAILING.index(function.removeprefix("cublasLt"))  # a shape of its own
    a, b = pair(3, rows, 5, 7)
    before = stand_in.open
    stand_in.fail_next(function, ANOTHER)
    expected = f"matmul_forward: {function}: CUBLAS_STATUS_ANOTHER: as the test asked"
    with pytest.raises(RuntimeError, match=f"^{expected}$"):
        matmul(on_cpu, a, b)
    assert stand_in.open == before + (3 if function == "cublasLtMatmul" else 0)
    np.testing.assert_allclose(matmul(on_cpu, a, b), a @ b, atol=1e-5)


def test_a_shape_without_an_algorithm(stand_in, on_cpu):
    a, b = pair(4, 3, 6, 7)
    stand_in.fail_next("cublasLtMatmulAlgoGetHeuristic", NOT_SUPPORTED)
    said = r"^matmul_forward: cuBLASLt has no algorithm for \(3,6\) times \(6,7\) in float32$"
    with pytest.raises(RuntimeError, match=said):
        matmul(on_cpu, a, b)


# --- Finding the library -------------------------------------------------------------------------

CODE = """
import numpy as np
from byhand import backend
a, b = np.ones((3, 5), np.float32), np.ones((5, 7), np.float32)
c = np.zeros((3, 7), np.float32)
try:
    backend.cuda_on_cpu().matmul_forward(c, a, b, False, False, False)
    print("multiplied" if (c == 5).all() else "wrong")
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""


def said(**environment: str) -> str:
    """The output of a process that multiplies by cuBLASLt, unless the environment overrides it."""
    clean = {k: v for k, v in os.environ.items() if k not in ("BYHAND_GEMM", "BYHAND_CUBLASLT")}
    out = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True,
                         env={**clean, "BYHAND_GEMM": "cublaslt", **environment})  # fmt: skip
    return out.stdout.strip()


def the_linker_knows_it() -> bool:
    for name in ("libcublasLt.so.13", "libcublasLt.so.12"):
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False


def test_the_environment_chooses(on_cpu, stand_in_file):
    assert said(BYHAND_GEMM="hand", BYHAND_CUBLASLT="/nowhere") == "multiplied"
    assert said(BYHAND_CUBLASLT=str(stand_in_file)) == "multiplied"
    assert said(BYHAND_GEMM="fast") == (
        "ValueError: BYHAND_GEMM must be hand or cublaslt, got 'fast'"
    )
    with pytest.raises(ValueError, match=r"^the matrix multiply must be hand or cublaslt, got ''$"):
        with backend.cuda_gemm("", "cuda_on_cpu"):
            pass


def test_a_file_that_is_not_there_or_is_another(on_cpu):
    assert re.fullmatch(
        r"RuntimeError: matmul_forward: cuBLASLt cannot be loaded \(install nvidia-cublas, or name "
        r"the file in BYHAND_CUBLASLT\): /nowhere/lt\.so: [^;]*",
        said(BYHAND_CUBLASLT="/nowhere/lt.so"),
    )
    assert said(BYHAND_CUBLASLT=_host.__file__) == (
        f"RuntimeError: matmul_forward: {_host.__file__} has no cublasLtCreate: "
        "it is not the cuBLASLt of CUDA 12 or 13"
    )


@pytest.mark.parametrize("name", ["cu13/lib/libcublasLt.so.13", "cublas/lib/libcublasLt.so.12"])
def test_it_is_found_in_the_wheels(name, on_cpu, stand_in_file, tmp_path, monkeypatch):
    file = tmp_path / "nvidia" / name
    file.parent.mkdir(parents=True)
    shutil.copy(stand_in_file, file)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert str(file) in cublaslt.found()
    if the_linker_knows_it():
        pytest.skip("the dynamic linker knows a cuBLASLt, which comes first")
    if cublaslt.found()[0] != str(file):
        pytest.skip("another wheel comes first")
    assert said(PYTHONPATH=os.pathsep.join(filter(None, sys.path))) == "multiplied"


def test_all_that_was_tried_is_named(on_cpu, monkeypatch):
    if the_linker_knows_it() or cublaslt.found():
        pytest.skip("there is a cuBLASLt here")
    tried = said()
    assert tried.startswith("RuntimeError: matmul_forward: cuBLASLt cannot be loaded (install ")
    assert re.search(r"libcublasLt\.so\.13: .*; libcublasLt\.so\.12: ", tried)


# --- The real one --------------------------------------------------------------------------------


def test_what_we_declare_is_what_the_header_says(cache_dir):
    wheel = Path(sysconfig.get_paths()["purelib"]) / "nvidia" / "cu13" / "include"
    folders = [wheel, Path("/usr/local/cuda/include")]
    if nvcc := shutil.which("nvcc"):
        folders.append(Path(nvcc).resolve().parents[1] / "include")
    for header in ("cublasLt.h", "library_types.h"):
        if not any((folder / header).exists() for folder in folders):
            pytest.skip(f"{header} is not here (nvidia-cublas and nvidia-cuda-runtime have it)")
    compile.plain("cublaslt_header", cache_dir, *(f"-isystem{folder}" for folder in folders))


def test_the_real_library_without_a_gpu(on_cpu):
    """It can be loaded, and its error says that there is no GPU."""
    if not backend.cuda_reason():
        pytest.skip("this machine has a GPU")
    files = cublaslt.found()
    if not files:
        pytest.skip("cuBLASLt is not here (nvidia-cublas has it)")
    assert re.fullmatch(
        r"RuntimeError: matmul_forward: cublasLtCreate: CUBLAS_STATUS_NOT_INITIALIZED: .*",
        said(BYHAND_CUBLASLT=files[0]),
    )
