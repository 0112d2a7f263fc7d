"""Reads the machine code of CUDA kernels: registers, memory, launch bounds, instructions.

It needs no GPU, but NVIDIA's cuobjdump and nvdisasm (with the toolkit, or from PyPI as
nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm) and c++filt of the GNU binutils.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


class MissingTool(RuntimeError):
    """A program that reads machine code is missing; the message says how to install it."""


@dataclass(frozen=True)
class Kernel:
    """One kernel for one architecture; bytes are per block (shared) or per thread (the others)."""

    name: str  # as in the source: softmax_backward_rows<bf16, Plan<8, 4, WarpTeam, false>, true>
    arch: str
    registers: int
    shared: int = 0
    stack: int = 0
    local: int = 0
    threads: int = 1024  # in a block, at most
    instructions: Counter[str] = field(default_factory=Counter)

    @property
    def stem(self) -> str:
        return self.name.partition("<")[0]

    @property
    def storage(self) -> str:
        """The storage type of the arrays; "" if the kernel is not a template of it."""
        found = re.match(r"\w+<(?:\d+, )?(float|bf16)\b", self.name)
        return found[1] if found else ""

    @property
    def pack(self) -> int | None:
        """Elements in one access, by the template arguments; None if they do not tell."""
        found = re.search(r"\bPlan<(\d+)", self.name)
        found = found or re.match(r"\w+<(?:float, |bf16, )?(\d+)\b", self.name)
        return int(found[1]) if found and int(found[1]) <= 16 else None

    @property
    def packs(self) -> int:
        """Packs in the tile of a thread."""
        found = re.search(r"\bPlan<\d+, (\d+)", self.name)
        return int(found[1]) if found else 1

    def count(self, opcode: str) -> int:
        """How many instructions match the regular expression."""
        matches = re.compile(opcode).fullmatch
        return sum(n for name, n in self.instructions.items() if matches(name))


def tool(name: str) -> str:
    """The path of cuobjdump, nvdisasm or c++filt. Raises MissingTool."""
    wheel = Path(sysconfig.get_paths()["purelib"]) / "nvidia" / "cu13" / "bin" / name
    for candidate in (wheel, Path("/usr/local/cuda/bin") / name):
        if candidate.exists():
            return str(candidate)
    if found := shutil.which(name):
        return found
    source = "the GNU binutils" if name == "c++filt" else f"pip install nvidia-cuda-{name}"
    raise MissingTool(f"{name} was not found ({source})")


def cuobjdump(path: Path, *options: str) -> Iterator[str]:
    """The lines that cuobjdump prints of a module or a fatbin."""
    command = [tool("cuobjdump"), *options, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield from process.stdout
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed with status {process.returncode}")


def readable(demangled: str) -> str:
    """A name without return type, namespaces and parameters."""
    name = re.sub(r"byhand::|\(anonymous namespace\)::", "", demangled).removeprefix("void ")
    name = re.sub(r"\((?:\w+(?:::)?)+\)(-?\d+)", r"\1", name)  # an enumerator: (Form)1
    name = name.replace("__nv_bfloat16", "bf16").replace("> >", ">>").replace("> >", ">>")
    depth = 0
    for at, character in enumerate(name):
        depth += (character == "<") - (character == ">")
        if character == "(" and depth == 0:
            return name[:at]
    return name


def demangle(names: list[str]) -> dict[str, str]:
    lines = "\n".join(names)
    out = subprocess.run(
        [tool("c++filt")], input=lines, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return {name: readable(line) for name, line in zip(names, out, strict=True)}


_KEY = tuple[str, str]  # (architecture, mangled name)


def _resources(path: Path) -> dict[_KEY, dict[str, int]]:
    found: dict[_KEY, dict[str, int]] = {}
    arch = name = ""
    for line in cuobjdump(path, "-res-usage"):
        if match := re.match(r"arch = (\w+)", line):
            arch = match[1]
        elif match := re.match(r"\s*Function (\w+):", line):
            name = match[1]
        elif match := re.match(r"\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            registers, stack, shared, local = map(int, match.groups())
            found[arch, name] = {
                "registers": registers,
                "stack": stack,
                "shared": shared,
                "local": local,
            }
    return found


def _bounds(path: Path) -> dict[_KEY, int]:
    """The threads that __launch_bounds__ allows."""
    found: dict[_KEY, int] = {}
    arch = name = ""
    waiting = False
    for line in cuobjdump(path, "-elf"):
        if line.startswith("arch = "):
            arch = line.removeprefix("arch = ").strip()
        elif line.startswith(".nv.info."):
            name = line.removeprefix(".nv.info.").strip()
        elif "EIATTR_MAX_THREADS" in line:
            waiting = True
        elif waiting and (match := re.match(r"\s*Value:\s+(\w+) (\w+) (\w+)", line)):
            x, y, z = (int(value, 16) for value in match.groups())
            found[arch, name] = x * y * z
            waiting = False
    return found


# "  /*0080*/   @!P0 LDG.E.128 R2, [R2.64] ;   /* 0x... */" -> LDG.E.128
_INSTRUCTION = re.compile(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?\s*([A-Z][A-Z0-9_.]*)")


def _instructions(path: Path) -> dict[_KEY, Counter[str]]:
    found: dict[_KEY, Counter[str]] = {}
    arch, current = "", Counter[str]()
    for line in cuobjdump(path, "-sass"):
        if match := _INSTRUCTION.match(line):
            current[match[1]] += 1
        elif line.startswith("arch = "):
            arch = line.removeprefix("arch = ").strip()
        elif (at := line.find("Function : ")) >= 0:
            current = found.setdefault((arch, line[at + 11 :].strip()), Counter())
    return found


def compiler(path: Path) -> str:
    """The release of ptxas that made the code, such as "13.0"."""
    for line in cuobjdump(path, "-elf"):
        if match := re.search(r"Tool Version: .*release ([\d.]+)", line):
            return match[1]
    return "unknown"


def kernels(path: Path, instructions: bool = True) -> list[Kernel]:
    """Every kernel of a module or a fatbin, once for each architecture. Raises MissingTool.

    Disassembling takes seconds; without it no kernel has instructions.
    """
    tool("nvdisasm")  # cuobjdump calls it
    resources, bounds = _resources(path), _bounds(path)
    names = demangle(sorted({name for _, name in resources}))
    code = _instructions(path) if instructions else {}
    return [
        Kernel(
            names[name],
            arch,
            **used,
            threads=bounds.get((arch, name), 1024),
            instructions=code.get((arch, name), Counter()),
        )
        for (arch, name), used in resources.items()
    ]
