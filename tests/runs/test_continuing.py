"""Resuming: the log agrees with the checkpoint, and what differs from before is said."""

import dataclasses
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from byhand import backend, files
from byhand.cli.main import main
from byhand.data import corpus
from byhand.errors import UserError
from byhand.optim import AdamW
from byhand.runs import Corpus, Run, load_trained, log
from byhand.runs.checkpoint import pack, read
from byhand.training.setup import text_trainer
from tests.runs import made
from tests.runs.test_files import WatchedOs, in_child
from tests.training import small

CONFIG = small.config(steps=20, eval_every=5, lr=0.6, dropout=0.1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without a stop."""
    folder = tmp_path_factory.mktemp("whole")
    small.new_trainer(folder, CONFIG).run()
    return folder


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, stopped at step 18, whose best checkpoint is an earlier one."""
    folder = tmp_path_factory.mktemp("stopped")
    trainer = small.new_trainer(folder, CONFIG)
    small.stop_after(trainer, 18)
    trainer.run()
    assert 0 < read(folder / "best.safetensors").state["step"] < 15
    assert read(folder / "last.safetensors").state["step"] == 18
    return folder


@pytest.fixture
def run(stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run as `byhand train` leaves it, in the folder `run` of the current folder."""
    shutil.copytree(stopped, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(small.text())
    edit(Path("run/config.json"), lambda d: d["data"].update(name=str(tmp_path / "text.txt")))
    return tmp_path / "run"


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def edit_state(path: Path, change: Callable[[Any], Any]) -> None:
    found = read(path)
    change(found.state)
    path.write_bytes(pack(found.tensors, found.state))


def require_log_of_one_run(folder: Path, whole: Path) -> None:
    """The log has the records of the uninterrupted run up to each checkpoint, whichever of them is
    resumed.
    """
    for path in folder.glob("*.safetensors"):
        state = read(path).state

        def due(record: dict[str, Any], state: dict[str, Any] = state) -> bool:
            last = state["step"] if "loss" in record else state["evaluated"]
            return record["step"] <= last

        found, expected = (list(filter(due, small.logged(run))) for run in (folder, whole))
        assert found == expected, path


@pytest.mark.deep
def test_killed_while_continuing_from_the_best_checkpoint(
    tmp_path: Path, whole: Path, stopped: Path
):
    """kill -9 at each system call after --resume --checkpoint best, then a plain --resume."""
    killed = 0
    for moment in range(0, 1000, 2):
        folder = tmp_path / f"run{moment}"
        shutil.copytree(stopped, folder)
        left = [moment]

        def act(when: str, name: str, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        def resume_best(folder: Path = folder, act: Callable[[str, str], None] = act) -> None:
            files.os = log.os = WatchedOs(act)  # type: ignore[attr-defined]
            small.resumed_trainer(folder, "best").run()

        status = in_child(resume_best)
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        killed += 1
        require_log_of_one_run(folder, whole)
        if moment % 10 == 0:
            # The first resume is killed before its first save, too, and best is tried again.
            small.resumed_trainer(folder, "last")
            require_log_of_one_run(folder, whole)
            small.resumed_trainer(folder, "best" if moment % 20 else "last").run()
            assert small.same_runs(whole, folder)
        shutil.rmtree(folder)
    assert killed > 40, "too few system calls were seen to be all of them"


def test_a_best_checkpoint_newer_than_the_last_is_continued(
    tmp_path: Path, whole: Path, stopped: Path
):
    """As a kill between the two saves of an evaluation leaves it."""
    folder = tmp_path / "run"
    trainer = small.new_trainer(folder, CONFIG)
    small.stop_after(trainer, 3)
    trainer.run()
    shutil.copy(stopped / "best.safetensors", folder)
    shutil.copy(stopped / "log.jsonl", folder)
    shutil.copytree(stopped / "samples", folder / "samples", dirs_exist_ok=True)
    step = read(folder / "best.safetensors").state["step"]
    assert load_trained(folder, "last").step == step
    small.resumed_trainer(folder)
    assert read(folder / "last.safetensors").state["step"] == step
    require_log_of_one_run(folder, whole)
    (folder / "last.safetensors").unlink()
    assert load_trained(folder, "last").step == step
    small.resumed_trainer(folder).run()
    assert small.same_runs(whole, folder)


def test_a_damaged_newer_best_is_not_continued(stopped: Path, tmp_path: Path):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    edit_state(folder / "best.safetensors", lambda state: state.update(step=19))
    data = bytearray((folder / "best.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "best.safetensors").write_bytes(data)
    assert Run(folder).saved_step("best") == 19
    assert load_trained(folder, "last").step == 18


# --- The configuration ---------------------------------------------------------------------------


def leaves(data: dict[str, Any], *path: str) -> list[tuple[str, ...]]:
    """The paths of the values in nested dicts."""
    found = []
    for name, value in data.items():
        found += leaves(value, *path, name) if isinstance(value, dict) else [(*path, name)]
    return found


MAY_CHANGE = {("training", "steps"), ("data", "name")}
FIELDS = [path for path in leaves(made.config().to_dict()) if path not in MAY_CHANGE]
OTHERS = {"precision": "bf16", "kind": "mlp", "task": "classification", "activation": "relu"}
OTHERS |= {"optimizer": "sgd", "schedule": "constant"}


@pytest.mark.parametrize("path", FIELDS, ids=".".join)
def test_every_edited_field_is_refused_by_name(tmp_path: Path, path: tuple[str, ...]):
    """Only the number of steps may grow, and the text be moved."""
    run = made.run(tmp_path)

    def change(data: Any) -> None:
        for name in path[:-1]:
            data = data[name]
        value = data[path[-1]]
        if isinstance(value, bool):
            data[path[-1]] = not value
        elif isinstance(value, str):
            data[path[-1]] = OTHERS.get(path[-1], value + "x")
        else:
            data[path[-1]] = value * 2 if value else 1

    edit(run.config_path, change)
    with pytest.raises(UserError) as error:
        run.read_checkpoint("last", run.read_config())
    sentence = str(error.value)
    if "belongs to another configuration" in sentence:
        assert f": {'.'.join(path)} is " in sentence
        assert sentence.endswith(f"; remove {run.config_path} to use the checkpoint's copy of it")
    else:
        assert sentence.startswith(f"{run.config_path} cannot be used: ")
    run.config_path.unlink()
    assert load_trained(tmp_path, "last").config == made.config()


def test_an_edited_rate_is_refused_with_both_values(run: Path, capsys: pytest.CaptureFixture[str]):
    edit(run / "config.json", lambda data: data["training"].update(lr=0.5))
    assert main(["train", "--resume", "--out", "run"]) == 2
    assert capsys.readouterr().err == (
        "byhand: run/last.safetensors belongs to another configuration than config.json beside "
        "it: training.lr is 0.6 in the checkpoint and 0.5 in config.json; remove run/config.json "
        "to use the checkpoint's copy of it\n"
    )


@pytest.mark.parametrize("content", [None, b"{"])
def test_a_lost_configuration_is_written_again(
    run: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
):
    for which in ("best", "last"):
        edit_state(
            run / f"{which}.safetensors",
            lambda state: state["config"]["data"].update(name=str(run.parent / "text.txt")),
        )
    before = Run(run).read_config()
    (run / "config.json").unlink()
    if content is not None:
        (run / "config.json").write_bytes(content)
    assert main(["train", "--resume", "--out", "run"]) == 0
    assert "config.json was missing or damaged: it is written again from last" in (
        capsys.readouterr().out
    )
    found = Run(run)
    assert found.read_config() == before
    assert found.config_source == found.config_path


# --- The text ------------------------------------------------------------------------------------


def test_a_moved_text_is_asked_for_once(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    old, new = run.parent / "text.txt", run.parent / "new place" / "text.txt"
    new.parent.mkdir()
    old.rename(new)
    start = f"byhand: the text of this run was {old}, which is not there: if it was moved, name its"
    for command, hint in (
        (["train", "--resume", "--out", "run"], "byhand train NEWPATH --resume --out run"),
        (["eval", "run"], "byhand eval run --corpus NEWPATH"),
    ):
        assert main(command) == 2
        assert capsys.readouterr().err == f"{start} place with {hint}\n"
    assert main(["train", "new place/text.txt", "--resume", "--out", "run", "--steps", "19"]) == 0
    monkeypatch.chdir(run)
    assert main(["train", "--resume", "--out", ".", "--steps", "20"]) == 0
    assert main(["eval", "."]) == 0
    assert Run(run).read_config().data.name == str(new)
    assert read(run / "last.safetensors").state["config"]["data"]["name"] == str(new)


def test_the_place_of_a_finished_runs_text_is_remembered(run: Path):
    assert main(["train", "--resume", "--out", "run"]) == 0
    Path("text.txt").rename("moved.txt")
    assert main(["train", "moved.txt", "--resume", "--out", "run"]) == 0
    assert main(["train", "--resume", "--out", "run"]) == 0
    assert main(["eval", "run"]) == 0


def test_the_documentation_of_another_python_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    run = str(tmp_path)
    monkeypatch.setattr(corpus, "_python_docs", lambda: small.text())
    monkeypatch.setattr("platform.python_version", lambda: "3.11.2")
    flags = [*small.SIZES, "--steps", "2", "--sample-tokens", "1"]
    assert main(["train", "--out", run, *flags]) == 0
    assert Run(run).read_config().data.edition == "Python 3.11.2"
    monkeypatch.setattr("platform.python_version", lambda: "3.14.0")
    longer = ["train", "--out", run, "--resume", "--steps"]
    assert main([*longer, "3"]) == 0, "another Python with the same text"
    capsys.readouterr()
    monkeypatch.setattr(corpus, "_python_docs", lambda: small.text() + " ")
    for command in ([*longer, "4"], ["eval", run]):
        assert main(command) == 2
        assert capsys.readouterr().err == (
            "byhand: python-docs of Python 3.14.0 is not the text this run began with, which is "
            "that of Python 3.11.2: use Python 3.11.2, or start a new run\n"
        )


# --- What is said when a run continues otherwise -------------------------------------------------


def continued(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """What `byhand train --resume` prints between "continuing" and the description of the run."""
    capsys.readouterr()
    assert main(["train", "--resume", "--out", "run", *flags]) == 0
    _, _, rest = capsys.readouterr().out.partition("continuing from step ")
    return rest.partition("\n")[2].partition("text: ")[0]


def test_a_rate_that_rises_is_said(run: Path, capsys: pytest.CaptureFixture[str]):
    former = CONFIG.training
    shutil.copytree(run, "again")
    assert continued(capsys) == ""
    shutil.rmtree("run")
    shutil.copytree("again", "run")
    trainer = small.resumed_trainer(run)
    before, after = trainer.schedule(17), dataclasses.replace(trainer.schedule, total=40)(18)
    assert after > before > former.min_lr
    assert continued(capsys, "--steps", "40") == (
        f"the learning rate rises from {before:.3g} to {after:.3g}: with --steps 40 it falls more "
        "slowly than it did so far\n"
    )
    end = dataclasses.replace(trainer.schedule, total=40)(39)
    assert continued(capsys, "--steps", "80").startswith(f"the learning rate rises from {end:.3g}")


def test_other_instructions_are_said(run: Path, capsys: pytest.CaptureFixture[str], stopped: Path):
    here = backend.cpu().name
    assert read(run / "last.safetensors").state["backend"] == here
    edit_state(run / "last.safetensors", lambda state: state.update(backend="cpu_neon"))
    assert continued(capsys) == (
        f"the steps up to 18 ran on cpu_neon, the next run on {here}, which rounds otherwise: the "
        "result will not be the same bits as without the change\n"
    )
    shutil.copy(stopped / "last.safetensors", run)
    (run / "config.json").write_bytes((stopped / "config.json").read_bytes())
    edit(run / "config.json", lambda d: d["data"].update(name=str(run.parent / "text.txt")))
    edit_state(run / "last.safetensors", lambda state: state.pop("backend"))
    assert continued(capsys) == "", "a checkpoint of byhand 0.1 does not say"


def test_a_checkpoint_says_which_back_end_made_it(tmp_path: Path):
    for name in backend.cpu_modules():
        with backend.use_cpu(name):
            small.new_trainer(tmp_path / name, small.config(steps=2)).run()
        assert read(tmp_path / name / "last.safetensors").state["backend"] == name


def test_parameters_frozen_after_the_checkpoint_are_named(run: Path):
    trainer = small.resumed_trainer(run)
    of = Run(run).read_config()
    frozen = text_trainer(of, small.TOKENIZER, small.text(), Run(run))
    frozen.model.freeze("decoder.tokens.*")
    frozen.optimizer = AdamW(frozen.model, lr=0.1)
    with pytest.raises(UserError, match=r"when decoder.tokens.weight was trained, and now it is"):
        frozen.restore(Run(run).read_checkpoint("last", of), "last")
    assert trainer.step == 18


# --- A disk without space ------------------------------------------------------------------------


def fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        while True:
            file.write(bytes(1024))


def test_a_disk_that_fills_up(run: Path, capsys: pytest.CaptureFixture[str], whole: Path):
    """A real file system of a few kilobytes, where the machine lets the test make one."""
    disk = run.parent / "disk"
    disk.mkdir()
    size = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    mount = f"mount -t tmpfs -o size={size // 1024 + 60}k none {disk}"
    if os.getuid() != 0 or os.system(f"{mount} 2>/dev/null") != 0:
        pytest.skip("this machine does not let the test make a small file system")
    try:
        shutil.copytree(run, disk / "run")
        saved = {p.name: p.read_bytes() for p in (disk / "run").glob("*.safetensors")}
        filler = disk / "filler"
        with pytest.raises(OSError, match="No space"):
            fill(filler)
        assert main(["train", "--resume", "--out", str(disk / "run")]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"byhand: cannot save {disk}/run/")
        assert error.endswith(
            "(No space left on device); the checkpoints saved before are unchanged: free space, "
            f"then byhand train --resume --out {disk}/run\n"
        )
        assert {p.name: p.read_bytes() for p in (disk / "run").glob("*.safetensors")} == saved
        filler.unlink()
        assert main(["train", "--resume", "--out", str(disk / "run")]) == 0
        assert small.logged(disk / "run") == small.logged(whole)
    finally:
        os.system(f"umount {disk}")


def test_a_corpus_is_found_where_it_was(tmp_path: Path):
    (tmp_path / "a.txt").write_text("some text")
    found = Corpus.of(str(tmp_path / "a.txt"), "some text")
    same, source = found.reopen(None, "command")
    assert same == found
    assert "".join(source.blocks()) == "some text"
    (tmp_path / "b.txt").write_text("some texT")
    with pytest.raises(UserError, match=r"b.txt is not the text this run began with"):
        found.reopen(str(tmp_path / "b.txt"), "command")
