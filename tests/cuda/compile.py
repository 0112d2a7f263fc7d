"""Compiles CUDA kernels that only tests need: for the CPU, with a C++ compiler and cuda/emulator,
or with nvcc. Libraries are kept in pytest's cache, under a hash of all their sources.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
KERNELS = Path(__file__).parent / "kernels"
_FLAGS = ("-std=c++17", f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'cuda'}")
_HOST = ("-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-ffp-contract=off")
_HOST += ("-fPIC", "-fvisibility=hidden", "-pthread", "-x", "c++")


def host_compiler() -> list[str]:
    """CXX, or the compiler that Python was built with, or c++ or g++."""
    for name in (os.environ.get("CXX"), sysconfig.get_config_var("CXX"), "c++", "g++"):
        command = shlex.split(name or "")
        if command and shutil.which(command[0]):
            return command
    pytest.skip("no C++ compiler was found")


def _runtime() -> list[Path]:
    sources = [p for p in (ROOT / "cuda" / "emulator").glob("*.cpp") if p.stem != "module"]
    return sorted([*sources, ROOT / "csrc" / "threads" / "threads.cpp"])


def _key(command: list[str], sources: list[Path]) -> str:
    text = hashlib.sha256(" ".join(command).encode())
    headers = (*ROOT.glob("cuda/**/*.*h"), *ROOT.glob("csrc/**/*.h"))
    for path in sorted({*sources, *headers}):
        text.update(path.read_bytes())
    return text.hexdigest()[:20]


def on_host(
    name: str,
    cache: Path,
    sanitize: str = "",
    program: bool = False,
    changed: Path | None = None,
) -> Path:
    """kernels/NAME.cu as a shared library, or as a program, that runs on the CPU. Headers under
    `changed` replace those under cuda/.
    """
    compiler = host_compiler()
    sources = [KERNELS / f"{name}.cu", KERNELS / "set_schedule.cpp", *_runtime()]
    flags = [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all", "-g"] if sanitize else []
    kind = "program" if program else "library"
    own = sorted(changed.rglob("*.cuh")) if changed else []
    first = [f"-I{changed}"] if changed else []
    command = [*compiler, *_FLAGS, *_HOST, *flags, kind]
    target = cache / f"{name}-{_key(command, [*sources, *own])}"
    if target.exists():
        return target
    objects = [cache / f"{target.name}-{source.stem}.o" for source in sources]

    def compile_one(source: Path, to: Path) -> None:
        _run([*compiler, *first, *_FLAGS, *_HOST, *flags, "-c", "-o", str(to), str(source)])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, sources, objects))
    link = [] if program else ["-shared"]
    made = target.with_suffix(".new")
    _run([*compiler, *flags, "-pthread", *link, "-o", str(made), *map(str, objects)])
    for path in objects:
        path.unlink()
    made.rename(target)
    return target


def plain(name: str, cache: Path, *flags: str) -> Path:
    """kernels/NAME.cpp, plain C++, as a shared library."""
    source = KERNELS / f"{name}.cpp"
    command = [*host_compiler(), *_FLAGS, *_HOST, *flags, "-shared"]
    target = cache / f"{name}-{_key(command, [source])}.so"
    if not target.exists():
        made = target.with_suffix(".new")
        _run([*command, "-o", str(made), str(source)])
        made.rename(target)
    return target


def with_nvcc(name: str, cache: Path, *, library: bool, arch: str = "") -> Path:
    """kernels/NAME.cu for the GPU: a shared library for this machine's GPU, or an object file for
    sm_80. `arch`, such as 90a, chooses another architecture.
    """
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc was not found")
    target = cache / f"{name}{'.so' if library else '.o'}"
    only = f"-gencode=arch=compute_{arch or 80},code=sm_{arch or 80}"
    code = "-arch=native" if library and not arch else only
    flags = ["-Werror=all-warnings", "-Xcompiler", "-Wall,-Wextra,-fPIC", code]
    _run([nvcc, *_FLAGS, *flags, "-shared" if library else "-c", "-o", str(target),
          str(KERNELS / f"{name}.cu")])  # fmt: skip
    return target


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.fail(f"{shlex.join(command)}\n{done.stdout}{done.stderr}")


class Library:
    """The functions of a library as methods. Numpy arrays are passed as pointers. A message that a
    function returns is raised as RuntimeError. With cupy, arrays are copied to the device before
    the call and back after it.
    """

    def __init__(self, path: Path, cupy: Any = None):
        self._library = ctypes.CDLL(str(path))
        self._cupy = cupy

    def schedule(self, text: str) -> None:
        """The schedule of cuda_on_cpu_schedule, for a library that runs on the CPU."""
        self._library.run_schedule(text.encode())

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._library, f"run_{name}")
        function.restype = ctypes.c_char_p

        def call(*args: Any) -> None:
            there = [self._there(a) for a in args]
            error = function(*(_argument(a) for a in there))
            if error is not None:
                raise RuntimeError(error.decode())
            for here, other in zip(args, there, strict=True):
                if self._cupy is not None and isinstance(here, np.ndarray) and other is not here:
                    here[...] = self._cupy.asnumpy(other)

        return call

    def _there(self, value: Any) -> Any:
        if self._cupy is None or not isinstance(value, np.ndarray) or not value.flags.writeable:
            return value  # read-only arrays are read by the CPU
        return self._cupy.asarray(value)


def _argument(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return ctypes.c_void_p(value.ctypes.data)
    if hasattr(value, "data") and hasattr(value.data, "ptr"):
        return ctypes.c_void_p(value.data.ptr)
    return ctypes.c_int(value)
