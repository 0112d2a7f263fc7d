"""The log: exact numbers, and cut at the step of a checkpoint."""

import math
from pathlib import Path

import pytest

from byhand.errors import UserError
from byhand.runs.log import Log, keep_until, read_log
from byhand.runs.plot import MISSING, LossPlot, loss_figure

RECORDS = [
    {"step": 0, "validation_loss": 4.0},
    {"step": 1, "loss": 1 / 3, "lr": 1e-300},
    {"step": 2, "loss": 0.1 + 0.2, "lr": 1e-4},
    {"step": 2, "validation_loss": 2.0},
    {"step": 3, "loss": 5e-324, "lr": 1e-4},
]


def written(path: Path) -> Path:
    log = Log(path)
    for record in RECORDS:
        log.write(**record)
    log.close()
    return path


def test_numbers_are_read_back_bit_for_bit(tmp_path: Path):
    assert list(read_log(written(tmp_path / "log"))) == RECORDS
    assert list(read_log(tmp_path / "missing")) == []


def test_a_log_is_appended_to(tmp_path: Path):
    written(tmp_path / "log")
    assert list(read_log(written(tmp_path / "log"))) == RECORDS * 2


@pytest.mark.parametrize("step", range(5))
def test_cutting_keeps_the_lines_up_to_the_step(tmp_path: Path, step: int):
    path = written(tmp_path / "log")
    keep_until(path, step)
    assert list(read_log(path)) == [record for record in RECORDS if record["step"] <= step]


@pytest.mark.parametrize(
    "torn", ['{"step": 2', '{"step": 4, "loss": 1.0}', "\xff\n", "3\n", "{}\n"]
)
def test_an_incomplete_end_is_dropped(tmp_path: Path, torn: str):
    path = written(tmp_path / "log")
    before = path.read_bytes()
    path.write_bytes(before + torn.encode("latin-1"))
    assert list(read_log(path)) == RECORDS
    keep_until(path, 100)
    assert path.read_bytes() == before


def test_nan_is_never_logged(tmp_path: Path):
    log = Log(tmp_path / "log")
    with pytest.raises(ValueError, match="JSON"):
        log.write(step=1, loss=math.nan)
    log.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_sentence(tmp_path: Path):
    (tmp_path / "log").symlink_to("/dev/full")
    log = Log(tmp_path / "log")
    log.write(step=1)
    with pytest.raises(
        UserError, match=r"No space left.*no checkpoint yet: free space, then start"
    ):
        log.flush()
    log.close()


def test_the_figure_has_both_curves_over_the_steps():
    axes = loss_figure(RECORDS).axes[0]
    training, validation = axes.get_lines()
    assert training.get_xydata().tolist() == [[1, 1 / 3], [2, 0.1 + 0.2], [3, 5e-324]]
    assert validation.get_xydata().tolist() == [[0, 4.0], [2, 2.0]]
    assert axes.get_xlabel() == "step"
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["training", "validation"]


def test_the_plot_is_a_png(tmp_path: Path):
    plot = LossPlot(written(tmp_path / "log"), tmp_path / "loss.png", pytest.fail, pause=1e9)
    plot.draw_if_due()
    assert not (tmp_path / "loss.png").exists(), "the pause is not over"
    plot.draw()
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_without_matplotlib_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    reported: list[str] = []
    plot = LossPlot(written(tmp_path / "log"), tmp_path / "loss.png", reported.append)
    plot.draw()
    assert reported == [MISSING]
    assert "pip install 'byhand[plot]'" in MISSING
    assert not (tmp_path / "loss.png").exists()


def test_a_plot_that_cannot_be_written_is_reported_and_no_error(tmp_path: Path):
    reported: list[str] = []
    (tmp_path / "loss.png").mkdir()
    LossPlot(written(tmp_path / "log"), tmp_path / "loss.png", reported.append).draw()
    assert len(reported) == 1
    assert "is not drawn" in reported[0]
