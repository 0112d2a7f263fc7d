from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from byhand import backend
from tests.cuda import compile, cupy_double, gpu_double, machine_code
from tests.cuda.schedules import SCHEDULES


@pytest.fixture
def cupy(on_cpu: Any, monkeypatch: Any) -> cupy_double.Cupy:
    """`import cupy` gives a stand-in whose arrays run on the CUDA kernels for the CPU."""
    return cupy_double.install(monkeypatch)


@pytest.fixture
def gpu_stand_in(on_cpu: Any, monkeypatch: Any) -> gpu_double.Machine:
    """bench/gpu.py finds a GPU: a stand-in that runs the CUDA kernels for the CPU."""
    return gpu_double.install(monkeypatch)


@pytest.fixture(params=[*SCHEDULES, pytest.param("gpu", marks=pytest.mark.gpu)])
def primitives(request: Any, cache_dir: Path) -> Iterator[compile.Library]:
    """kernels/SOURCE.cu, where the test module defines SOURCE: on the CPU under each schedule,
    and on a GPU, which must have the compute capability CAPABILITY if the module defines it.
    """
    if request.param == "gpu":
        yield _words_on_gpu(request.module, cache_dir)
        return
    library = compile.Library(compile.on_host(request.module.SOURCE, cache_dir))
    library.schedule(request.param)
    yield library
    library.schedule("forward")


def _words_on_gpu(module: Any, cache_dir: Path) -> compile.Library:
    if reason := backend.cuda_reason():
        pytest.skip(reason)
    arch = ""
    if wanted := getattr(module, "CAPABILITY", None):
        device = importlib.import_module("byhand._cuda").device_properties()
        if device["compute_capability"] != wanted:
            pytest.skip(f"the compute capability of this GPU is not {wanted[0]}.{wanted[1]}")
        arch = f"{wanted[0]}{wanted[1]}a"
    path = compile.with_nvcc(module.SOURCE, cache_dir, library=True, arch=arch)
    return compile.Library(path, importlib.import_module("cupy"))


@pytest.fixture(autouse=True)
def scheduled(schedule: str) -> str:
    """Every test here runs under a schedule, which follows from its name."""
    return schedule


@pytest.fixture(scope="session")
def cache_dir(request: Any, tmp_path_factory: Any) -> Path:
    """The folder in which compiled test kernels are kept between runs."""
    cache = getattr(request.config, "cache", None)
    return Path(cache.mkdir("cuda")) if cache else tmp_path_factory.mktemp("cuda")


@pytest.fixture
def cuda_module() -> Any:
    """The compiled module, with or without a GPU to run it on."""
    if "cuda" not in backend.built_modules():
        pytest.skip(backend.cuda_reason())
    return importlib.import_module("byhand._cuda")


@pytest.fixture(scope="session")
def machine() -> list[machine_code.Kernel]:
    """Every kernel of the compiled module, read from its machine code."""
    if "cuda" not in backend.built_modules():
        pytest.skip(backend.cuda_reason())
    try:
        return machine_code.kernels(Path(importlib.import_module("byhand._cuda").__file__ or ""))
    except machine_code.MissingTool as error:
        pytest.skip(str(error))
