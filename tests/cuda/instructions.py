"""Which instructions the kernels must have and must not have."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.cuda.machine_code import Kernel

LOAD = r"LDG\.E(\.\w+)*\.128(\.\w+)*"
STORE = r"STG\.E(\.\w+)*\.128(\.\w+)*"
EXP2 = r"MUFU\.EX2"
# Warpgroup products, bulk tensor copies, and registers that warpgroups hand over.
HOPPER = (r"HGMMA(\.\w+)*", r"UTMALDG(\.\w+)*", r"USETMAXREG(\.\w+)*")
TENSOR_CORES = (r"HMMA(\.\w+)*", r"LDSM(\.\w+)*", r"LDGSTS\.E(\.\w+)*\.128(\.\w+)*")

# In no kernel, and why.
FORBIDDEN = {
    r"(LDL|STL)(\.\w+)*": "local memory costs more than the arithmetic",
    r"(RED|REDG|ATOM|ATOMG|ATOMS)(\.\w+)*": "atomics add in any order: results must repeat",
}


@dataclass(frozen=True)
class Rule:
    """What kernels of this name need. loads, stores: accesses of 16 bytes for each pack of a
    thread's tile, where a pack has several elements; needs: instructions that must occur.
    """

    kernel: str  # a regular expression for the beginning of its name
    loads: int = 1
    stores: int = 1
    needs: tuple[str, ...] = ()
    arch: str = ""  # the only one that it speaks of


# The first that matches counts. A kernel without a rule loads and stores 16 bytes at least once.
RULES = (
    Rule("softmax_forward_rows", needs=(EXP2,)),
    Rule("softmax_backward_rows<.*true>$", loads=2, needs=(EXP2,)),  # of log_softmax
    Rule("softmax_backward_rows", loads=2),
    Rule("norm_forward_rows<.*true>$", loads=4),  # x w b add, of layernorm
    Rule("norm_forward_rows", loads=3),
    Rule("norm_backward_rows", loads=4),  # dy x w ds
    Rule("norm_backward_long", loads=4),
    Rule("norm_add_partials", loads=0, stores=0),
    Rule("cross_entropy_forward_rows", stores=0, needs=(EXP2,)),
    Rule("cross_entropy_backward_rows", needs=(EXP2,)),
    Rule("cross_entropy_gradient", needs=(EXP2,)),
    Rule("embedding_gather", loads=2),  # w add
    Rule("embedding_add_pieces", loads=2, stores=1),  # dy dw
    Rule("dropout_groups", loads=2),  # x add
    Rule("adamw_update", loads=4, stores=3),  # w m v g, w m v
    Rule("grad_norm_squares", loads=4, stores=0),
    Rule("clip_scale"),
    Rule("attention_forward_tiles", needs=(*TENSOR_CORES, EXP2)),
    Rule("attention_backward_tiles", needs=(*TENSOR_CORES, EXP2)),
    Rule("attention_row_sums", loads=2, stores=0),  # dout o
    Rule("gemm_hopper", needs=(*HOPPER, LOAD, STORE), arch="sm_90a"),
    Rule("gemm_hopper", loads=0, stores=0),  # empty
    Rule("gemm_tiles<(float|Rounded), true", needs=(TENSOR_CORES[0], TENSOR_CORES[2], LOAD, STORE)),
    Rule("gemm_add_pieces<.*, [48]>$", needs=(LOAD, STORE)),
    Rule("gemm_few", needs=(TENSOR_CORES[0], LOAD)),
    Rule("gemm_tiles", needs=(*TENSOR_CORES, LOAD, STORE)),
    Rule("gelu_pass<.*true>$", loads=2, stores=2),  # saved c, activated c
    Rule("gelu_pass"),
    Rule("column_sums<.*Gradients", loads=3, stores=0),  # dy x b
    Rule("column_sums", stores=0),
    Rule("bias_gelu_forward_rows", loads=2),  # x b
    Rule("bias_gelu_backward_rows", loads=3),  # dy x b
    Rule("attention_few_pieces", loads=2, stores=0, needs=(EXP2,)),  # k v
)


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
