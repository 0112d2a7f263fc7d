"""Commands that messages show, to be copied into a shell, and the message that shows one where a
file cannot be saved.
"""

from __future__ import annotations

import errno
import os
import shlex
import subprocess
from pathlib import Path

from byhand.errors import UserError

_FULL = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)}


def command_line(*words: str | Path) -> str:
    """The command `byhand` with these words, quoted for the shell of this system. A path that
    begins with "-" is written so that it is not taken for a flag.
    """
    plain = ["byhand", *(_as_argument(word) if isinstance(word, Path) else word for word in words)]
    return subprocess.list2cmdline(plain) if os.name == "nt" else shlex.join(plain)


def resume_command(folder: Path, corpus: str = "") -> str:
    """The command that continues the run in `folder`. `corpus`: the text's new place, if it is not
    the former one.
    """
    return command_line("train", *([corpus] if corpus else []), "--resume", "--out", folder)


def not_saved(path: Path, error: OSError, run: Path) -> UserError:
    """The error for the file `path` of the run in the folder `run` that cannot be written: it says
    what is saved, and how to continue.
    """
    first = "free space" if error.errno in _FULL else "mend that"
    if any(run.glob("*.safetensors")):
        saved, again = "the checkpoints saved before are unchanged", resume_command(run)
    else:
        saved, again = "there is no checkpoint yet", "start again"
    return UserError(
        f"cannot save {path} ({error.strerror or error}); {saved}: {first}, then {again}"
    )


def _as_argument(path: Path) -> str:
    written = str(path)
    return os.path.join(os.curdir, written) if written.startswith("-") else written
