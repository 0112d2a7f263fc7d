"""What this installation is and what it runs on."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np

from byhand import _build, _host, backend

__version__ = _build.VERSION


def info() -> dict[str, Any]:
    """Version, back ends built and chosen, instruction sets, threads and the state of CUDA.

    ``cuda`` is "available", or the reason why it is not.
    """
    return {
        "version": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "compiler": _build.COMPILER,
        "sanitizers": _build.SANITIZE,
        "backends_built": backend.built_modules(),
        "cpu_backend": backend.cpu().name,
        "instruction_sets": list(_host.instruction_sets()),
        "bf16": "instructions" if backend.has_bf16() else "emulated, at float32's speed",
        "threads": backend.get_num_threads(),
        "cuda": backend.cuda_reason() or "available",
    }
