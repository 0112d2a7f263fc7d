"""The log: exact numbers, and cut at the step of a checkpoint."""

import csv
import io
import math
from pathlib import Path

import pytest

from byhand.errors import UserError
from byhand.runs.log import Log, as_csv, keep_until, read_log
from tests.training import small

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


def test_the_table_has_a_line_for_each_step_with_the_bits_of_the_log():
    assert as_csv(RECORDS).splitlines() == [
        "step,loss,validation_loss,lr",
        "0,,4.0,",
        "1,0.3333333333333333,,1e-300",
        "2,0.30000000000000004,2.0,0.0001",
        "3,5e-324,,0.0001",
    ]
    assert as_csv([]) == "step\n"
    extra = [{"step": 1, "norm": None, "validation_a,b": 1.0, "loss": 2.0}]
    assert as_csv(extra) == 'step,loss,"validation_a,b",norm\n1,2.0,1.0,\n'


def test_a_run_leaves_its_table(tmp_path: Path):
    small.new_trainer(tmp_path, small.config(steps=7, eval_every=5)).run()
    rows = list(csv.DictReader(io.StringIO((tmp_path / "log.csv").read_text())))
    assert [int(row["step"]) for row in rows] == list(range(8))
    for record in read_log(tmp_path / "log.jsonl"):
        row = rows[record["step"]]
        for name in record.keys() - {"seconds"}:
            assert float(row[name]) == record[name]
    assert [row["step"] for row in rows if row["validation_loss"]] == ["0", "5", "7"]
    longer = small.resumed_trainer(tmp_path, steps=9)
    longer.run()
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 1 + 10


def test_a_table_that_cannot_be_written_is_reported_and_is_no_error(tmp_path: Path):
    trainer = small.new_trainer(tmp_path, small.config(steps=2))
    (tmp_path / "log.csv").mkdir()
    assert trainer.run() is None
    (line,) = (line for line in trainer.display.lines if "log.csv" in line)
    assert line.startswith(f"{tmp_path / 'log.csv'} is not written (")
    assert line.endswith("the numbers are in log.jsonl")


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
