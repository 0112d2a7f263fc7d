"""Writing a file so that, whatever happens, either the old one or the new one is there, whole."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

# One write call of a few megabytes at a time: a signal is noticed between two of them.
_CHUNK = 1 << 22


def write_atomically(path: Path, data: bytes) -> None:
    """Put `data` at `path`, replacing what was there in one step.

    The data goes to a temporary file beside `path`, to the disk, and only then under its name: a
    process killed, a full disk or a power cut leaves the former file untouched (a rename within one
    folder is atomic, POSIX rename(2)). OSError if any of it fails; the temporary file is removed.
    """
    temporary = _temporary(path)
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(handle, rest[:_CHUNK]) :]
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            error.filename = str(path)  # write() and fsync() know only a number
        raise
    _sync_folder(path.parent)


def remove_leftovers(*paths: Path) -> None:
    """Delete the temporary files that killed processes left beside these paths."""
    for path in paths:
        _temporary(path).unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def _sync_folder(folder: Path) -> None:
    # Without this the new name itself may be lost in a power cut, though the data is on the disk.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
