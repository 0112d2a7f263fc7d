"""The rules of the code base that no linter knows."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from fnmatch import fnmatch
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
    {"demos"},
    {"training"},
    {"plot"},
    {"runs"},
    {"tasks"},
    {"generation", "about", "roofline"},
    {"models"},
    {"nn", "optim", "text", "data"},
    {"hub"},
    {"ops"},
    {"backend"},
    {"config", "registry"},
    {"values"},
    {"errors", "files", "_build", "_host", "_text", "cublaslt"},
]
ALLOWED = {("optim", "nn")}
# Methods that a user expects on a model import their folder when they are called.
METHODS = {"models/causal_lm.py": {"generation"}}
LAYER_OF = {name: height for height, names in enumerate(reversed(LAYERS)) for name in names}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def package_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_packages(path: Path) -> set[str]:
    """The packages of byhand that a file imports, anywhere in it."""
    return packages_of(path, ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def top_imports(path: Path) -> set[str]:
    """The packages of byhand that a file imports when it is imported."""
    return packages_of(path, ast.parse(path.read_text(encoding="utf-8")).body)


def packages_of(path: Path, nodes: Iterable[ast.AST]) -> set[str]:
    package = ["byhand", *path.relative_to(PACKAGE).parts[:-1]]
    found = set()
    for node in nodes:
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
    above = METHODS.get(path.relative_to(PACKAGE).as_posix(), set())
    assert not above & top_imports(path), f"{path} must import {above} in a method"
    for other in (imported_packages(path) - above) & LAYER_OF.keys():
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
    """softmax_rows and softmax belong to softmax."""
    parts = stem.split("_")
    return any("_".join(parts[:n]) in names for n in range(len(parts), 0, -1))


def test_every_op_has_its_files():
    """One stem in every folder: contract and C++ body, public function, CUDA body."""
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


# --- The price of an op: six files and one line -----------------------------------------------

SIX = (
    "csrc/**/{op}.h",
    "csrc/**/{op}.cpp",
    "cuda/**/{op}.cu",
    "python/byhand/ops/{op}.py",
    "tests/ops/test_{op}.py",
    "bench/ops/{op}.py",
)
REGISTRY = "csrc/bind.cpp"
# Where a name costs nothing: generated data, results, layers and models that use the op, and the
# example of a whole op. Documentation and the change log are not code.
FREE = (
    "tests/cuda/resources.txt",
    "bench/results/*",
    "python/byhand/nn/*",
    "python/byhand/models/*",
    "tests/example_op/*",
    "tests/test_architecture.py",
)
CODE = {".py", ".h", ".cpp", ".cu", ".cuh", ".txt", ".cmake", ".sh", ".toml"}
EXAMPLE = Path(__file__).parent / "example_op"
LINE = '    OP(scale_shift, "y x scale shift", "dx dy scale");\n'


def without_comments(path: Path) -> str:
    """The code of a file: a name in a comment or a docstring costs nothing."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        tree = ast.parse(text)
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
                if isinstance(body[0].value, ast.Constant):
                    body[0] = ast.Pass()
        return ast.unparse(tree)
    if path.suffix in (".h", ".cpp", ".cu", ".cuh"):
        return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)
    return re.sub(r"(?m)^\s*#[^\n]*", "", text)


def files_that_name(root: Path, op: str) -> set[str]:
    """Paths below root whose name or code has the name of the op, free ones left out."""
    name = re.compile(rf"(?<![A-Za-z0-9]){op}(?![A-Za-z0-9])")
    folders = ("csrc", "cuda", "cmake", "python", "tests", "bench")
    candidates = [root / "CMakeLists.txt", root / "pyproject.toml"]
    candidates += [path for folder in folders for path in (root / folder).rglob("*")]
    found = set()
    for path in candidates:
        short = path.relative_to(root).as_posix()
        if path.suffix not in CODE or not path.is_file() or any(fnmatch(short, f) for f in FREE):
            continue
        mentioned = op in path.read_text(encoding="utf-8")
        if name.search(path.stem) or (mentioned and name.search(without_comments(path))):
            found.add(short)
    return found


def check_price(root: Path, op: str) -> None:
    """Six files and the registry name the op, and nothing else does."""
    found = files_that_name(root, op)
    expected = [pattern.format(op=op) for pattern in SIX]
    matches = {pattern: [f for f in found if fnmatch(f, pattern)] for pattern in expected}
    assert all(len(files) == 1 for files in matches.values()), matches
    others = found - {file for files in matches.values() for file in files}
    assert others == {REGISTRY}, f"{op} is named in {sorted(others - {REGISTRY})} too"
    lines = [line for line in without_comments(root / REGISTRY).splitlines() if op in line]
    assert len(lines) == 1, lines


def test_the_price_of_an_op():
    check_price(ROOT, "rmsnorm")


def test_a_name_in_another_file_is_noticed(tmp_path: Path):
    """The test above is only as good as its search."""
    files = {
        "csrc/ops/a/frob.h": "void frob_forward();",
        "csrc/b.h": "// frob\n/* frob_forward */ int frobnicate;",
        "tests/ops/norms.py": '"""frob"""\n# frob\nx = frobs = 1\n',
        "python/byhand/nn/layers.py": "import frob\n",
    }
    for short, text in files.items():
        (tmp_path / short).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / short).write_text(text, encoding="utf-8")
    assert files_that_name(tmp_path, "frob") == {"csrc/ops/a/frob.h"}
    for short, text in (("tests/ops/norms.py", 'NAMES = ["frob"]'), ("csrc/b.h", "frob_x();")):
        (tmp_path / short).write_text(text, encoding="utf-8")
        assert short in files_that_name(tmp_path, "frob")


@pytest.fixture
def copy_with_example(tmp_path: Path) -> Path:
    """A copy of the sources with the files of tests/example_op and its registry line."""
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd", "results", "example_op")
    for folder in ("csrc", "cuda", "tests", "bench"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    package = tmp_path / "python" / "byhand"
    shutil.copytree(PACKAGE, package, ignore=ignored)
    modules = (f"_{name}" for name in backend.built_modules() if name != "cuda_on_cpu")
    for name in ("_build", "_host", "_text", *modules):
        compiled = Path(importlib.util.find_spec(f"byhand.{name}").origin)
        if not (package / compiled.name).exists():
            (package / compiled.name).symlink_to(compiled)
    for path in EXAMPLE.rglob("*"):
        if path.is_file() and path.name != "README.md" and "__pycache__" not in path.parts:
            to = tmp_path / path.relative_to(EXAMPLE)
            assert not to.exists()
            shutil.copy(path, to)
    registry = tmp_path / REGISTRY
    text = registry.read_text(encoding="utf-8")
    at = text.index("    OP(softmax,")
    registry.write_text(text[:at] + LINE + text[at:], encoding="utf-8")
    return tmp_path


@pytest.mark.deep
def test_a_new_op_needs_no_other_edit(copy_with_example: Path):
    """The registry of ops, the reference, the cases and the bench find it by its files. Its kernels
    are not compiled here.
    """
    check_price(copy_with_example, "scale_shift")
    assert LINE.strip() in (EXAMPLE / "README.md").read_text(encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(copy_with_example / "python")}

    def run(*command: str) -> str:
        out = subprocess.run(
            [sys.executable, *command],
            cwd=copy_with_example,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert out.returncode == 0, out.stdout + out.stderr
        return out.stdout

    code = (
        "import numpy as np\n"
        "from byhand import backend, ops\n"
        "from bench.collect import modules\n"
        "from tests.cases import op_of\n"
        "from tests.cuda import instructions\n"
        "from tests.cuda.samples import WIDE\n"
        "assert 'scale_shift' in ops.__all__\n"
        "y, saved = ops.scale_shift.forward(np.ones((2, 3)), 2.0, 1.0)\n"
        "assert (y == 3).all() and (ops.scale_shift.backward(y, saved) == 6).all()\n"
        "assert 'scale_shift_backward' in backend.reference.available\n"
        "op = op_of('scale_shift_forward')\n"
        "assert sum(other is op for other, _ in WIDE) == 15\n"
        "assert set(op.cuda.instructions) <= set(instructions.RULES)\n"
        "assert 'scale_shift' in modules()\n"
    )
    run("-c", code)
    tests = ("tests/ops/test_scale_shift.py", "tests/test_oracle.py", "tests/ops/test_registry.py")
    # Without compiled kernels there is nothing to hold against the reference.
    chosen = "scale_shift and not native and not cpu_ and not pytorch"
    options = ("-q", "-n", "0", "-p", "no:cacheprovider", "-k", chosen)
    passed = re.search(r"(\d+) passed", run("-m", "pytest", *options, *tests))
    assert passed is not None
    assert int(passed[1]) >= 20
