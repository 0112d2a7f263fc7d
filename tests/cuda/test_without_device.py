"""What must hold on a machine that has neither a GPU nor a driver."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from byhand import backend

ROOT = Path(__file__).parents[2]


def bodies() -> set[str]:
    """The kernels that cuda/ has bodies for."""
    found: set[str] = set()
    for path in sorted((ROOT / "cuda").glob("*.cu")):
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(r"^void (\w+)\((?:Out|Mut|Acc) ", text, re.M))
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


def test_numpy_arrays_are_refused_by_name(cuda_module):
    g, norm = np.ones(3, np.float32), np.ones((), np.float32)
    with pytest.raises(TypeError, match=r"^clip: g must be a cupy array, got a numpy array"):
        cuda_module.clip(g, norm, 1.0)


def test_a_build_without_cuda_says_why():
    if "cuda" in backend.built_modules():
        pytest.skip("this build has CUDA")
    assert backend.cuda_reason().startswith("byhand was built without CUDA: ")
    assert "no reason recorded" not in backend.cuda_reason()
