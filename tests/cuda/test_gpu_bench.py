"""The harness of bench/gpu.py, run without a GPU; and its calls compared with the reference."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from bench import collect, gpu, gpu_case, gpu_device, gpu_report, gpu_timing
from bench.harness import folder_of
from byhand import backend
from tests.benchmarks.without_memory import Maker, Shapes
from tests.cuda.agreement import check_agreement, check_call

SMALL = tuple(collect.gpu_cases(np, "small"))
RESULTS = Path(gpu.__file__).parent / "results"


@pytest.mark.deep
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_each_call_agrees_with_the_reference_and_repeats(case, device_kernels):
    for kernel, arguments in case.calls:
        once, again = (check_call(device_kernels, kernel, arguments) for _ in range(2))
        for name in once:
            assert once[name].tobytes() == again[name].tobytes(), name


@pytest.mark.gpu
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_each_call_gives_the_same_on_the_cpu(case, on_gpu, on_cpu):
    for kernel, arguments in case.calls:
        results = [check_call(kernels, kernel, arguments) for kernels in (on_gpu, on_cpu)]
        check_agreement(kernel, *results)


def test_every_cuda_kernel_is_timed(on_cpu):
    timed = {kernel for case in SMALL for kernel, _ in case.calls}
    assert timed == set(backend.cuda_on_cpu().available)


@pytest.mark.deep
def test_the_large_shapes_are_the_same_calls():
    class Kernels:
        """Accepts everything."""

        def __getattr__(self, kernel):
            return lambda *arguments: None

    full = list(collect.gpu_cases(Shapes, "full", 528, Maker))
    assert {case.name for case in full} == {case.name for case in SMALL}
    for case in full:
        case.run(Kernels())
        assert case.bytes > 100e6 or case.flops > 1e10 or case.name == "clip", case


@pytest.mark.parametrize("case", [c for c in SMALL if "x3000 " in str(c) or c.flops], ids=str)
def test_pytorch_can_run_every_case(case, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(gpu_case, "TORCH_DEVICE", "cpu")
    run = case.rival()
    for _ in range(2):
        run()


def test_the_environment_of_a_case_is_set_while_it_runs(on_cpu, monkeypatch):
    monkeypatch.delenv("BYHAND_GEMM_HOPPER", raising=False)
    import byhand_cuda_on_cpu

    pair = [c for c in SMALL if c.name.startswith("matmul_forward") and c.dtype == "bfloat16"][:2]
    threads = []
    for case in (*pair, pair[0]):
        case.run(on_cpu)
        threads.append(byhand_cuda_on_cpu.last_block())
        assert "BYHAND_GEMM_HOPPER" not in os.environ
    assert threads == [256, 384, 256]


def test_an_argument_that_the_kernel_does_not_have_is_refused():
    case = next(case for case in SMALL if case.name == "clip")
    ((kernel, arguments),) = case.calls
    wrong = gpu_case.Case("clip", (1,), "float32", 1, ((kernel, {**arguments, "limit": 1.0}),))
    with pytest.raises(TypeError, match="clip has no argument limit"):
        wrong.run(backend.reference)


# --- The program ---------------------------------------------------------------------------------


def test_a_dry_run_of_the_bench(on_cpu, capsys):
    assert gpu.main(["bench", "--on-cpu", "--only", r"softmax_forward 6x9[67]|clip"]) == 0
    said = capsys.readouterr().out
    assert said.count("\nsoftmax_forward") == 4
    assert said.count("\nlog_softmax_forward") == 4
    assert said.count("\nclip") == 1
    assert "not run: a dry run" in said
    assert said.rstrip().endswith("these numbers measure no GPU")


def test_results_of_a_dry_run_are_in_a_folder_of_that_name(on_cpu, tmp_path, capsys):
    assert gpu.main(["bench", "--on-cpu", "--only", "clip", "--out", str(tmp_path)]) == 0
    (folder,) = tmp_path.iterdir()
    assert folder.name == "dry-run-on-the-cpu"
    found = json.loads((folder / "kernels.json").read_text())
    gpu_report.check(found)
    assert len(found["rows"]) == 1
    assert found["rows"][0]["timed"] == (
        "launches, ours cannot be captured: RuntimeError: a CPU has no graphs"
    )
    assert "these numbers measure no GPU" in capsys.readouterr().out
    assert not list(RESULTS.glob("dry*"))


def test_hoppers_kernels_are_timed_on_hopper_alone(gpu_stand_in):
    for capability, expected in (((9, 0), True), ((12, 0), False)):
        gpu_stand_in.capability = capability
        device = gpu_device.Gpu()
        names = {case.name for case in gpu.cases(device, ops=["matmul"])}
        assert "matmul_forward" in names
        assert ("matmul_forward, Hopper" in names) == expected


@pytest.mark.deep
def test_a_dry_run_of_every_kernel(on_cpu, capsys):
    assert gpu.main(["run", "--on-cpu"]) == 0
    assert capsys.readouterr().out == "every kernel ran\n"


def test_without_a_gpu_it_says_why(capsys):
    if not (reason := backend.cuda_reason()):
        pytest.skip("this machine has CUDA")
    assert gpu.main(["bench"]) == 1
    assert capsys.readouterr().out == f"not run: {reason}\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["bench", "--ops", "softmx"], "invalid choice: 'softmx'"),
        (["bench", "--only", "("], "--only is not a regular expression"),
        (["measure"], "invalid choice"),
        ([], "required"),
    ],
)
def test_mistakes_on_the_command_line(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as stop:
        gpu.main(arguments)
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err


def test_cases_after_the_time_limit_are_marked_as_not_run(on_cpu, capsys):
    device = gpu_device.OnCpu()
    result = gpu.bench(device, gpu.cases(device, "clip|grad_norm"), seconds=-1, rounds=2)
    assert [row["ms"] for row in result["rows"]] == ["not run: the time was up"] * 2
    gpu_report.check(result)


def test_a_result_file_is_written(gpu_stand_in, tmp_path, capsys):
    arguments = ["bench", "--out", str(tmp_path), "--only", "6x96 float32|clip"]
    assert gpu.main(arguments) == 0
    assert f"written to {tmp_path / 'stand-in'}" in capsys.readouterr().out
    found = json.loads((tmp_path / "stand-in" / "kernels.json").read_text())
    gpu_report.check(found)
    assert len(found["rows"]) > 10
    assert all(row["ms"] > 0 and row["torch_ms"] == "not run: a stand-in" for row in found["rows"])
    assert (found["gpu"]["name"], found["gpu"]["cupy"], found["date"]) == (
        "Stand-In",
        "0",
        "2026-01-02",
    )
    assert set(found["clocks"]) == {"before", "after"}
    assert gpu.main(["run", "--only", "clip"]) == 0


def test_ops_are_measured_in_the_order_they_are_named_in(gpu_stand_in, tmp_path):
    arguments = ["bench", "--out", str(tmp_path), "--ops", "layernorm", "dropout", "activation"]
    assert gpu.main([*arguments, "--dtypes", "float32", "--only", " 6x96 "]) == 0
    found = json.loads((tmp_path / "stand-in" / "kernels.json").read_text())
    kernels = [row["kernel"] for row in found["rows"]]
    assert kernels[0].startswith("layernorm")
    families = list(dict.fromkeys(kernel.partition("_")[0] for kernel in kernels))
    assert families == ["layernorm", "dropout", "activation"]
    assert {row["dtype"] for row in found["rows"]} == {"float32"}


def test_what_was_measured_before_the_program_ends_is_written(gpu_stand_in, tmp_path, monkeypatch):
    """The circumstances first, then each row; a kernel that fails is a row of its own."""
    seen = []

    def line(row):
        seen.append(json.loads((tmp_path / "stand-in" / "kernels.json").read_text()))
        assert seen[-1]["rows"][-1] == row
        if len(seen) == 3:
            raise KeyboardInterrupt
        return ""

    copied = gpu_timing.in_turns

    def in_turns(device, contestants, *rounds):
        if "copy" in contestants:
            assert not list(tmp_path.iterdir())
        return copied(device, contestants, *rounds)

    monkeypatch.setattr(gpu, "in_turns", in_turns)
    monkeypatch.setattr(gpu_report, "line", line)
    kernels = backend.cuda()
    calls = []

    def failing(*arguments):
        calls.append(arguments)
        raise RuntimeError("clip: an illegal address\nmore")

    monkeypatch.setattr(kernels, "clip", failing)
    with pytest.raises(KeyboardInterrupt):
        gpu.main(["bench", "--out", str(tmp_path), "--only", r"clip|softmax_forward 6x9. f"])
    rows = seen[-1]["rows"]
    (failed,) = (row for row in rows if row["kernel"] == "clip")
    assert failed["ms"] == "not run: RuntimeError: clip: an illegal address"
    assert failed["timed"] == ""
    assert all(row["ms"] > 0 for row in rows if row is not failed)
    assert len(calls) == 1
    assert gpu_report.markdown(seen[-1]) + "\n" == (tmp_path / "stand-in/kernels.md").read_text()
    assert {path.suffix for path in (tmp_path / "stand-in").iterdir()} == {".json", ".md"}


# --- Results -------------------------------------------------------------------------------------


TIMES = {"ours": (0.1, 0.01), "torch": (0.12, 0.02)}


@pytest.fixture
def result() -> dict:
    """A made-up result of a GPU."""
    case = ("softmax_forward", (65536, 1024), "bfloat16", 1 << 28, 0)
    rows = [
        gpu_report.row(*case, 3e12, TIMES, {}, "graph replays"),
        gpu_report.row(
            *case, 3e12, {"ours": (0.1, 0.01)}, {"torch": "no PyTorch here"}, "graph replays"
        ),
    ]
    return {
        "format": 1,
        "date": "2026-01-02T03:04:05",
        "commit": "abcdef",
        "gpu": {"name": "Made-Up GPU 80GB", "driver": 13000, "cupy": "14.2.0"},
        "clocks": {"before": {"clocks.sm": "1980 MHz"}, "after": {}},
        "copy_gb_per_s": 3000.0,
        "rows": rows,
    }


def test_a_row_is_computed_from_the_times(result):
    first, second = result["rows"]
    assert first["gb_per_s"] == 2684.4  # 2^28 bytes in 0.1 ms
    assert first["of_copy"] == 0.8948
    assert first["times_torch_speed"] == 1.2
    assert first["tflop_per_s"] is None
    assert second["torch_ms"] == "not run: no PyTorch here"
    assert second["times_torch_speed"] is None
    products = gpu_report.row("attention_forward", (1,), "bfloat16", 1, 10**12, 3e12, TIMES, {})
    assert products["tflop_per_s"] == 10_000
    times = {**TIMES, "cublaslt": (0.2, 0.01)}
    beside = gpu_report.row("linear_forward", (1,), "float32", 1, 1, 3e12, times, {})
    not_run = {"cublaslt": "no file"}
    without = gpu_report.row("linear_forward", (1,), "float32", 1, 1, 3e12, TIMES, not_run)
    ms = [r["cublaslt_ms"] for r in (first, products, beside, without)]
    assert ms == [None, None, 0.2, "not run: no file"]


def test_results_go_to_the_folder_of_their_gpu(result, tmp_path, capsys):
    gpu_report.write(result, tmp_path)
    to = gpu_report.folder(result, tmp_path)
    assert to == tmp_path / "made-up-gpu-80gb"
    assert json.loads((to / "kernels.json").read_text()) == result
    table = (to / "kernels.md").read_text()
    expected = "| `softmax_forward` | 65536 x 1024 | bfloat16 | 0.100 ms | 1% | 2,684 | 89% |  |"
    assert f"{expected} 0.120 ms | 1.20 |  | graph replays |" in table
    assert f"{expected} not run: no PyTorch here |  |  | graph replays |" in table
    assert table.startswith("Made-Up GPU 80GB, copy 3,000 GB/s read and written, driver 13000")
    assert "Clocks before: clocks.sm 1980 MHz." in table
    assert gpu.main(["table", str(to / "kernels.json")]) == 0
    assert capsys.readouterr().out == table


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda r: r.pop("copy_gb_per_s"), "the file has no copy_gb_per_s"),
        (lambda r: r["gpu"].pop("name"), "the file: gpu has no name"),
        (lambda r: r["rows"][1].pop("of_copy"), "row 1 has no of_copy"),
        (lambda r: r["rows"][1].pop("timed"), "row 1 has no timed"),
        (lambda r: r["rows"][0].update(ms=None), "row 0: ms is None"),
        (lambda r: r["rows"][0].update(ms="later"), "row 0: ms says neither a time nor why"),
    ],
)
def test_a_damaged_result_is_refused_by_name(damage, sentence, result, tmp_path):
    damage(result)
    with pytest.raises(gpu_report.Malformed, match=sentence):
        gpu_report.write(result, tmp_path)
    assert not list(tmp_path.iterdir())


def test_recorded_results_are_complete_and_agree_with_their_tables():
    for path in RESULTS.glob("*/kernels.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        gpu_report.check(found)
        assert path.parent.name == folder_of(found["gpu"]["name"]).name
        table = path.with_suffix(".md").read_text(encoding="utf-8")
        assert table == gpu_report.markdown(found) + "\n"
