"""log.jsonl: one line of JSON for every step and every evaluation; log.csv: the same as a table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from byhand.files import sync, write_atomically
from byhand.runs.hints import not_saved


class Log:
    """Appends records to a file of JSON lines; each record has at least a `step`.

    Lines reach the disk on `flush`, which the trainer calls before it saves a checkpoint. So the
    log holds every step up to the checkpoint's, and `keep_until` can cut it back to that step.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._as_user_errors():
            self._file = open(path, "a", encoding="utf-8")

    def write(self, **record: Any) -> None:
        """Add a line. UserError if it cannot be written."""
        with self._as_user_errors():
            self._file.write(json.dumps(record, allow_nan=False) + "\n")

    def flush(self) -> None:
        """Write all lines to the disk. UserError if that fails."""
        with self._as_user_errors():
            self._file.flush()
            sync(self._file.fileno())

    def close(self) -> None:
        """Close the file. On a full disk unwritten lines are lost; `flush` has reported it."""
        with suppress(OSError):
            self._file.close()

    @contextmanager
    def _as_user_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise not_saved(self.path, error, self.path.parent) from None


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a log, up to the first incomplete line. No records if there is no log."""
    if not path.exists():
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                return
            if not line.endswith("\n") or not isinstance(record, dict) or "step" not in record:
                return
            yield record


def as_csv(records: Iterable[dict[str, Any]]) -> str:
    """The records of a log as comma-separated values: a line of names, then a line for each step,
    with an evaluation in the line of its step. What a step does not have is empty.
    """
    rows: dict[int, dict[str, Any]] = {}
    for record in records:
        rows.setdefault(record["step"], {}).update(record)
    names = dict.fromkeys(["step", *(name for row in rows.values() for name in row)])
    # The curves first; the others stay in their order.
    columns = sorted(
        names, key=lambda n: (n != "step", n != "loss", not n.startswith("validation_"))
    )
    lines = io.StringIO()
    table = csv.DictWriter(lines, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows.values())
    return lines.getvalue()


def write_csv(log: Path, path: Path, say: Callable[[str], None]) -> None:
    """Writes the log in the file `log` as the table `path`. The table is a copy, so `say` reports
    that it cannot be written.
    """
    try:
        write_atomically(path, as_csv(read_log(log)).encode())
    except OSError as error:
        say(f"{path} is not written ({error.strerror}); the numbers are in {log.name}")


def keep_until(path: Path, step: int) -> None:
    """Remove the records after `step`, and an incomplete last line."""
    kept = [json.dumps(record) + "\n" for record in read_log(path) if record["step"] <= step]
    write_atomically(path, "".join(kept).encode())
