"""Atomic replacement of files: after a crash at any moment the old or the new file is there."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

# A few megabytes per write call: Python handles signals between two calls.
_CHUNK = 1 << 22

# The errors of fsync where a file system or a system cannot sync a file or a folder.
_CANNOT_SYNC = {
    getattr(errno, name)
    for name in ("EINVAL", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EBADF")
    if hasattr(errno, name)
}


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path`, replacing the former content in one step.

    The data goes to a temporary file beside `path`, which is synced to the disk and then renamed.
    If the process is killed, the disk is full or the power fails, the former file is unchanged (a
    rename within one folder is atomic, POSIX rename(2)). OSError on any failure; the temporary
    file is then removed.
    """
    temporary = _temporary(path)
    # Without O_BINARY Windows would change line ends.
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(temporary, flags, 0o666)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(handle, rest[:_CHUNK]) :]
            sync(handle)
        finally:
            os.close(handle)
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            error.filename = str(path)  # errors of write() and fsync() name no file
        raise
    _sync_folder(path.parent)


def sync(handle: int) -> None:
    """Flush an open file or folder to the disk, where its file system can do that. OSError if the
    disk fails.
    """
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


def remove_leftovers(*paths: Path) -> None:
    """Delete the temporary files that killed processes left beside these paths."""
    for path in paths:
        _temporary(path).unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def _sync_folder(folder: Path) -> None:
    # Without this a power failure may undo the rename, although the data is on the disk.
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders
        return
    try:
        sync(handle)
    finally:
        os.close(handle)
