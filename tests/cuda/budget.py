"""The resources that each CUDA kernel may use: compares resources.txt with the compiler's report.

    python -m tests.cuda.budget             shows what changed
    python -m tests.cuda.budget --update    rewrites the file, for review

One line stands for all instances of a kernel that differ in tile and options only, and gives the
most that any of them uses. Blocks per multiprocessor follow from it, for full blocks and without
dynamic shared memory, so that a change in occupancy is seen in review.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.cuda import machine_code
from tests.cuda.machine_code import Kernel

FILE = Path(__file__).with_name("resources.txt")
UPDATE = "python -m tests.cuda.budget --update"
RESOURCES = ("registers", "shared", "stack")


@dataclass(frozen=True)
class Processor:
    """A multiprocessor's limits, from table "Technical Specifications per Compute Capability" of
    the CUDA C++ Programming Guide; bytes of shared memory.
    """

    shared: int
    reserved: int  # shared memory of a block that the compiler does not report
    blocks: int = 32
    warps: int = 64
    registers: int = 65536


# The reserved shared memory of a block is part of the compiler's report for Hopper only.
PROCESSORS = {"sm_80": Processor(164 << 10, 1024), "sm_90a": Processor(228 << 10, 0)}


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def resident_blocks(arch: str, threads: int, registers: int, shared: int) -> int:
    """How many blocks a multiprocessor holds at once.

    Registers are given to warps in units of 256 and warps are spread over four schedulers; shared
    memory is given to blocks in units of 128 bytes.
    """
    limits = PROCESSORS[arch]
    warps = _up(threads, 32) // 32
    by_registers = limits.registers // _up(32 * max(registers, 1), 256) // 4 * 4
    by_shared = limits.shared // _up(max(shared + limits.reserved, 1), 128)
    return min(limits.blocks, limits.warps // warps, by_registers // warps, by_shared)


@dataclass(frozen=True)
class Line:
    """The most that the instances of a kernel use on one architecture."""

    registers: int
    shared: int
    stack: int
    instances: int

    def blocks(self, arch: str, threads: int) -> int:
        return resident_blocks(arch, threads, self.registers, self.shared)


Key = tuple[str, int, str]  # (kernel, threads, architecture)
Budget = dict[Key, Line]


def group(kernel: Kernel) -> str:
    """The name that instances share which differ in tile and options: softmax_rows<bf16x8>."""
    if "Plan<" in kernel.name:
        return f"{kernel.stem}<{kernel.storage}x{kernel.pack}>"
    return kernel.name.replace(" ", "")


def measured(kernels: list[Kernel]) -> Budget:
    found: Budget = {}
    for k in kernels:
        key = (group(k), k.threads, k.arch)
        before = found.get(key, Line(0, 0, 0, 0))
        found[key] = Line(
            max(before.registers, k.registers),
            max(before.shared, k.shared),
            max(before.stack, k.stack),
            before.instances + 1,
        )
    return found


def changes(allowed: Budget, found: Budget) -> list[str]:
    """A sentence for each kernel that exceeds its budget, has no budget, or was removed."""
    sentences = []
    for key in sorted(allowed.keys() | found.keys()):
        name, threads, arch = key
        where = f"{name} with {threads} threads on {arch}"
        if key not in allowed:
            sentences.append(f"{where} has no budget")
            continue
        if key not in found:
            sentences.append(f"{where} has a budget but was not built")
            continue
        old, new = allowed[key], found[key]
        grown = [
            f"{what} from {getattr(old, what)} to {getattr(new, what)}"
            for what in RESOURCES
            if getattr(new, what) > getattr(old, what)
        ]
        if grown:
            blocks = old.blocks(arch, threads), new.blocks(arch, threads)
            after = f", blocks per multiprocessor from {blocks[0]} to {blocks[1]}"
            sentences.append(
                f"{where} grew: {', '.join(grown)}{after if blocks[0] != blocks[1] else ''}"
            )
    return [f"{sentence}; if that is meant: {UPDATE}" for sentence in sentences]


# --- The file ----------------------------------------------------------------------------------

_COLUMNS = ("regs", "shared", "stack", "blocks", "warps")
_HEAD = """\
# The resources that each CUDA kernel may use; test_binary.py compares it with the compiled module.
# Written by `{update}` for ptxas {compiler}. Do not edit.
#
# Registers per thread, bytes of shared memory per block, bytes of stack per thread; the number of
# full blocks that a multiprocessor holds at the same time, and the share of its warps they fill.
# A line stands for `count` kernels that differ in tile and options, and gives their maximum.
"""


def text(budget: Budget, compiler: str) -> str:
    """The file, one line a kernel, the architectures side by side."""
    archs = sorted({arch for _, _, arch in budget})
    rows = [["kernel", "threads", "count"]]
    for arch in archs:
        rows[0] += [f"{arch}:", *_COLUMNS]
    for name, threads in sorted({(name, threads) for name, threads, _ in budget}):
        lines = {arch: budget.get((name, threads, arch)) for arch in archs}
        count = max(line.instances for line in lines.values() if line)
        row = [name, str(threads), str(count)]
        for arch, line in lines.items():
            if line is None:
                row += ["", *"-" * len(_COLUMNS)]
                continue
            blocks = line.blocks(arch, threads)
            share = blocks * _up(threads, 32) / 32 / PROCESSORS[arch].warps
            row += ["", *(str(getattr(line, r)) for r in RESOURCES), str(blocks), f"{share:.0%}"]
        rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    table = "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
    return _HEAD.format(update=UPDATE, compiler=compiler) + "\n" + table + "\n"


def parse(content: str) -> tuple[Budget, str]:
    """Parses the output of `text` -> (budget, compiler)."""
    compiler = content.partition("for ptxas ")[2].partition(". Do not")[0]
    lines = [line for line in content.splitlines() if line and not line.startswith("#")]
    archs = [word.rstrip(":") for word in lines[0].split() if word.endswith(":")]
    budget: Budget = {}
    for line in lines[1:]:
        name, threads, count, *cells = line.split()
        for i, arch in enumerate(archs):
            part = cells[i * len(_COLUMNS) : (i + 1) * len(_COLUMNS)]
            if part[0] != "-":
                registers, shared, stack = map(int, part[: len(RESOURCES)])
                budget[name, int(threads), arch] = Line(registers, shared, stack, int(count))
    return budget, compiler


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.cuda.budget", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--update", action="store_true", help=f"rewrite {FILE.name}")
    options = parser.parse_args()
    spec = importlib.util.find_spec("byhand._cuda")
    if spec is None or spec.origin is None:
        print("byhand was built without CUDA: there is nothing to measure")
        return 1
    module = Path(spec.origin)
    try:
        found, compiler = measured(machine_code.kernels(module, instructions=False)), ""
        compiler = machine_code.compiler(module)
    except machine_code.MissingTool as error:
        print(error)
        return 1
    allowed, theirs = parse(FILE.read_text(encoding="utf-8")) if FILE.exists() else ({}, compiler)
    if theirs != compiler:
        print(f"{FILE.name} was written for ptxas {theirs}, this build is by {compiler}")
    sentences = changes(allowed, found)
    print("\n".join(sentences) or "every kernel is within its budget")
    if options.update:
        FILE.write_text(text(found, compiler), encoding="utf-8")
        print(f"{FILE} is written")
        return 0
    return 1 if sentences else 0


if __name__ == "__main__":
    sys.exit(main())
