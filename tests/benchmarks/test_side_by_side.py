"""Results of a back end that the environment chose: their folder, and the table beside the best."""

from __future__ import annotations

import json

import pytest

from bench import harness, tables


def step(case: str, milliseconds: float, percent: float | None) -> dict:
    result = {"step_ms": milliseconds, "gflops": 1000 / milliseconds}
    row = {"case": case, "precision": "float32", "times_torch_speed": 2.0}
    row |= {"percent_of_roofline": percent, "date": "2026-01-02", "commit": "abc"}
    return row | {"results": {"byhand float32": result}}


def write(folder, backend: str, rows: list[dict]) -> None:
    folder.mkdir()
    names = ("processor", "platform", "compiler", "python", "numpy", "torch")
    about = dict.fromkeys(names, "some") | {"threads": 2, "cpu_backend": backend}
    (folder / "train_step.json").write_text(json.dumps({**about, "rows": rows}))


def test_rows_of_both_instruction_sets_stand_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    write(tmp_path / "chip", "cpu_avx512", [step("tiny", 10, 71.2), step("guide", 25, None)])
    write(tmp_path / "chip-avx2", "cpu_avx2", [step("tiny", 16, 65.4), step("other", 1, 1)])
    write(tmp_path / "alone-avx2", "cpu_avx2", [step("tiny", 99, 99)])
    lines = tables.instruction_sets("train_step").splitlines()
    rows = [line for line in lines if line.startswith("| tiny")]
    assert rows == [
        "| tiny | 16.0 ms | 2.00 | 62 GFLOP/s | 65 % | 10.0 ms | 2.00 | 100 GFLOP/s | 71 % |"
    ]
    assert not any("other" in line or "guide" in line or "99" in line for line in lines)
    assert any("cpu_avx2" in line for line in lines)
    assert any("cpu_avx512" in line for line in lines)


def test_without_results_the_table_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert tables.instruction_sets("ops") == tables.NOTHING


@pytest.mark.parametrize("variable", ["BYHAND_CPU", "BYHAND_CPU_FEATURES"])
def test_a_chosen_back_end_has_a_folder_of_its_own(variable, monkeypatch):
    about = {"processor": "A Chip (family 6)", "cpu_backend": "cpu_avx2"}
    for name in ("BYHAND_CPU", "BYHAND_CPU_FEATURES"):
        monkeypatch.delenv(name, raising=False)
    assert harness.home_of(about).name == "a-chip-family-6"
    monkeypatch.setenv(variable, "avx2")
    assert harness.home_of(about).name == "a-chip-family-6-avx2"
