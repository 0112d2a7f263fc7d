"""What the compiler made of the kernels: read from the built module, no GPU needed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest


@pytest.fixture
def cuobjdump(cuda_module):
    """A function that runs cuobjdump on the module; it comes with the toolkit, or from PyPI as
    nvidia-cuda-cuobjdump.
    """
    wheel = Path(sysconfig.get_paths()["purelib"]) / "nvidia" / "cu13" / "bin" / "cuobjdump"
    tool = shutil.which("cuobjdump") or (str(wheel) if wheel.exists() else None)
    if tool is None:
        pytest.skip("cuobjdump was not found (pip install nvidia-cuda-cuobjdump)")

    def run(*options: str) -> str:
        command = [tool, *options, cuda_module.__file__]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    return run


def sources() -> set[str]:
    return {p.stem for p in (Path(__file__).parents[2] / "cuda").glob("*.cu")}


def test_machine_code_for_ampere_and_hopper_and_ptx_for_the_rest(cuobjdump):
    compiled = set(re.findall(r"(\w+)\.(sm_\w+)\.cubin", cuobjdump("--list-elf")))
    assert compiled == {(source, arch) for source in sources() for arch in ("sm_80", "sm_90a")}
    portable = set(re.findall(r"(\w+)\.(sm_\w+)\.ptx", cuobjdump("--list-ptx")))
    assert portable == {(source, "sm_80") for source in sources()}


def test_no_kernel_touches_local_memory(cuobjdump):
    """A spilled register or an array indexed at run time costs more than the arithmetic."""
    usage = re.findall(
        r"Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)",
        cuobjdump("-res-usage"),
    )
    assert len(usage) > 100
    for name, registers, stack, shared, local in usage:
        assert (int(stack), int(local)) == (0, 0), name
        assert int(registers) <= 255, name
        assert int(shared) <= 48 * 1024, name
