"""Commands that messages show, to be copied into a shell."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path


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


def _as_argument(path: Path) -> str:
    written = str(path)
    return os.path.join(os.curdir, written) if written.startswith("-") else written
