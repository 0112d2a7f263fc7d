"""What must hold on a machine that has neither a GPU nor a driver."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bench import collect
from byhand import backend
from tests.cuda.fake import FakeCupy

ROOT = Path(__file__).parents[2]


def bodies() -> set[str]:
    """The names of the kernels that cuda/ implements."""
    found: set[str] = set()
    for path in sorted((ROOT / "cuda").glob("ops/*/*.cu")):
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(r"^void (\w+)\((?:Out|Mut|Acc|StridedOut|Maybe<\w+>) ", text, re.M))
    return found


def test_the_registry_lists_exactly_the_kernels_that_have_bodies(cuda_module):
    assert set(cuda_module.kernels) == bodies()


def test_arguments_are_those_of_the_cpu(cuda_module):
    from byhand import _cpu_base

    for kernel, arguments in cuda_module.kernels.items():
        assert list(arguments) == list(_cpu_base.kernels[kernel]), kernel


def test_import_needs_no_driver(cuda_module):
    """In a fresh process, and nothing of CUDA is linked but what the module carries itself."""
    code = "import byhand._cuda as m; n, why = m.device_count(); print(n, bool(why))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, said_why = out.stdout.split()
    assert (int(count) == 0) == (said_why == "True")


def test_device_count_gives_a_number_and_a_reason(cuda_module):
    for _ in range(2):
        count, reason = cuda_module.device_count()
        assert isinstance(count, int)
        assert count >= 0
        assert (count == 0) == bool(reason)


def test_versions(cuda_module):
    assert cuda_module.runtime_version() >= 12000
    assert cuda_module.driver_version() >= 0


def test_device_properties_say_why_there_are_none(cuda_module):
    count, _ = cuda_module.device_count()
    with pytest.raises(RuntimeError, match=rf"device_properties: device {count}: cudaError\w+: "):
        cuda_module.device_properties(count)


def test_without_a_device_the_backend_refuses_with_the_reason(cuda_module):
    count, reason = cuda_module.device_count()
    if count:
        pytest.skip("this machine has a GPU")
    assert reason in backend.cuda_reason()
    with pytest.raises(backend.CudaUnavailable, match=re.escape(reason)):
        backend.cuda()


def test_nothing_of_cuda_is_linked(cuda_module):
    """The runtime is inside the module, the driver is looked for when it is needed."""
    ldd = shutil.which("ldd")
    if ldd is None:
        pytest.skip("ldd was not found")
    out = subprocess.run([ldd, cuda_module.__file__], capture_output=True, text=True, check=True)
    assert "libc.so" in out.stdout
    assert not re.findall(r"lib(?:cuda|cudart|nvidia)\S*", out.stdout)


@pytest.fixture
def refused(cuda_module, monkeypatch) -> str:
    """The reason why no kernel can be launched here; everything before the launch can be tested."""
    count, reason = cuda_module.device_count()
    if count:
        pytest.skip("this machine has a GPU")
    stream = SimpleNamespace(ptr=0)
    cupy = SimpleNamespace(cuda=SimpleNamespace(get_current_stream=lambda: stream))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    return reason


@pytest.mark.parametrize("case", tuple(collect.gpu_cases(np, "small")), ids=str)
def test_every_launch_without_a_device_is_an_error_that_says_why(case, cuda_module, refused):
    for kernel, arguments in case.calls:
        there = {
            name: FakeCupy.of(value) if isinstance(value, np.ndarray) else value
            for name, value in arguments.items()
        }
        with pytest.raises(RuntimeError, match=rf"^{kernel}: {re.escape(refused)}$"):
            replace(case, calls=((kernel, there),)).run(cuda_module)


MANY = 2**30 + 1


@pytest.mark.parametrize(
    ("kernel", "arguments", "sentence"),
    [
        (
            "embedding_backward",
            (
                FakeCupy((MANY, 1)),
                FakeCupy((9999,)),
                FakeCupy((3, 1)),
                FakeCupy((3,), "int64"),
                1.0,
            ),
            "embedding_backward: the CUDA kernels take at most 2^30 classes",
        ),
        (
            "matmul_forward",
            (FakeCupy((MANY, 1)), FakeCupy((MANY, 2)), FakeCupy((2, 1)), False, False, False),
            "matrix multiply: the CUDA kernels take at most 2^30 rows",
        ),
        (
            "attention_forward",
            (
                *(FakeCupy(shape) for shape in ((1, 1, 2, 8), (1, 2, 1), (9999,), (1, 1, 2, 8))),
                *(FakeCupy((1, MANY, 2, 8)) for _ in "kv"),
                *(*(None,) * 5, 1.0, True, MANY, 0.0, 0.0, 0, 0),
            ),
            "attention: the CUDA kernels take at most 2^30 keys",
        ),
        (
            "cross_entropy_gradient",
            (
                *(FakeCupy(()), FakeCupy(()), None, FakeCupy((2, MANY)), FakeCupy(())),
                *(FakeCupy((2,), "int64"), -100, 0.0, True),
            ),
            "cross_entropy_gradient: the CUDA kernels take at most 2^30 classes",
        ),
    ],
)
def test_sizes_beyond_an_int_are_refused(kernel, arguments, sentence, cuda_module, refused):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}, got {MANY}$"):
        getattr(cuda_module, kernel)(*arguments)


def test_a_dtype_that_only_other_kernels_take_is_refused(cuda_module, refused):
    with pytest.raises(TypeError, match=r"^clip: g must be float32 or bfloat16, got int64$"):
        cuda_module.clip(FakeCupy(dtype="int64"), FakeCupy(()), 1.0)


def test_numpy_arrays_are_refused_by_name(cuda_module):
    g, norm = np.ones(3, np.float32), np.ones((), np.float32)
    with pytest.raises(TypeError, match=r"^clip: g must be a cupy array, got a numpy array"):
        cuda_module.clip(g, norm, 1.0)


def test_a_build_without_cuda_says_why():
    if "cuda" in backend.built_modules():
        pytest.skip("this build has CUDA")
    assert backend.cuda_reason().startswith("byhand was built without CUDA: ")
    assert "no reason recorded" not in backend.cuda_reason()
