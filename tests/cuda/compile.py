"""Compiles CUDA kernels that only tests need: for the CPU, with a C++ compiler and cuda/emulator,
or with nvcc. Libraries are kept in pytest's cache, under a hash of all their sources.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable
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


@functools.cache
def _headers() -> bytes:
    text = hashlib.sha256()
    for path in sorted((*ROOT.glob("cuda/**/*.*h"), *ROOT.glob("csrc/**/*.h"))):
        text.update(path.read_bytes())
    return text.digest()


def _key(command: list[str], sources: Iterable[Path]) -> str:
    text = hashlib.sha256(" ".join(command).encode() + _headers())
    for path in sources:
        text.update(path.read_bytes())
    return text.hexdigest()[:20]


def _made(target: Path, command: list[str], *last: str) -> Path:
    """`target`, made by this command if it is not there; several processes may want it at once."""
    if not target.exists():
        made = target.with_suffix(f".{os.getpid()}.new")
        _run([*command, "-o", str(made), *last])
        made.replace(target)
    return target


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
    kernel = KERNELS / f"{name}.cu"
    sources = [kernel, KERNELS / "set_schedule.cpp", *_runtime()]
    flags = [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all", "-g"] if sanitize else []
    own = sorted(changed.rglob("*.cuh")) if changed else []

    def compile_one(source: Path) -> Path:
        # The changed headers are the kernel's: other objects are those of the unchanged program.
        first, extra = ([f"-I{changed}"], own) if changed and source == kernel else ([], [])
        options = [*_FLAGS, *_HOST, *flags, "-c"]
        target = cache / f"{source.stem}-{_key([*compiler, *options], [source, *extra])}.o"
        return _made(target, [*compiler, *first, *options], str(source))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = [str(path) for path in pool.map(compile_one, sources)]
    command = [*compiler, *flags, "-pthread", *([] if program else ["-shared"])]
    return _made(cache / f"{name}-{_key([*command, *objects], [])}", command, *objects)


def plain(name: str, cache: Path, *flags: str) -> Path:
    """kernels/NAME.cpp, plain C++, as a shared library."""
    source = KERNELS / f"{name}.cpp"
    command = [*host_compiler(), *_FLAGS, *_HOST, *flags, "-shared"]
    return _made(cache / f"{name}-{_key(command, [source])}.so", command, str(source))


def with_nvcc(name: str, cache: Path, *, library: bool, arch: str = "") -> Path:
    """kernels/NAME.cu for the GPU: a shared library for this machine's GPU, or an object file for
    sm_80. `arch`, such as 90a, chooses another architecture.
    """
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc was not found")
    source = KERNELS / f"{name}.cu"
    only = f"-gencode=arch=compute_{arch or 80},code=sm_{arch or 80}"
    code = "-arch=native" if library and not arch else only
    flags = ["-Werror=all-warnings", "-Xcompiler", "-Wall,-Wextra,-fPIC", code]
    command = [nvcc, *_FLAGS, *flags, "-shared" if library else "-c"]
    suffix = ".so" if library else ".o"
    return _made(cache / f"{name}-{_key(command, [source])}{suffix}", command, str(source))


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
