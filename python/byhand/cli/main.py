"""The command `byhand`: runs one command, and reports every mistake of the user in one sentence."""

from __future__ import annotations

# What takes long to import is imported inside `main`, which handles Ctrl-C meanwhile.
import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from byhand.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    0 done, 1 the reader of the output closed it, 2 a mistake of the user (one sentence on stderr),
    128 + its number for a signal: 130 stopped by Ctrl-C, 143 by SIGTERM.
    """
    try:
        _open_missing_streams()
        status = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except UserError as error:
        status = _fail(str(error))
    except BrokenPipeError:
        status = 1  # the reader (head, less) has closed the pipe
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        status = _fail(f"{where}{error.strerror or error}")
    except MemoryError as error:
        # Of C++ the message would be "std::bad_alloc".
        known = "" if "bad_alloc" in str(error) else str(error)
        advice = "a smaller model, --batch or --context needs less"
        status = _fail(f"there is not enough memory for this: {known or advice}")
    except RuntimeError as error:
        if not _is_refused_thread(error):
            raise
        status = _fail(REFUSED_THREAD)
    except KeyboardInterrupt:
        with suppress(OSError):
            print("\nbyhand: interrupted", file=sys.stderr)
        status = 130
    return _close_output(status)


REFUSED_THREAD = (
    "the system refuses to start another thread (a limit on processes or memory, see ulimit -a): "
    "--threads 1 needs none"
)


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["--version"]:
        from byhand._build import VERSION

        print(f"byhand {VERSION}")
        return 0
    from byhand.cli.parser import parse

    try:
        args = parse(arguments)
    except SystemExit as stop:  # after --help or a mistake
        return int(stop.code or 0)
    status: int = args.run(args)
    return status


def _is_refused_thread(error: RuntimeError) -> bool:
    """Whether it is the error of a thread that could not be started, Python's or C++'s."""
    refusals = ("can't start new thread", os.strerror(errno.EAGAIN))
    return any(words in str(error) for words in refusals)


def _open_missing_streams() -> None:
    """Python has no object for a stream that was closed when it started (`byhand info >&-`)."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        # A terminal that cannot show a character shows a question mark.
        reconfigure(errors="replace")


def _close_output(status: int) -> int:
    """Writes what stdout still holds. If that fails, the status is at least 1, and the rest is
    thrown away: Python would try again at exit.
    """
    try:
        sys.stdout.flush()
        return status
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return max(status, 1)


def _fail(sentence: str) -> int:
    with suppress(OSError):
        print(f"byhand: {sentence}", file=sys.stderr)
    return 2
