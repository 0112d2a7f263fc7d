"""The cases of ops.py under pytest-benchmark, for its statistics, groups and saved runs.

python -m pytest bench/test_ops.py --benchmark-group-by=param:case -k layernorm
"""

from __future__ import annotations

import pytest

from ops import GROUPS, Case

CASES = [case for cases in GROUPS.values() for case in cases()]


@pytest.mark.parametrize("who", ["byhand", "torch"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_op(benchmark, case: Case, who: str) -> None:
    benchmark.extra_info.update(flops=case.flops, bytes=case.bytes)
    benchmark(getattr(case, who))
