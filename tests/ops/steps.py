"""What the tests of the optimizers' steps share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tests.kernel_case import FORWARD, Bug, Call, Error


def group_arrays(
    rng: np.random.Generator,
    n: int,
    *ends: int,
    t: int = 0,
    norm: float | None = None,
    lr: float = 1e-2,
) -> dict[str, Any]:
    """Groups that end at `ends` and at n, each with its own rate and decay; `t` steps were done."""
    count = len(ends) + 1
    return {
        "t": np.asarray(t),
        "norm": None if norm is None else np.asarray(norm, np.float32),
        "lr": np.float32(lr) * (0.5 + rng.random(count)).astype(np.float32),
        "weight_decay": 0.3 * np.arange(count, dtype=np.float32),
        "bounds": np.array([*ends, n]),
    }


def in_groups(
    t: Any,
    o: dict[str, Any],
    changed: Iterable[str],
    step: Callable[[slice, int, float], dict[str, Any]],
) -> dict[str, Any]:
    """The results of a step that PyTorch takes group by group: step(elements, index of the group,
    factor of clipping) -> {name: tensor of these elements}. Without a finite norm nothing changes.
    """
    import torch

    def whole(name: str) -> bool:
        return getattr(t, name) is not None

    if t.norm is not None and not t.norm.isfinite():  # PyTorch's weights would become NaN
        results = {name: getattr(t, name) for name in changed if whole(name)} | {"t": t.t}
    else:
        scale = 1.0 if t.norm is None else min(1.0, o["max_norm"] / (float(t.norm) + 1e-6))
        ends = t.bounds.tolist()
        parts = [slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
        found = [step(part, i, scale) for i, part in enumerate(parts)]
        results = {n: torch.cat([f[n] for f in found]) for n in changed if whole(n)}
        results["t"] = t.t + 1
    return results if "copy" in o else {**results, "copy": results["w"]}


def results_of(
    c: Call, step: Callable[..., Any], state: Iterable[str], rates: Iterable[str], **settings: Any
) -> dict[str, Any]:
    """What the public function of a step leaves in w, the arrays of its state, and the copy. rates:
    the settings of groups.
    """
    a = c.arrays
    results = {name: a[name] for name in ("w", *state) if a[name] is not None}
    if "copy" not in c.options:
        results["copy"] = np.full_like(a["w"], np.nan)
    step(
        *(a[name] for name in ("w", *state, "g")),
        **{name: a[name] for name in (*rates, "bounds", "t", "norm")},
        **settings,
        max_norm=c.options["max_norm"],
        copy=results.get("copy"),
    )
    return results


def step_bugs(kernel: str) -> tuple[Bug, ...]:
    """Mistakes that every step could have."""
    return (
        Bug("group ends one late", kernel, 'side="right"', 'side="left"', None, FORWARD),
        Bug("not clipped", kernel, "    if norm is not None:\n", "    if False:\n", None, FORWARD),
        Bug("made with an infinite norm", kernel, "not np.isfinite(norm)", "np.isnan(norm)", None,
            FORWARD),
        Bug("made with a norm of NaN", kernel, "not np.isfinite(norm)", "np.isinf(norm)", None,
            FORWARD),
    )  # fmt: skip


def step_errors(
    name: str, step_with: Callable[..., Any], rates: Iterable[str] = ("lr", "weight_decay")
) -> tuple[Error, ...]:
    """What every step refuses; step_with: calls it with some arguments changed, on 3 elements in 2
    groups in float64. rates: the settings of groups.
    """
    none = {key: np.ones(0) for key in rates}
    found = [
        Error(
            ValueError,
            f"{name}.step: lr must have shape (G,) with G >= 1, got (0,)",
            lambda: step_with(**none, bounds=np.ones(0, np.int64)),
        ),
        Error(
            ValueError,
            f"{name}.step: max_norm must be positive when norm is given, got 0.0",
            lambda: step_with(norm=np.ones(())),
        ),
        Error(
            ValueError,
            f"{name}.step: t must be at least 0, got -1",
            lambda: step_with(t=np.full((), -1)),
        ),
        Error(TypeError, f"{name}_step: t must be int64", lambda: step_with(t=np.zeros(()))),
    ]
    for ends in ([2, 4], [2, 2], [4, 3], [-1, 3]):
        found.append(
            Error(
                ValueError,
                f"{name}.step: bounds must be ascending to 3, got {ends}",
                lambda ends=ends: step_with(bounds=np.array(ends)),
            )
        )
    return tuple(found)
