"""Checks of the machine code of the built module, which need no GPU."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cuda import budget, instructions, machine_code


@pytest.fixture
def module(cuda_module, machine) -> Path:
    """The file of the compiled module. Skips if its machine code cannot be read."""
    return Path(cuda_module.__file__)


def sources() -> set[str]:
    return {p.stem for p in (Path(__file__).parents[2] / "cuda").rglob("*.cu")}


def test_machine_code_for_ampere_and_hopper_and_ptx_for_the_rest(module):
    lines = "".join(machine_code.cuobjdump(module, "--list-elf"))
    compiled = set(re.findall(r"(\w+)\.(sm_\w+)\.cubin", lines))
    assert compiled == {(source, arch) for source in sources() for arch in ("sm_80", "sm_90a")}
    lines = "".join(machine_code.cuobjdump(module, "--list-ptx"))
    assert set(re.findall(r"(\w+)\.(sm_\w+)\.ptx", lines)) == {(s, "sm_80") for s in sources()}


def test_both_architectures_have_the_same_kernels(machine):
    ampere, hopper = ({k.name for k in machine if k.arch == a} for a in ("sm_80", "sm_90a"))
    assert ampere == hopper
    assert len(ampere) > 50


def test_no_kernel_touches_local_memory(machine):
    """A spilled register or an array indexed at run time costs more than the arithmetic."""
    for kernel in machine:
        assert (kernel.stack, kernel.local) == (0, 0), kernel.name
        assert kernel.registers <= 255, kernel.name
        assert kernel.shared <= 48 * 1024, kernel.name


def test_every_kernel_has_the_instructions_that_are_meant(machine):
    assert all(kernel.instructions for kernel in machine)
    found = [sentence for kernel in machine for sentence in instructions.complaints(kernel)]
    assert not found, "\n".join(found)


def test_every_rule_speaks_of_a_kernel(machine):
    for rule in instructions.RULES:
        assert any(instructions.rule(kernel) is rule for kernel in machine), rule


def test_every_kernel_is_within_its_budget(machine, module):
    allowed, theirs = budget.parse(budget.FILE.read_text(encoding="utf-8"))
    ours = machine_code.compiler(module)
    if ours != theirs:
        pytest.skip(f"{budget.FILE.name} is for ptxas {theirs}, this build is by {ours}")
    found = budget.changes(allowed, budget.measured(machine))
    assert not found, "\n".join(found)
