"""Counts the instructions that each kernel executes on a CPU, under valgrind's callgrind.

    python -m bench.instructions [--only REGEX] [--out FILE] [--compare FILE]

Every kernel of bench/ops is called once, at the one awkward size that its GPU.counted gives, in the
AVX2 module and on one thread. The result is a JSON object: what was counted, and instructions by
call. The same build gives the same counts every time, however busy the machine is, so a count shows
changes of a percent that a clock does not. It is not a time: cache misses, and how many
instructions are executed at once, do not count. --compare prints what differs from an earlier
result instead of the JSON.

Only instructions of byhand's own module are counted, its binding included: not those of the
interpreter, nor of the C library (memcpy, memset). Before and after every call the program calls
getppid; callgrind writes its counts to a file each time, and starts again from zero.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

MODULE = "cpu_avx2"  # valgrind 3.19 executes nothing wider
MARK = "getppid"
# One thread, and the same hashes and addresses in every run.
SETTINGS = {"BYHAND_CPU": "avx2", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
SETTINGS |= {"OPENBLAS_NUM_THREADS": "1"}


class CannotCount(RuntimeError):
    """Why no instructions can be counted here."""


# --- In the process under valgrind --------------------------------------------------------------


def calls(only: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """(name, call) of every kernel whose name matches, with arguments ready for the kernel."""
    import numpy as np

    from bench import collect
    from bench.gpu_case import F32, Maker, positional
    from byhand import backend

    kernels, m = backend.cpu(), Maker(np, F32, groups=4, pool=10_007)
    for module in collect.modules().values():
        for case in module.GPU.make(m, *module.GPU.counted):
            name = f"{case.name} {'x'.join(map(str, case.shape))}"
            # The CPU back ends take float32 alone.
            if len(case.calls) == 1 and case.dtype == F32 and re.search(only, name):
                ((kernel, arguments),) = case.calls
                yield name, partial(getattr(kernels, kernel), *positional(kernel, arguments))


def child(only: str) -> None:
    """Makes the calls, each between two marks, and prints their names."""
    names = []
    for name, call in calls(only):
        call()  # what happens once, such as the start of the thread pool, is not counted
        os.getppid()
        call()
        os.getppid()
        names.append(name)
    print(json.dumps(names))


# --- Counting -----------------------------------------------------------------------------------


def count(only: str = "") -> dict[str, int]:
    """Instructions of every matching call, by its name. Raises CannotCount."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise CannotCount("valgrind is not installed")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "counts"
        command = [valgrind, "--tool=callgrind", f"--callgrind-out-file={out}"]
        command += [f"--dump-before={MARK}", "--compress-strings=no", "--compress-pos=no"]
        command += [sys.executable, "-m", "bench.instructions", "--child", only]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[1],
            env=os.environ | SETTINGS,
        )
        if done.returncode:
            raise CannotCount(f"valgrind ended with {done.returncode}: {done.stderr[-2000:]}")
        names = json.loads(done.stdout)
        # Numbered from 1: what came before the first mark, then between each two marks.
        dumps = sorted(out.parent.glob("counts.*"), key=lambda path: int(path.suffix[1:]))
        between = [instructions(path.read_text()) for path in dumps[1::2]]
    if len(between) != len(names):
        raise CannotCount(
            f"{len(names)} calls were made, and callgrind wrote {len(between)} counts"
        )
    return dict(zip(names, between, strict=True))


def instructions(profile: str, module: str = f"_{MODULE}.") -> int:
    """The instructions that a callgrind profile counts in the object file whose name contains
    `module`: of each of its functions, without the functions that it calls.
    """
    total, inside, of_a_call = 0, False, False
    for line in profile.splitlines():
        if line.startswith("ob="):
            inside = module in Path(line[3:]).name
        elif line.startswith("calls="):
            of_a_call = True  # the next line is the cost of the function called
        elif re.match(r"[0-9+*-]", line):
            if inside and not of_a_call:
                total += int(line.split()[1])
            of_a_call = False
    return total


def result(counts: dict[str, int]) -> dict[str, Any]:
    """The counts, and what they are counts of."""
    from bench.harness import circumstances

    about = circumstances(measured=False)
    facts = ("date", "commit", "version", "compiler", "platform")
    return {**{f: about[f] for f in facts}, "cpu_backend": MODULE, "instructions": counts}


def differences(old: dict[str, int], new: dict[str, int]) -> str:
    """A table of the calls whose counts differ."""
    lines = []
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before is None or after is None:
            where = "new" if before is None else "gone"
            lines.append(f"{name:50}{before or after:>14,}{where:>14}")
        elif before != after:
            change = f"{100 * (after / before - 1):+.2f} %"
            lines.append(f"{name:50}{before:>14,}{after:>14,}{change:>11}")
    same = sum(old[name] == new[name] for name in old.keys() & new.keys())
    return "\n".join([*lines, f"{same} of {len(old.keys() | new.keys())} calls: no difference"])


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["--child"]:
        child(arguments[1])
        return 0
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", metavar="REGEX", help="calls that match")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON there")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="show what differs from it")
    options = parser.parse_args(arguments)
    try:
        re.compile(options.only)
        before = json.loads(options.compare.read_text())["instructions"] if options.compare else {}
    except re.error as error:
        parser.error(f"--only is not a regular expression: {error}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"--compare {options.compare} is not a result of this program: {error!r}")
    try:
        found = result(count(options.only))
    except CannotCount as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    text = json.dumps(found, indent=1)
    if options.out:
        options.out.write_text(text + "\n")
    if options.compare:
        chosen = {name: n for name, n in before.items() if re.search(options.only, name)}
        text = differences(chosen, found["instructions"])
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
