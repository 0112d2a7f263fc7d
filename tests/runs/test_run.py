"""The run's folder: nothing is overwritten, and only a sound run is read."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from byhand.errors import UserError
from byhand.models.gpt import GPT, GPTConfig
from byhand.runs import Corpus, Run, RunConfig, load, load_trained
from byhand.runs.checkpoint import pack, read
from byhand.text import CharacterTokenizer
from tests.runs import made


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return made.run(tmp_path / "run").folder


NAMES = ["config.json", "tokenizer.json", "best.safetensors", "last.safetensors", "log.jsonl"]


@pytest.mark.parametrize("name", [*NAMES, "loss.png", "log.csv", "samples"])
def test_a_folder_with_any_part_of_a_run_is_not_new(tmp_path: Path, name: str):
    Run(tmp_path).require_new()
    (tmp_path / "notes.txt").write_text("mine")
    Run(tmp_path).require_new()
    (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=f"already holds a run .{name}.*--resume"):
        Run(tmp_path).require_new()
    with pytest.raises(UserError, match="is a file"):
        Run(tmp_path / name).require_new()


class TestConfig:
    def test_config_json_is_readable_and_complete(self, run: Path):
        data = json.loads((run / "config.json").read_text())
        assert data["format"] == 2
        assert (data["kind"], data["task"]) == ("gpt", "language_model")
        assert data["model"]["embedding_dim"] == 8
        assert data["training"]["steps"] == 4
        assert data["data"]["kind"] == "corpus"
        assert data["data"]["characters"] == len(made.TEXT)
        assert data["tokenizer"] == {"kind": "character", "sha256": made.TOKENIZER.sha256()}
        assert RunConfig.from_dict(data) == made.config()
        assert RunConfig.from_dict(data).to_dict() == data
        characters = json.loads((run / "tokenizer.json").read_text())["characters"]
        assert characters == made.TOKENIZER.characters

    def test_a_run_without_a_tokenizer(self, tmp_path: Path):
        config = RunConfig("gpt", made.config().model, made.config().training, made.config().data)
        run = Run(tmp_path)
        run.create(config)
        assert not run.tokenizer_path.exists()
        assert Run(tmp_path).read_config() == config
        assert Run(tmp_path).read_tokenizer() is None

    def test_a_run_and_its_tokenizer_are_written_together(self, tmp_path: Path):
        for tokenizer in (None, CharacterTokenizer("ab")):
            with pytest.raises(ValueError, match="the configuration names"):
                Run(tmp_path).create(made.config(), tokenizer)
        assert not (tmp_path / "config.json").exists()

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda d: d.clear(), "does not describe a run in format 2"),
            (lambda d: d.update(format=3), "does not describe a run in format 2 but in format 3"),
            (lambda d: d.update(format="2"), "does not describe a run in format 2"),
            (lambda d: d.pop("model"), "'model' is missing"),
            (lambda d: d.update(depth=3), "'depth' is unknown"),
            (lambda d: d.update(kind="gtp"), "no model of kind 'gtp' .*: choose from .*gpt"),
            (lambda d: d.update(kind="../x"), "no model of kind '../x'"),
            (lambda d: d.update(kind=["gpt"]), "no model of kind"),
            (lambda d: d.update(task=3), "no task of kind 3"),
            (lambda d: d.update(task="x"), "no task of kind 'x': choose from .*language_model"),
            (lambda d: d["model"].update(depth=3), "GPTConfig: 'depth' is unknown"),
            (lambda d: d["model"].pop("num_heads"), "GPTConfig: 'num_heads' is missing"),
            (lambda d: d["model"].update(num_heads=3), "GPTConfig: embedding_dim must be"),
            (lambda d: d["model"].update(num_heads="2"), "num_heads must be a whole number"),
            (lambda d: d.update(model=[]), "GPTConfig: its description must be a dict"),
            (lambda d: d["training"].update(steps=0), "steps must be at least 1"),
            (lambda d: d["training"].pop("seed"), "'seed' is missing"),
            (lambda d: d["data"].update(kind="radio"), "data is of an unknown kind"),
            (lambda d: d["data"].update(kind=["corpus"]), "data is of an unknown kind"),
            (lambda d: d["data"].pop("name"), "'name' is missing"),
            (lambda d: d["data"].update(characters=0), "characters must be at least 1"),
            (lambda d: d.update(data=[]), "data is of an unknown kind"),
            (lambda d: d["tokenizer"].pop("sha256"), "'sha256' is missing"),
            (lambda d: d.update(tokenizer=3), "must be a dict"),
        ],
    )
    def test_a_changed_config_is_refused(self, run: Path, change: Callable[[Any], Any], words: str):
        path = run / "config.json"
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))
        with pytest.raises(UserError, match=f"config.json cannot be used: .*{words}") as caught:
            load(run)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
    def test_a_file_that_is_not_json(self, run: Path, content: bytes):
        (run / "tokenizer.json").write_bytes(content)
        with pytest.raises(UserError, match=r"tokenizer.json is not JSON"):
            load(run)

    @pytest.mark.parametrize("content", [None, b"", b"{", b"\xff", b"[" * 100_000])
    def test_a_checkpoint_has_a_copy_of_the_configuration(self, run: Path, content: bytes | None):
        path = run / "config.json"
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        for which, damaged in (("last", ()), ("best", ("last",)), (None, ("last", "best"))):
            for name in damaged:
                (run / f"{name}.safetensors").write_bytes(b"not a checkpoint")
            if which is None:
                with pytest.raises(UserError, match=r"config.json( is not JSON|$)"):
                    Run(run).read_config()
                continue
            found = Run(run)
            assert found.read_config() == made.config()
            assert found.config_source == run / f"{which}.safetensors"
            assert found.read_tokenizer() == made.TOKENIZER
            assert load_trained(run, which).config == made.config()

    def test_a_changed_config_may_be_removed(self, run: Path):
        path = run / "config.json"
        path.write_text(path.read_text().replace('"steps": 4', '"steps": -4'))
        with pytest.raises(UserError, match=f"not -4; remove {path} to use the checkpoint's copy"):
            load(run)
        path.unlink()
        assert load_trained(run).config == made.config()

    def test_a_folder_without_a_run(self, tmp_path: Path):
        with pytest.raises(UserError, match="there is no folder"):
            load(tmp_path / "nowhere")
        with pytest.raises(UserError, match="holds no training run"):
            load(tmp_path)


class TestTokenizer:
    @pytest.mark.parametrize(
        ("data", "words"),
        [
            ({}, "does not say of which kind"),
            ([], "does not say of which kind"),
            ({"kind": "bytes"}, "no tokenizer of kind 'bytes': choose from .*character"),
            ({"kind": "tokenizer"}, "no tokenizer of kind 'tokenizer'"),
            ({"kind": "character", "characters": ""}, "at least one character"),
        ],
    )
    def test_a_wrong_tokenizer_is_refused(self, run: Path, data: Any, words: str):
        (run / "tokenizer.json").write_text(json.dumps(data))
        with pytest.raises(UserError, match=f"tokenizer.json cannot be used: .*{words}"):
            load(run)

    def test_another_tokenizer_is_refused(self, run: Path):
        other = CharacterTokenizer(made.TOKENIZER.characters[1:] + "z")
        (run / "tokenizer.json").write_text(json.dumps(other.to_dict()))
        with pytest.raises(UserError, match=r"is not the tokenizer that config.json beside it"):
            load(run)
        (run / "tokenizer.json").unlink()
        with pytest.raises(UserError, match=r"tokenizer.json is missing"):
            load(run)

    def test_more_tokens_than_the_model_has_are_refused(self, run: Path):
        data = json.loads((run / "config.json").read_text())
        data["model"]["vocabulary_size"] = 5
        (run / "config.json").write_text(json.dumps(data))
        with pytest.raises(UserError, match=r"has 15 tokens, but the model .* a vocabulary of 5"):
            load(run)


class TestLoad:
    @pytest.mark.parametrize(("which", "step"), [("best", 2), ("last", 4)])
    def test_both_checkpoints_are_read_back(self, run: Path, which: str, step: int):
        trained = load_trained(run, which)
        assert trained.step == step
        assert trained.config == made.config()
        assert isinstance(trained.model, GPT)
        assert not trained.model.training
        assert trained.model.precision == "float32"
        saved = read(run / f"{which}.safetensors")
        for name, value in trained.model.state_dict().items():
            assert value.tobytes() == saved.tensors[f"model.{name}"].tobytes()

    def test_load_gives_the_model_with_its_tokenizer(self, run: Path):
        model = load(run)
        ids = model.tokenizer.encode("to be")
        assert model.tokenizer == made.TOKENIZER
        drawn = GPT(made.config().model, seed=2).inference()
        assert model(ids[None]).tobytes() == drawn(ids[None]).tobytes()

    def test_the_precision_is_that_of_the_training_or_another(self, tmp_path: Path):
        run = made.run(tmp_path, of=made.config(precision="bf16"))
        assert load(run.folder).precision == "bf16"
        assert load(run.folder, precision="float32").precision == "float32"

    def test_a_damaged_checkpoint_is_refused_and_the_sound_one_named(self, run: Path):
        last = run / "last.safetensors"
        last.write_bytes(last.read_bytes()[:-5])
        with pytest.raises(UserError, match=r"last.safetensors is not a valid.*which=best$"):
            load(run, "last")
        load(run, "best")
        (run / "best.safetensors").unlink()
        with pytest.raises(UserError) as error:
            load(run, "last")
        assert "--checkpoint" not in str(error.value)
        last.unlink()
        with pytest.raises(UserError, match="ended before its first checkpoint: remove the folder"):
            load(run, "last")

    def test_a_checkpoint_of_another_configuration_is_refused(self, run: Path, tmp_path: Path):
        other = made.run(tmp_path / "other", of=made.config(dropout=0.25))
        os.replace(other.checkpoint_path("best"), run / "best.safetensors")
        with pytest.raises(UserError, match=r"belongs to another configuration.*which=last"):
            load(run)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda t, s: t.pop("model.head.weight"), "lacks the tensor head.weight"),
            (lambda t, s: t.update({"model.x": t["model.head.weight"]}), "has the tensor x"),
            (
                lambda t, s: t["model.head.weight"].fill(math.nan),
                "head.weight has numbers that are NaN",
            ),
            (
                lambda t, s: t["optimizer.v.decoder.norm.weight"].fill(math.inf),
                "optimizer.v.decoder.norm.weight has numbers that are NaN or infinite",
            ),
            (lambda t, s: s.pop("config"), "configuration in .* cannot be used"),
            (lambda t, s: s.update(step="3"), "does not say which step"),
        ],
    )
    def test_a_whole_file_with_other_content_is_refused(
        self, tmp_path: Path, change: Callable[[Any, Any], Any], words: str
    ):
        config = made.config()
        untied = GPTConfig.from_dict(config.model.to_dict() | {"tie_weights": False})
        config = RunConfig("gpt", untied, config.training, config.data, config.tokenizer)
        run = made.run(tmp_path, of=config)
        path = run.checkpoint_path("best")
        found = read(path)
        change(found.tensors, found.state)
        path.write_bytes(pack(found.tensors, found.state))
        with pytest.raises(UserError, match=words):
            load(tmp_path)


@pytest.mark.parametrize("folder", ["", None, 3, b"runs"])
def test_a_folder_is_a_path(folder: Any, run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(run)  # which an empty path would mean
    with pytest.raises(UserError, match="the folder of a run must be a path, not "):
        load(folder)


@pytest.mark.parametrize("which", ["newest", "../best", "", None])
def test_a_checkpoint_is_the_best_or_the_last(run: Path, which: Any):
    with pytest.raises(UserError, match=f"^which must be best or last, not {which!r}$"):
        load(run, which=which)


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


def test_a_sample_is_written_beside_the_checkpoints(run: Path):
    Run(run).save_sample(7, "écrit")
    assert (run / "samples" / "step_000007.txt").read_text(encoding="utf-8") == "écrit\n"


def test_the_text_must_be_the_same_to_the_letter():
    corpus = Corpus.of("it", "some text")
    corpus.require_same("some text")
    with pytest.raises(UserError, match=r"it is not the text .* .now 9 characters, before 9.:"):
        corpus.require_same("some texT")
