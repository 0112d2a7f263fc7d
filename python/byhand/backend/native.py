"""The compiled modules: which ones this installation has, and their kernels."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable
from types import ModuleType

from byhand import cublaslt

_MODULES = (
    "cpu_base",
    "cpu_avx2",
    "cpu_avx512",
    "cpu_avx512bf16",
    "cpu_neon",
    "cuda",
    "cuda_on_cpu",
)


class MissingKernelError(NotImplementedError, AttributeError):
    """A back end lacks a kernel. An AttributeError too, so that hasattr() can ask for one."""


class Kernels:
    """The kernels of one back end, as attributes."""

    def __init__(self, name: str, functions: dict[str, Callable[..., None]]):
        self.name = name
        self.__dict__.update(functions)
        self._names = sorted(functions)

    @property
    def available(self) -> list[str]:
        """The names of its kernels, sorted."""
        return self._names

    def __getattr__(self, kernel: str) -> Callable[..., None]:
        raise MissingKernelError(
            f"{kernel} has no {self.name} kernel; {self.name} has: {', '.join(self.available)}"
        )

    def __repr__(self) -> str:
        return f"<{self.name}: {len(self.available)} kernels>"


class _State:
    """The back ends in use; None until they are first asked for."""

    cpu: Kernels | None = None
    cuda: Kernels | None = None


state = _State()


def built_modules() -> list[str]:
    """Native back ends that this installation contains, such as ``cpu_avx2``."""
    return [name for name in _MODULES if importlib.util.find_spec(_module(name)) is not None]


def _module(name: str) -> str:
    """The Python module of a back end. The CUDA kernels for the CPU are a package of the tests."""
    return f"byhand_{name}" if name == "cuda_on_cpu" else f"byhand._{name}"


def load(name: str) -> ModuleType:
    """The compiled module of a back end. ImportError, with the reason, where it cannot be loaded;
    a module for instructions that this processor lacks cannot.
    """
    return importlib.import_module(_module(name))


@functools.cache
def kernels_of(name: str) -> Kernels:
    """The kernels of a compiled module."""
    module = load(name)
    if name.startswith("cuda") and os.environ.get("BYHAND_GEMM") == "cublaslt":
        find_cublaslt(name)
    return Kernels(name, {kernel: getattr(module, kernel) for kernel in module.kernels})


@functools.cache
def find_cublaslt(module: str) -> None:
    """Passes the paths of cuBLASLt to a CUDA module, the first time it is called."""
    load(module).set_cublaslt_paths(cublaslt.found())
