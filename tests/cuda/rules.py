"""The instructions that the machine code of a CUDA kernel is expected to have."""

from __future__ import annotations

from dataclasses import dataclass

LOAD = r"LDG\.E(\.\w+)*\.128(\.\w+)*"
STORE = r"STG\.E(\.\w+)*\.128(\.\w+)*"
EXP2 = r"MUFU\.EX2"
# Warpgroup products, bulk tensor copies, and moving registers between warpgroups.
HOPPER = (r"HGMMA(\.\w+)*", r"UTMALDG(\.\w+)*", r"USETMAXREG(\.\w+)*")
# Sums on their way through a sheet of shared memory, several at a time.
SHEET = (r"LDS(\.\w+)*\.128(\.\w+)*", r"STS(\.\w+)*\.64(\.\w+)*")
TENSOR_CORES = (r"HMMA(\.\w+)*", r"LDSM(\.\w+)*", r"LDGSTS\.E(\.\w+)*\.128(\.\w+)*")


@dataclass(frozen=True)
class Rule:
    """What the code of kernels with this name must contain. loads, stores: how many 16-byte
    accesses for each pack of a thread's tile, if a pack has several elements; needs: instructions
    that must occur.
    """

    kernel: str  # a regular expression for the beginning of its name
    loads: int = 1
    stores: int = 1
    needs: tuple[str, ...] = ()
    arch: str = ""  # the only architecture it applies to; "" for all
