"""Whether a build has CUDA kernels is never an accident: configuring with good, broken and missing
compilers.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.deep

ROOT = Path(__file__).parents[2]
SILENT = "it ends with status 1 and says nothing"


@pytest.fixture(scope="module")
def cmake() -> list[str]:
    """The command that configures a checkout, without the folders."""
    pybind11 = pytest.importorskip("pybind11")
    program = shutil.which("cmake")
    if program is None:
        pytest.skip("cmake was not found")
    found = [program, f"-DPython_EXECUTABLE={sys.executable}"]
    found += [f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    return [*found, "-G", "Ninja"] if shutil.which("ninja") else found


Configure = Callable[..., tuple[int, str, str]]


@pytest.fixture
def configure(cmake: list[str], tmp_path: Path) -> Configure:
    """Runs CMake -> (status, what it printed on one line, the recorded reason)."""

    def run(*options: str, **environment: str) -> tuple[int, str, str]:
        inherited = {k: v for k, v in os.environ.items() if k not in ("CUDACXX", "CUDAHOSTCXX")}
        done = subprocess.run(
            [*cmake, "-S", str(ROOT), "-B", str(tmp_path), *options],
            env={**inherited, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        build = tmp_path / "_build.py"
        recorded = build.read_text(encoding="utf-8") if build.exists() else ""
        reason = re.search(r'^CUDA_REASON = "(.*?)"', recorded, re.M)
        output = " ".join(done.stdout.split())
        return done.returncode, _spelled(output), _spelled(reason[1] if reason else "")

    return run


def _spelled(text: str) -> str:
    """Undoes the spelling in which older versions of CMake pass on messages of the system."""
    return text.replace("no such file", "No such file").replace("permission den", "Permission den")


@pytest.fixture(params=["says nothing", "says why", "is not there", "is not a program"])
def broken(request, tmp_path) -> tuple[str, str]:
    """An nvcc that does not work, and the reason that CMake must give."""
    nvcc = tmp_path / "broken nvcc"
    if request.param == "is not there":
        return str(nvcc), "No such file or directory"
    script, mode, reason = {
        "says nothing": ("#!/bin/sh\nexit 1\n", 0o755, SILENT),
        "says why": (
            "#!/bin/sh\necho 'compiling'\necho 'nvcc fatal: unsupported GNU version' >&2\nexit 2\n",
            0o755,
            "nvcc fatal: unsupported GNU version",
        ),
        "is not a program": ("", 0o644, "Permission denied"),
    }[request.param]
    nvcc.write_text(script, encoding="utf-8")
    nvcc.chmod(mode)
    return str(nvcc), reason


@pytest.fixture
def driver(tmp_path) -> Callable[[str], str]:
    """Makes a driver's tool that runs the lines of a script -> the PATH with it."""

    def make(script: str) -> str:
        folder = tmp_path / "driver"
        folder.mkdir()
        tool = folder / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        tool.chmod(0o755)
        return f"{folder}{os.pathsep}{os.environ['PATH']}"

    return make


def test_a_broken_nvcc_is_an_error_where_cuda_was_asked_for(broken, configure):
    nvcc, reason = broken
    status, output, recorded = configure("-DBYHAND_CUDA=ON", f"-DCMAKE_CUDA_COMPILER={nvcc}")
    assert status != 0
    assert output.count("CMake Error") == 1
    assert f"BYHAND_CUDA=ON, but {nvcc} does not work: {reason}" in output
    assert recorded == ""


def test_auto_goes_on_without_it_and_records_the_reason(broken, driver, configure):
    nvcc, reason = broken
    path = driver("echo 9.0")
    status, output, recorded = configure(f"-DCMAKE_CUDA_COMPILER={nvcc}", PATH=path)
    assert status == 0, output
    assert f"CUDA kernels: none, {nvcc} does not work" in output
    assert recorded == f"{nvcc} does not work: {reason}"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo no devices were found; exit 6", "nvidia-smi finds no GPU (no devices were found)"),
        ("exit 9", "nvidia-smi finds no GPU ()"),
        ("echo 8.9; echo 7.5", "a GPU of capability 7.5 is too old, the kernels need 8.0"),
    ],
)
def test_auto_builds_cuda_only_where_a_gpu_can_run_it(script, reason, driver, configure):
    status, output, recorded = configure(CUDACXX="/nowhere/nvcc", PATH=driver(script))
    assert status == 0, output
    assert "Checking that" not in output
    assert recorded == f"{reason}; BYHAND_CUDA=ON builds them all the same"
    assert f"CUDA kernels: none, {recorded}" in output


@pytest.mark.parametrize(
    ("script", "architectures"),
    [
        ("echo 9.0; echo 9.0; echo 8.6", "90a-real;86-real"),
        ("echo 12.0", "120-real"),
        ("exit 9", "80-real;90a-real;80-virtual"),
    ],
)
def test_machine_code_is_for_the_gpus_that_are_there(script, architectures, driver, configure):
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc was not found")
    status, output, recorded = configure("-DBYHAND_CUDA=ON", PATH=driver(script))
    assert status == 0, output
    assert f"architectures {architectures}" in output
    assert recorded == ""


def test_the_environment_names_the_compiler(configure):
    status, output, _ = configure(
        "-DBYHAND_CUDA=ON", CUDACXX="/nowhere/nvcc -allow-unsupported-compiler"
    )
    assert status != 0
    assert "/nowhere/nvcc does not work: No such file or directory" in output


def test_a_missing_host_compiler_is_an_error(configure):
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc was not found")
    status, output, _ = configure("-DBYHAND_CUDA=ON", CUDAHOSTCXX="/nowhere/g++")
    assert status != 0
    assert re.search(r"nvcc does not work: .*/nowhere/g\+\+", output)


def test_off_looks_for_nothing(configure):
    status, output, recorded = configure("-DBYHAND_CUDA=OFF", CUDACXX="/nowhere/nvcc")
    assert status == 0, output
    assert "Checking that" not in output
    assert recorded == "it was switched off (BYHAND_CUDA=OFF)"


def test_no_nvcc_is_a_build_without_cuda(driver, configure):
    status, output, recorded = configure("-DBYHAND_NVCC=", PATH=driver("echo 9.0"))
    assert status == 0, output
    assert recorded == "nvcc was not found (set CUDACXX or put it on the PATH)"


def test_no_nvcc_is_an_error_where_cuda_was_asked_for(configure):
    status, output, _ = configure("-DBYHAND_CUDA=ON", "-DBYHAND_NVCC=")
    assert status != 0
    assert "BYHAND_CUDA=ON, but nvcc was not found" in output


def test_a_wish_must_be_a_known_word(configure):
    status, output, _ = configure("-DBYHAND_CUDA=PERHAPS")
    assert status != 0
    assert "BYHAND_CUDA must be AUTO, ON or OFF, got PERHAPS" in output


# --- Generated lists of sources -------------------------------------------------------------------


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy of everything that CMake reads."""
    copy = tmp_path / "sources"
    for folder in ("cmake", "csrc", "cuda"):
        shutil.copytree(ROOT / folder, copy / folder)
    shutil.copytree(ROOT / "tests" / "cuda_on_cpu", copy / "tests" / "cuda_on_cpu")
    shutil.copy(ROOT / "CMakeLists.txt", copy)
    return copy


def generated(cmake: list[str], sources: Path, package: str = ".") -> tuple[str, str, str]:
    """Configures a package -> (what CMake printed, contracts.h, the build's own list of files)."""
    build = sources.parent / package / "build"
    command = [*cmake, "-S", str(sources / package), "-B", str(build), "-DBYHAND_CUDA=OFF"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        return " ".join(done.stdout.split()), "", ""
    files = [p for p in (build / "build.ninja", build / "Makefile") if p.exists()]
    files += build.rglob("build.make")
    listed = "\n".join(p.read_text(encoding="utf-8") for p in files)
    return "", (build / "generated" / "contracts.h").read_text(encoding="utf-8"), listed


def test_a_new_op_is_in_no_list(cmake, sources):
    """Its contract is in contracts.h, its bodies are compiled; other headers are not included."""
    family = sources / "csrc" / "ops" / "norm"
    for name in ("planted.h", "planted.cpp", "planted_rows.h"):
        (family / name).write_text("", encoding="utf-8")
    (sources / "cuda" / "ops" / "norm" / "planted.cu").write_text("", encoding="utf-8")
    _, contracts, listed = generated(cmake, sources)
    assert '#include "ops/norm/planted.h"\n' in contracts
    assert "planted_rows" not in contracts
    assert "ops/norm/planted.cpp" in listed
    _, contracts, listed = generated(cmake, sources, "tests/cuda_on_cpu")
    assert '#include "ops/norm/planted.h"\n' in contracts
    assert "ops/norm/planted.cu" in listed


def test_an_op_without_a_contract_is_an_error(cmake, sources):
    (sources / "csrc" / "ops" / "norm" / "planted.cpp").write_text("", encoding="utf-8")
    output, _, _ = generated(cmake, sources)
    assert "csrc/ops/norm/planted.cpp has no contract: csrc/ops/norm/planted.h is missing" in output
