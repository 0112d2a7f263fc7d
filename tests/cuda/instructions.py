"""Which instructions the CUDA kernels must have and must not have."""

from __future__ import annotations

import re

from tests.cases import all_ops
from tests.cuda.machine_code import Kernel
from tests.cuda.rules import HOPPER, LOAD, SHEET, STORE, TENSOR_CORES, Rule

# In no kernel, and why.
FORBIDDEN = {
    r"(LDL|STL)(\.\w+)*": "local memory costs more than the arithmetic",
    r"(RED|REDG|ATOM|ATOMG|ATOMS)(\.\w+)*": "atomics add in any order: results must repeat",
}

# The kernels of cuda/core, which several ops use. Those of an op are in its case.
CORE = (
    Rule("gemm_hopper", needs=(*HOPPER, *SHEET, LOAD, STORE), arch="sm_90a"),
    Rule("gemm_hopper", loads=0, stores=0),  # empty
    Rule("gemm_tiles<(float|Rounded), true", needs=(TENSOR_CORES[0], TENSOR_CORES[2], LOAD, STORE)),
    Rule("gemm_add_pieces<.*, [48]>$", needs=(LOAD, STORE)),
    Rule("gemm_few", needs=(TENSOR_CORES[0], LOAD)),
    Rule("gemm_tiles", needs=(*TENSOR_CORES, LOAD, STORE)),
    # saved up c, activated dup c; saved c, activated
    Rule("activation_pass<.*true>$", loads=3, stores=3),
    Rule("activation_pass", loads=2),
)

# The first that matches counts. A kernel without a rule loads and stores 16 bytes at least once.
RULES = tuple(dict.fromkeys((*CORE, *(rule for op in all_ops() for rule in op.cuda.instructions))))


def rule(kernel: Kernel) -> Rule:
    fits = (r for r in RULES if r.arch in ("", kernel.arch) and re.match(r.kernel, kernel.name))
    return next(fits, Rule(kernel.stem))


def complaints(kernel: Kernel) -> list[str]:
    """A sentence for each instruction that is missing or must not be there."""
    where = f"{kernel.name} on {kernel.arch}"
    found = []
    for opcode, why in FORBIDDEN.items():
        names = sorted(n for n in kernel.instructions if re.fullmatch(opcode, n))
        if names:
            found.append(f"{where} has {', '.join(names)}: {why}")
    needed = rule(kernel)
    for opcode in needed.needs:
        if not kernel.count(opcode):
            found.append(f"{where} has no instruction that matches {opcode}")
    if kernel.pack == 1 and (wide := kernel.count(LOAD) + kernel.count(STORE)):
        found.append(f"{where} has {wide} accesses of 16 bytes to unaligned rows")
    if kernel.pack in (None, 1):
        return found
    for what, opcode, each in (("loads", LOAD, needed.loads), ("stores", STORE, needed.stores)):
        wide, wanted = kernel.count(opcode), each * kernel.packs
        if wide < wanted:
            found.append(f"{where} has {wide} {what} of 16 bytes instead of {wanted} at least")
    return found
