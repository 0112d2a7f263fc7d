"""The rules of the code base that no linter knows."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import byhand
from byhand import backend

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "python" / "byhand"

# The packages and modules of byhand, the highest first: imports only go down. Those of one line may
# not import each other, unless ALLOWED names the pair.
LAYERS = [
    {"__main__", "__init__"},
    {"cli"},
    {"training"},
    {"runs"},
    {"tasks"},
    {"generation", "about", "roofline"},
    {"models"},
    {"nn", "optim", "text", "data"},
    {"ops"},
    {"backend"},
    {"config", "registry"},
    {"values"},
    {"errors", "_build", "_host", "cublaslt"},
]
ALLOWED = {("optim", "nn")}
LAYER_OF = {name: height for height, names in enumerate(reversed(LAYERS)) for name in names}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def package_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_packages(path: Path) -> set[str]:
    """The packages of byhand that a file imports, anywhere in it."""
    package = ["byhand", *path.relative_to(PACKAGE).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            if module == ["byhand"]:
                found |= {alias.name for alias in node.names}
            elif module[0] == "byhand":
                found.add(module[1])
        elif isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                if parts[0] == "byhand" and len(parts) > 1:
                    found.add(parts[1])
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_go_down(path: Path):
    package = package_of(path)
    assert package in LAYER_OF, f"{package} has no layer: add it to LAYERS"
    for other in imported_packages(path) & LAYER_OF.keys():
        if other != package and (package, other) not in ALLOWED:
            assert LAYER_OF[other] < LAYER_OF[package], f"{package} must not import {other}"


def test_the_parser_of_imports_sees_relative_and_absolute_ones():
    """The test above is only as good as its parser."""
    assert {"nn", "backend"} <= imported_packages(PACKAGE / "models" / "gpt.py")
    assert "ops" in imported_packages(PACKAGE / "nn" / "linear.py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_file_is_a_giant(path: Path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 450


def test_import_is_light():
    """Nothing that a command needs is loaded by ``import byhand``, and no thread is started."""
    code = (
        "import sys, threading, byhand\n"
        "heavy = {'rich', 'safetensors', 'matplotlib', 'torch', 'cupy', 'argparse', 'http'}\n"
        "print(sorted(heavy & set(sys.modules)), threading.active_count(),"
        " any('_cpu_' in name for name in sys.modules))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert out.stdout.split() == ["[]", "1", "False"]


def begins_like_one_of(names, stem):
    """softmax_rows and softmax are rooms of softmax."""
    parts = stem.split("_")
    return any("_".join(parts[:n]) in names for n in range(len(parts), 0, -1))


def test_every_op_has_its_rooms():
    """One stem in every place: contract and C++ body, public function, CUDA body."""
    bodies = sorted((ROOT / "csrc" / "ops").glob("*/*.cpp"))
    cuda_bodies = sorted((ROOT / "cuda" / "ops").glob("*/*.cu"))
    functions = {p.stem for p in (PACKAGE / "ops").glob("*.py")}
    assert bodies, "the sources are not where this test looks for them"
    assert cuda_bodies, "the CUDA sources are not where this test looks for them"
    for body in bodies:
        path = body.relative_to(ROOT)
        if not body.with_suffix(".h").exists():
            pytest.fail(f"{path} has no contract {path.with_suffix('.h')}")
        if not begins_like_one_of(functions, body.stem):
            pytest.fail(f"{path} has no public function in python/byhand/ops/{body.stem}.py")
    for cuda_body in cuda_bodies:
        family = {p.stem for p in bodies if p.parent.name == cuda_body.parent.name}
        assert begins_like_one_of(family, cuda_body.stem), f"{cuda_body} has no C++ body"


def test_every_native_kernel_has_a_reference():
    for name, native in backend.cpu_modules().items():
        kernels = {kernel for kernel in native.available if not kernel.endswith("_probe")}
        missing = kernels - set(backend.reference.available)
        assert not missing, f"{name} has kernels without a reference: {missing}"
        assert set(backend.reference.available) <= set(native.available)


def test_a_missing_kernel_is_a_loud_error():
    with pytest.raises(NotImplementedError, match=r"frobnicate has no reference kernel.*adamw"):
        backend.reference.frobnicate  # noqa: B018


def test_public_names_exist():
    for name in byhand.__all__:
        assert getattr(byhand, name) is not None
