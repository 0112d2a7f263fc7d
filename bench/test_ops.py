"""The cases of bench.run_ops under pytest-benchmark, for its statistics, groups and saved runs.

python -m pytest bench/test_ops.py --benchmark-group-by=param:name -k layernorm
"""

from __future__ import annotations

import functools

import pytest

from bench import collect
from bench.cpu_case import Case, Spec

SPECS = {name: spec for spec in collect.cpu_specs() for name in spec.names}


@functools.lru_cache(maxsize=1)
def build(name: str) -> dict[str, Case]:
    """The cases of one spec, kept until another is asked for."""
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
