"""The cases of ops.py under pytest-benchmark, for its statistics, groups and saved runs.

python -m pytest bench/test_ops.py --benchmark-group-by=param:name -k layernorm
"""

from __future__ import annotations

import functools

import pytest

from cases import Case, Spec
from ops import GROUPS

SPECS = {name: spec for specs in GROUPS.values() for spec in specs for name in spec.names}


@functools.lru_cache(maxsize=1)
def build(name: str) -> dict[str, Case]:
    """The cases of one spec; those of the one before are given up."""
    spec: Spec = SPECS[name]
    return dict(zip(spec.names, spec.build(), strict=True))


@pytest.mark.parametrize("who", ["byhand", "torch", "numpy"])
@pytest.mark.parametrize("name", SPECS)
def test_op(benchmark, name: str, who: str) -> None:
    case = build(name)[name]
    runs = {"byhand": case.byhand, **case.rivals}
    if who not in runs:
        pytest.skip(f"{who} has no such op")
    benchmark.extra_info.update(flops=case.flops, bytes=case.bytes)
    benchmark(runs[who])
