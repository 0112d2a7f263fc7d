"""The reason why CUDA is unavailable, for everything that can be missing."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import byhand
from byhand import _build, backend
from byhand.backend import native
from byhand.cli.main import main

NO_DRIVER = "cudaErrorInsufficientDriver: CUDA driver version is insufficient"
NO_CUPY = "cupy is not installed; install byhand with the extra: pip install 'byhand[cuda]'"


CUPY = SimpleNamespace(cuda=SimpleNamespace(Device=lambda: SimpleNamespace(id=0)))


def module(
    count: int = 0, reason: str = "", capability: tuple[int, int] = (9, 0)
) -> SimpleNamespace:
    return SimpleNamespace(
        device_count=lambda: (count, reason),
        device_properties=lambda device: {"compute_capability": capability},
        kernels={},
    )


# Each case simulates an installation: the built module, the reason recorded by the build, the
# result of importing cupy; and the reason that must be reported.
CASES = {
    "switched off": (
        None,
        "it was switched off (BYHAND_CUDA=OFF)",
        None,
        "byhand was built without CUDA: it was switched off (BYHAND_CUDA=OFF)",
    ),
    "no nvcc": (
        None,
        "nvcc was not found (set CUDACXX or put it on the PATH)",
        None,
        "byhand was built without CUDA: nvcc was not found (set CUDACXX or put it on the PATH)",
    ),
    "not loadable": (
        ImportError("libstdc++.so.6: cannot open shared object file"),
        "",
        None,
        "the CUDA kernels cannot be loaded: libstdc++.so.6: cannot open shared object file",
    ),
    "no driver": (module(0, NO_DRIVER), "", None, f"no CUDA device: {NO_DRIVER}"),
    "no device": (
        module(0, "the driver lists none"),
        "",
        None,
        "no CUDA device: the driver lists none",
    ),
    "no cupy": (module(1), "", None, NO_CUPY),
    "broken cupy": (
        module(1),
        "",
        ImportError("libcuda.so.1: cannot open shared object file"),
        "cupy cannot be imported: libcuda.so.1: cannot open shared object file",
    ),
    "available": (module(1), "", CUPY, ""),
}


@pytest.fixture(params=CASES)
def reason(request, monkeypatch) -> Iterator[str]:
    """Makes this installation look like one of the cases; the reason that it must report."""
    built, recorded, cupy, expected = CASES[request.param]
    names = [name for name in backend.built_modules() if name != "cuda"]
    monkeypatch.setattr(native, "built_modules", lambda: [*names, *["cuda"] * (built is not None)])
    monkeypatch.setattr(_build, "CUDA_REASON", recorded)
    monkeypatch.setattr(native.state, "cuda", None)
    native.kernels_of.cache_clear()
    find, load, really_import = importlib.util.find_spec, native.load, importlib.import_module

    def give(what: object) -> object:
        if isinstance(what, Exception):
            raise what
        return what

    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: cupy if name == "cupy" else find(name)
    )
    monkeypatch.setattr(
        importlib, "import_module", lambda n: give(cupy) if n == "cupy" else really_import(n)
    )
    monkeypatch.setattr(native, "load", lambda n: give(built) if n == "cuda" else load(n))
    yield expected
    native.kernels_of.cache_clear()


def test_the_reason_is_reported(reason):
    assert byhand.cuda_reason() == reason
    assert byhand.info()["cuda"] == (reason or "available")


def test_using_cuda_without_it_is_refused_with_the_reason(reason):
    if not reason:
        assert backend.cuda().name == "cuda"
        return
    with pytest.raises(backend.CudaUnavailable, match=f"^{re.escape(reason)}$"):
        backend.cuda()


def test_the_command_line_says_it(reason, capsys):
    assert main(["info"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"cuda {reason or 'available'}" in said


@pytest.mark.parametrize(
    ("architectures", "capability", "machine_code"),
    [
        ("80-real;90a-real;80-virtual", (8, 0), "runs"),
        ("80-real;90a-real;80-virtual", (8, 9), "runs"),
        ("80-real;90a-real;80-virtual", (9, 0), "runs"),
        ("80-real;90a-real;80-virtual", (10, 0), "sm_80, sm_90a"),
        ("80-real;90a-real;80-virtual", (12, 1), "sm_80, sm_90a"),
        ("90a-real;80-virtual", (9, 1), "sm_90a"),
        ("100f-real;80-virtual", (10, 3), "runs"),
        ("89-real;80-virtual", (8, 6), "sm_89"),
        ("80-virtual", (8, 0), "none"),
        ("native;80-virtual", (12, 0), "runs"),
        ("120-real", (8, 0), "runs"),  # there is nothing that the driver could compile
        ("", (8, 0), "runs"),
    ],
)
def test_the_first_use_says_once_that_the_driver_compiles(
    architectures, capability, machine_code, monkeypatch, capsys
):
    really_import = importlib.import_module
    monkeypatch.setattr(_build, "CUDA_ARCHITECTURES", architectures, raising=False)
    monkeypatch.setattr(native.state, "cuda", None)
    monkeypatch.setattr(importlib.import_module("byhand.backend.cuda"), "cuda_reason", lambda: "")
    monkeypatch.setattr(native, "kernels_of", lambda name: native.Kernels(name, {}))
    monkeypatch.setattr(native, "load", lambda name: module(1, "", capability))
    monkeypatch.setattr(
        importlib, "import_module", lambda n: CUPY if n == "cupy" else really_import(n)
    )
    for _ in range(2):
        backend.cuda()
    said = capsys.readouterr().err
    if machine_code == "runs":
        assert said == ""
        return
    major, minor = capability
    assert said == (
        f"byhand: this GPU has compute capability {major}.{minor}, for which this build has no "
        f"machine code (it has {machine_code}); the driver compiles each kernel when it is first "
        "used, which takes a while\n"
    )


def test_the_build_records_its_architectures():
    template = Path(__file__).parents[2] / "cmake" / "_build.py.in"
    recorded = template.read_text(encoding="utf-8")
    assert '\nCUDA_ARCHITECTURES = "@CMAKE_CUDA_ARCHITECTURES@"' in recorded
