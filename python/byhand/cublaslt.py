"""Where Python finds NVIDIA's cuBLASLt when the dynamic linker does not."""

from __future__ import annotations

import importlib.util
from pathlib import Path

# In the wheels nvidia-cublas and nvidia-cublas-cu12.
_IN_WHEELS = ("cu13/lib/libcublasLt.so.13", "cublas/lib/libcublasLt.so.12")


def found() -> list[str]:
    """Files of cuBLASLt: in NVIDIA's wheels, and where ``cuda.pathfinder``, if installed, sees one
    (it knows conda and ``CUDA_HOME``).
    """
    nvidia = importlib.util.find_spec("nvidia")
    folders = (nvidia.submodule_search_locations if nvidia else None) or ()
    files = [Path(folder) / name for name in _IN_WHEELS for folder in folders]
    return [*(str(file) for file in files if file.is_file()), *_by_pathfinder()]


def _by_pathfinder() -> list[str]:
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        path = load_nvidia_dynamic_lib("cublasLt").abs_path
    except (ImportError, RuntimeError):  # not installed, or it finds none
        return []
    return [path] if path else []
