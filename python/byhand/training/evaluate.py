"""The metrics of a task on validation data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from byhand.tasks.task import Batch, Task


def evaluate(task: Task, batches: Iterable[Batch], stop: Any = False) -> dict[str, float] | None:
    """{name: mean over all units of the batches}, without dropout; afterwards the model has its
    former mode. None if ``stop`` became true before the end.

    Raises ValueError when there are no batches.
    """
    if not hasattr(task, "metrics"):
        raise TypeError(
            f"evaluate takes a task, such as tasks.LanguageModel(model), got {type(task).__name__}"
        )
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    with task.model.in_inference():
        for batch in batches:
            if stop:
                return None
            for name, (value, count) in task.metrics(batch).items():
                sums[name] = sums.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + count
    if not sums:
        raise ValueError("evaluate: there are no batches")
    return {name: value / max(counts[name], 1) for name, value in sums.items()}
