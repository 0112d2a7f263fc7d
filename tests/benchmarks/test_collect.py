"""The folder bench/ops is complete, and its cases can be run."""

from __future__ import annotations

import pkgutil

import numpy as np
import pytest

import byhand.ops
from bench import collect, cpu_case, gpu_case, native
from byhand import backend, roofline

SPECS = collect.cpu_specs()


def test_every_op_has_a_module():
    """Every module of byhand.ops that registers a kernel."""
    ops = {
        backend.reference.__dict__[kernel].__module__.rpartition(".")[2]
        for kernel in backend.reference.available
        if backend.reference.__dict__[kernel].__module__.startswith("byhand.ops.")
    }
    assert len(ops) > 10
    assert ops == set(collect.modules())
    assert ops <= {module.name for module in pkgutil.iter_modules(byhand.ops.__path__)}


def test_names_are_unique():
    names = [name for spec in SPECS for name in spec.names]
    assert len(names) == len(set(names))
    for sizes in ("small", "full"):
        calls = [
            (op, dtype, size)
            for op, module in collect.modules().items()
            for dtype in module.GPU.dtypes
            for size in getattr(module.GPU, sizes)
        ]
        assert len(calls) == len(set(calls))


def test_an_op_can_be_chosen():
    assert collect.cpu_specs(["softmax"]) == [s for s in SPECS if s.name.startswith("softmax")]
    with pytest.raises(KeyError):
        collect.cpu_specs(["softmin"])


@pytest.mark.parametrize("op", collect.modules())
def test_the_first_case_of_every_op_runs_with_its_rivals(op):
    """The first is the smallest; built as it is timed."""
    pytest.importorskip("torch")
    spec = collect.modules()[op].CPU[0]
    cases = spec.build()
    assert [case.name for case in cases] == spec.names
    for case in cases:
        assert case.stream in roofline.STREAMS
        assert (case.flops > 0) != (case.bytes > 0)
        assert "torch" in case.rivals
        for run in (case.byhand, *case.rivals.values()):
            run()


def test_a_pair_takes_its_counts_from_the_contract():
    pytest.importorskip("torch")
    forward, backward = collect.modules()["layernorm"].pair(3, 5).cases("name")
    assert (forward.bytes, backward.bytes) == (2 * 3 * 5 * 4, 3 * 3 * 5 * 4)
    forward, backward = collect.modules()["attention"].pair(2, 3, 4, 5).cases("name")
    assert (forward.flops, backward.flops) == (2 * 2 * 3 * 16 * 5, 5 * 2 * 3 * 16 * 5)
    assert cpu_case.cost("layernorm_forward", {"R": 3, "C": 5}, ["add"]) == {"bytes": 240.0}


@pytest.mark.parametrize("op", collect.modules())
def test_the_counted_size_is_awkward(op):
    """No size of an array is a multiple of 4, so vectors have tails."""
    m = gpu_case.Maker(np, gpu_case.F32)
    calls = collect.modules()[op].GPU
    for case in calls.make(m, *calls.counted):
        assert case.shape[-1] % 4, case


@pytest.mark.parametrize("op", collect.modules())
def test_a_tiny_case_is_one_native_call(op):
    pytest.importorskip("torch")
    for case in (case for spec in collect.modules()[op].TINY for case in spec.build()):
        natives: list[native.Call] = []
        with native.listening(natives):
            case.byhand()
        assert len(natives) == 1, case.name
