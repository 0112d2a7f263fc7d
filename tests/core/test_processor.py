"""Back ends and processors: a module refuses a processor that lacks its instructions, in words, and
runs none of them before that.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from byhand import _build, backend
from tests.cuda.compile import host_compiler

ROOT = Path(__file__).parents[2]
X86 = platform.machine() in ("x86_64", "AMD64")
# Back ends compiled with flags, the features that each needs, and those features in words.
WIDE = {
    "cpu_avx2": ("avx2 fma", "AVX2 and FMA"),
    "cpu_avx512": ("avx2 fma avx512f avx512bw avx512dq avx512vl", "AVX-512 (F, BW, DQ, VL)"),
    "cpu_avx512bf16": (
        "avx2 fma avx512f avx512bw avx512dq avx512vl avx512bf16 avx512vnni",
        "AVX-512 (F, BW, DQ, VL, BF16, VNNI)",
    ),
}
# One kernel on the back end in use, its name, and then what becomes of importing each module.
PROGRAM = """
import importlib, numpy, byhand
from byhand import backend
from byhand.ops import softmax
y, _ = softmax.forward(numpy.zeros((3, 19), numpy.float32))
assert abs(y - 1 / 19).max() < 1e-6, y
print(backend.cpu().name)
for name in backend.built_modules():
    if name.startswith("cpu"):
        try:
            importlib.import_module("byhand._" + name)
        except ImportError as error:
            print(error)
"""


def run(*command: str, **environment: str) -> list[str]:
    """The lines that Python prints."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("BYHAND_")}
    paths = [p for p in sys.path if p]
    done = subprocess.run(
        [*command, sys.executable, "-c", PROGRAM],
        env={**inherited, "PYTHONPATH": os.pathsep.join(paths), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"status {done.returncode}: {done.stderr}"
    return done.stdout.splitlines()


def expected(*usable: str) -> list[str]:
    """What PROGRAM prints on a processor that runs these back ends and no others."""
    built = [name for name in backend.built_modules() if name.startswith("cpu")]
    best = WIDE[usable[-1]][1] if usable[-1] in WIDE else "SSE2"
    refused = [name for name in built if name not in usable]
    return [
        [name for name in usable if name in built][-1],
        *(f"_{n} needs a processor with {WIDE[n][1]}, and this one has {best}" for n in refused),
    ]


def library(name: str) -> Path:
    spec = importlib.util.find_spec(f"byhand._{name}")
    if spec is None or spec.origin is None:
        pytest.skip(f"{name} was not built")
    return Path(spec.origin)


@pytest.mark.skipif(not X86, reason="all processors of this architecture run all back ends")
@pytest.mark.parametrize("best", ["cpu_base", *WIDE])
def test_a_module_refuses_a_processor_without_its_instructions(best: str) -> None:
    """On a processor with fewer features, as BYHAND_CPU_FEATURES describes it."""
    library(best)
    if best not in backend.cpu_modules():
        pytest.skip(f"this processor does not run {best}")
    features = WIDE[best][0] if best in WIDE else "sse4.2"
    usable = [n for n, (needs, _) in WIDE.items() if set(needs.split()) <= set(features.split())]
    assert run(BYHAND_CPU_FEATURES=features) == expected("cpu_base", *usable)


def test_features_cannot_be_added() -> None:
    x86 = "sse4.2,avx,avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,amx_bf16"
    every = x86 if X86 else "neon"
    assert run(BYHAND_CPU_FEATURES=every) == run()


def test_an_unknown_feature_is_an_error() -> None:
    with pytest.raises(AssertionError, match="BYHAND_CPU_FEATURES lists avx3, which is not one of"):
        run(BYHAND_CPU_FEATURES="avx2 avx3")


@pytest.mark.skipif(not X86, reason="emulates x86-64 processors")
@pytest.mark.skipif(bool(_build.SANITIZE), reason="the sanitizers do not run in the emulator")
@pytest.mark.parametrize(
    ("processor", "usable"),
    [("Nehalem", ("cpu_base",)), ("Haswell", ("cpu_base", "cpu_avx2"))],
    ids=["base", "avx2"],
)
def test_smaller_processors_run_it(processor: str, usable: tuple[str, ...]) -> None:
    """An emulated processor ends the process at the first instruction that it lacks."""
    emulator = shutil.which("qemu-x86_64")
    if emulator is None:
        pytest.skip("qemu-x86_64 was not found")
    assert run(emulator, "-cpu", processor) == expected(*usable)


def initialisers(path: Path) -> int:
    """How many functions the system calls when it loads this library."""
    readelf = shutil.which("readelf")
    if readelf is None or not sys.platform.startswith("linux"):
        pytest.skip("readelf was not found, or this is not Linux")

    def read(*options: str) -> str:
        return subprocess.run(
            [readelf, *options, str(path)], capture_output=True, text=True, check=True
        ).stdout

    sections = read("--section-headers", "--wide")
    assert ".text" in sections
    count = 0
    for size in re.findall(
        r"\.(?:init_array|preinit_array|ctors)\S* +\S+ +\S+ \S+ (\S+)", sections
    ):
        count += int(size, 16) // 8
    return count + len(re.findall(r"R_\w+_IRELATIV", read("--relocs", "--wide")))


@pytest.fixture
def linked(tmp_path: Path):
    """Links C++ text to a shared library."""

    def link(text: str) -> Path:
        source, target = tmp_path / "library.cpp", tmp_path / "library.so"
        source.write_text(text, encoding="utf-8")
        command = [*host_compiler(), "-shared", "-fPIC", f"-I{ROOT / 'csrc'}"]
        subprocess.run([*command, "-o", str(target), str(source)], check=True)
        return target

    return link


@pytest.mark.skipif(bool(_build.SANITIZE), reason="the sanitizers add initialisers of their own")
@pytest.mark.parametrize("name", WIDE)
def test_nothing_runs_before_the_check_of_the_processor(name: str, linked) -> None:
    """The module's only initialisers are those of the compiler's libraries, which are compiled for
    every processor; a library that holds nothing but the check has the same ones.
    """
    check = (ROOT / "csrc" / "host" / "processor.cpp").read_text(encoding="utf-8")
    assert initialisers(library(name)) == initialisers(linked(check))


@pytest.mark.parametrize(
    "planted",
    [
        "int f(); int global = f(); int f() { return &global != nullptr; }",
        "__attribute__((constructor)) void f() {}",
        'extern "C" void f() {} extern "C" void (*pick())() { return f; }\n'
        '__attribute__((ifunc("pick"), visibility("hidden"))) void g(); void h() { g(); }',
    ],
    ids=["object", "constructor", "ifunc"],
)
def test_an_initialiser_is_seen(planted: str, linked) -> None:
    assert initialisers(linked(planted)) > initialisers(linked(""))
