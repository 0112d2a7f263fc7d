"""The run's folder: nothing overwritten, nothing foreign taken for a run."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from byhand.errors import UserError
from byhand.training import Corpus, Run, RunConfig, load
from byhand.training.checkpoint import pack, read
from tests.training import small


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    small.new_trainer(folder, small.config(steps=4, eval_every=2)).run()
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, to be spoilt."""
    import shutil

    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.mark.parametrize(
    "name", ["config.json", "best.safetensors", "last.safetensors", "log.jsonl", "loss.png"]
)
def test_a_folder_with_any_part_of_a_run_is_not_new(tmp_path: Path, name: str):
    Run(tmp_path).require_new()
    (tmp_path / "notes.txt").write_text("mine")
    Run(tmp_path).require_new()
    (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=f"already holds a run .{name}.*--resume"):
        Run(tmp_path).require_new()
    with pytest.raises(UserError, match="is a file"):
        Run(tmp_path / name).require_new()


def test_config_json_is_readable_and_complete(run: Path):
    data = json.loads((run / "config.json").read_text())
    assert data["model"]["embedding_dim"] == 8
    assert data["training"]["steps"] == 4
    assert data["tokenizer"]["characters"] == "".join(sorted(set(small.text())))
    assert data["corpus"]["characters"] == len(small.text())
    assert RunConfig.from_json(data) == small.config(steps=4, eval_every=2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.clear(), "does not describe a run of this version"),
        (lambda d: d.update(format=2), "does not describe a run of this version"),
        (lambda d: d.pop("model"), "incomplete or has something unknown .*model"),
        (lambda d: d["model"].update(depth=3), "something unknown .*depth"),
        (lambda d: d["model"].pop("num_heads"), "incomplete.*num_heads"),
        (lambda d: d["model"].update(num_heads=3), "num_heads"),
        (lambda d: d["model"].update(num_heads="2"), "num_heads"),
        (lambda d: d["model"].update(vocabulary_size=5), "its model a vocabulary of 5"),
        (lambda d: d["training"].update(steps=0), "steps must be at least 1"),
        (lambda d: d["training"].pop("seed"), "'seed' is missing"),
        (lambda d: d["tokenizer"].update(kind="bytes"), "tokenizer"),
        (lambda d: d.update(corpus=[]), "incomplete or has something unknown"),
    ],
)
def test_a_spoilt_config_is_refused(run: Path, change: Callable[[Any], Any], words: str):
    path = run / "config.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=f"config.json cannot be used: .*{words}"):
        load(run)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
def test_a_config_that_is_no_json(run: Path, content: bytes):
    (run / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"config.json is not JSON"):
        load(run)


def test_no_run_at_all(tmp_path: Path):
    with pytest.raises(UserError, match="there is no folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no training run"):
        load(tmp_path)


def test_best_and_last_are_read_back(run: Path):
    for which in ("best", "last"):
        trained = load(run, which)
        saved = read(run / f"{which}.safetensors")
        assert trained.step == saved.state["step"]
        assert not trained.model.training
        for name, value in trained.model.state_dict().items():
            assert value.tobytes() == saved.tensors[f"model.{name}"].tobytes()


def test_a_damaged_checkpoint_is_refused_and_the_sound_one_offered(run: Path):
    last = run / "last.safetensors"
    last.write_bytes(last.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"last.safetensors is not a whole.*--checkpoint best$"):
        load(run, "last")
    load(run, "best")
    (run / "best.safetensors").unlink()
    with pytest.raises(UserError) as error:
        load(run, "last")
    assert "--checkpoint" not in str(error.value)
    last.unlink()
    with pytest.raises(UserError, match="ended before its first checkpoint: remove the folder"):
        load(run, "last")


def test_a_checkpoint_of_another_configuration_is_refused(run: Path, tmp_path: Path):
    other = tmp_path / "other"
    config = small.config(steps=2, dropout=0.25)
    small.new_trainer(other, config).run()
    os.replace(other / "best.safetensors", run / "best.safetensors")
    with pytest.raises(UserError, match=r"belongs to another configuration.*--checkpoint last"):
        load(run)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda t, s: t.pop("model.norm.weight"), "lacks the tensor norm.weight"),
        (lambda t, s: t.update({"model.x": t["optimizer.m"]}), "tensor x too many"),
        (lambda t, s: s.pop("config"), "configuration in .* cannot be used"),
    ],
)
def test_a_whole_file_with_other_content_is_refused(
    run: Path, spoil: Callable[[Any, Any], Any], words: str
):
    path = run / "best.safetensors"
    found = read(path)
    spoil(found.tensors, found.state)
    path.write_bytes(pack(found.tensors, found.state))
    with pytest.raises(UserError, match=words):
        load(run)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda t, s: t.pop("optimizer.v"), "lacks the tensor optimizer.v"),
        (lambda t, s: t.update({"optimizer.m": t["optimizer.m"][1:]}), "optimizer.m has shape"),
        (lambda t, s: s.pop("step"), "incomplete.* step"),
        (lambda t, s: s.update(step="three"), "incomplete.* step"),
        (lambda t, s: s.update(best_step="three"), "incomplete .*three"),
        (lambda t, s: s.pop("generator"), "incomplete .*generator"),
        (lambda t, s: s["sampler"].update(length=5), "the saved sampler drew 3 of 5"),
        (lambda t, s: s["sampler"].update(random={}), "sampler is damaged"),
        (lambda t, s: s.update(tokenizer_sha256="0"), "another tokenizer"),
    ],
)
def test_a_checkpoint_one_cannot_go_on_from_is_refused(
    run: Path, spoil: Callable[[Any, Any], Any], words: str
):
    path = run / "last.safetensors"
    found = read(path)
    spoil(found.tensors, found.state)
    path.write_bytes(pack(found.tensors, found.state))
    log = (run / "log.jsonl").read_bytes()
    with pytest.raises(UserError, match=words):
        small.resumed_trainer(run)
    assert (run / "log.jsonl").read_bytes() == log


def test_one_process_at_a_time(run: Path):
    (run / ".last.safetensors.tmp").write_bytes(b"left by a killed process")
    (run / ".notes.tmp").write_bytes(b"not ours")
    with Run(run).only_writer():
        assert not (run / ".last.safetensors.tmp").exists()
        assert (run / ".notes.tmp").exists()
        with (
            pytest.raises(UserError, match="another process is training"),
            Run(run).only_writer(),
        ):
            pytest.fail("both hold the folder")
    with Run(run).only_writer():
        pass


def test_the_text_must_be_the_same_to_the_letter():
    corpus = Corpus.of("it", "some text")
    corpus.require("some text")
    with pytest.raises(UserError, match="no longer the text this run began with"):
        corpus.require("some texT")
