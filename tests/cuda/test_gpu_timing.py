"""How bench/gpu.py times calls: what is inside of a timing, and graphs of short calls."""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from bench import collect, gpu, gpu_case, gpu_device, gpu_timing
from bench.gpu_timing import Contestant
from byhand import backend
from byhand.backend import native

SMALL = tuple(collect.gpu_cases(np, "small", ops=["matmul"], dtypes=["bfloat16"]))
PAIR = [case for case in SMALL if case.name.startswith("matmul_forward")][:2]  # portable, Hopper


def test_nothing_is_set_or_looked_up_while_a_call_is_timed(on_cpu, monkeypatch):
    """Whatever a contestant needs around its calls, the others do not pay for."""
    device = gpu_device.OnCpu()
    device.kernels = backend.Kernels("cuda_on_cpu", {"matmul_forward": lambda *arguments: None})
    events = []
    library = importlib.import_module("byhand_cuda_on_cpu")
    for owner, name in ((os, "putenv"), (os, "unsetenv"), (gpu_case, "positional")):
        monkeypatch.setattr(owner, name, watched(getattr(owner, name), name, events))
    set_gemm = watched(library.set_gemm, "set_gemm", events)
    load = native.load
    double = SimpleNamespace(gemm=library.gemm, set_gemm=set_gemm)
    monkeypatch.setattr(native, "load", lambda n: double if n == "cuda_on_cpu" else load(n))
    monkeypatch.setattr(native, "find_cublaslt", lambda name: None)

    def milliseconds(run):
        events.append(os.environ.get("BYHAND_GEMM_HOPPER", library.gemm()))
        run()
        events.append("timed")
        return 1.0

    monkeypatch.setattr(device, "milliseconds", milliseconds)
    monkeypatch.delenv("BYHAND_GEMM_HOPPER", raising=False)
    for case in PAIR:
        events.clear()
        gpu.measure(device, case, 1e9, rounds=2)
        begins = [i for i, event in enumerate(events) if event in ("hand", "cublaslt", "1")]
        assert all(events[i + 1] == "timed" for i in begins)
        found = [events[i] for i in begins]
        assert found == (["hand", "cublaslt"] if case is PAIR[0] else ["1"]) * 9, events
        assert {"positional", "set_gemm" if case is PAIR[0] else "putenv"} <= set(events)


def watched(function: Any, name: str, events: list[str]) -> Any:
    def call(*arguments: Any) -> Any:
        events.append(name)
        return function(*arguments)

    return call


def test_the_gpu_is_busy_before_a_call_is_timed(gpu_stand_in):
    device = gpu_device.Gpu()
    gpu_stand_in.log.clear()
    device.milliseconds(lambda: gpu_stand_in.do("call"))
    assert gpu_stand_in.log == ["copy", "flush", "event", "call", "event"]
    # Twice the first event was reached before the call was queued: those times are not used.
    gpu_stand_in.late = 2
    gpu_stand_in.log.clear()
    device.milliseconds(lambda: gpu_stand_in.do("call"))
    tail = ["flush", "event", "call", "event"]
    assert gpu_stand_in.log == [*["copy"], *tail, *["copy"] * 2, *tail, *["copy"] * 4, *tail]
    gpu_stand_in.late = 10**9
    gpu_stand_in.log.clear()
    device.milliseconds(lambda: gpu_stand_in.do("call"))
    assert gpu_stand_in.log.count("call") == 3  # it does not try forever
    assert gpu_stand_in.log.count("copy") == 4 + 8 + 16


def test_short_calls_are_timed_as_graphs_all_of_them(gpu_stand_in, monkeypatch):
    device = gpu_device.Gpu()
    took = {"ours": 0.3, "torch": 0.19}

    ran = []

    def contestant(name):
        return Contestant(lambda: gpu_stand_in.do(name, lambda: ran.append(name)))

    names = {name: contestant(name) for name in took}
    monkeypatch.setattr(
        gpu_timing, "in_turns", lambda d, c, rounds, warm_up: {n: (took[n], 0.0) for n in c}
    )
    timed, graphs = gpu_timing.ready(device, names)
    assert timed == "graph replays"
    gpu_stand_in.log.clear()
    graphs["torch"].run()
    assert (gpu_stand_in.log, ran) == (["graph"], ["torch"])
    took["torch"] = 0.2
    assert gpu_timing.ready(device, names) == ("launches", names)
    assert gpu_timing.ready(device, {}) == ("launches", {})


def test_if_one_cannot_be_captured_none_is_timed_as_a_graph(gpu_stand_in, monkeypatch):
    device = gpu_device.Gpu()

    def fails():
        if gpu_stand_in.captured is not None:
            raise RuntimeError("it allocates")
        gpu_stand_in.do("torch")

    names = {"ours": Contestant(lambda: gpu_stand_in.do("ours")), "torch": Contestant(fails)}
    monkeypatch.setattr(device, "milliseconds", lambda run: 0.01)
    timed, ready = gpu_timing.ready(device, names)
    assert timed == "launches, torch cannot be captured: RuntimeError: it allocates"
    assert ready is names
    assert gpu_stand_in.captured is None


def test_a_short_call_is_captured_with_its_setting(gpu_stand_in, monkeypatch):
    """The kernel that the variables choose is the one in the graph."""
    module = importlib.import_module("byhand_cuda_on_cpu")
    monkeypatch.delenv("BYHAND_GEMM_HOPPER", raising=False)
    monkeypatch.setattr(gpu_timing, "SHORT", 1e9)
    device = gpu_device.Gpu()
    for case, threads in zip(PAIR, (256, 384), strict=True):
        row = gpu.measure(device, replace(case, gemm=False), 1e9, rounds=2)
        assert row["timed"] == "graph replays"
        assert module.last_block() == threads


def test_pytorch_captures_its_own_graph(gpu_stand_in, monkeypatch):
    """On the stream that is current for both, because a backward pass runs on the stream of its
    forward pass.
    """
    current, captures = [], []

    @contextmanager
    def graph(found, stream):
        captures.append((found, stream))
        yield

    torch = SimpleNamespace(
        cuda=SimpleNamespace(
            CUDAGraph=lambda: SimpleNamespace(replay=lambda: "replayed"),
            ExternalStream=lambda ptr: ("the stream", ptr),
            current_stream=lambda: current[-1],
            graph=graph,
            set_stream=current.append,
        )
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(gpu_device.Gpu, "without_torch", lambda self: "")
    device = gpu_device.Gpu()
    assert current == [("the stream", 1)]
    runs = []
    assert device.captured(lambda: runs.append(1), by_torch=True)() == "replayed"
    assert [stream for _, stream in captures] == current
    assert runs == [1]
