"""Every flag of the commands that train, generate and evaluate reaches its consumer."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from byhand import backend
from byhand.cli.main import main
from byhand.cli.parser import parser
from byhand.data import TextSource, consecutive_windows, split
from byhand.generation import generate
from byhand.models import gpt
from byhand.runs import Corpus, Run, RunConfig, TrainingSettings, load
from byhand.runs.checkpoint import read
from byhand.runs.settings import USED_WITH
from tests.training import small

# --- byhand train ------------------------------------------------------------------------------

SIZES = {"context": 6, "width": 8, "heads": 2, "layers": 1, "batch": 3}


class Built(Exception):
    """Raised instead of training, with what the trainer would have been built from."""

    def __init__(self, config: RunConfig, run: Run, device: str, recompute: bool):
        self.config, self.run, self.device, self.recompute = config, run, device, recompute


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Built]:
    """What `byhand train TEXT ...` builds its trainer from."""

    def text_trainer(
        config: RunConfig,
        tokenizer: Any,
        text: TextSource,
        run: Run,
        display: Any,
        device: str,
        recompute: bool,
    ) -> Any:
        assert "".join(text.blocks()) == small.text()
        assert tokenizer.characters == small.TOKENIZER.characters
        raise Built(config, run, device, recompute)

    (tmp_path / "text.txt").write_text(small.text())
    monkeypatch.setattr("byhand.training.setup.text_trainer", text_trainer)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Built:
        with pytest.raises(Built) as caught:
            main(["train", *map(str, arguments)])
        return caught.value

    return call


def flags_of(command: str) -> set[str]:
    """The first name of each option of a command, and the names of its positional arguments."""
    actions = parser()[1][command]._actions
    names = {(action.option_strings or [action.dest])[0] for action in actions}
    return names - {"-h"}


# Each flag of a field: the field, a value, and the value that the field then has.
OF_SETTINGS: dict[str, tuple[str, str, Any]] = {
    "--steps": ("steps", "17", 17),
    "--batch": ("batch_size", "5", 5),
    "--accumulate": ("accumulate", "4", 4),
    "--lr": ("lr", "0.25", 0.25),
    "--min-lr": ("min_lr", "0.0005", 0.0005),
    "--warmup": ("warmup", "7", 7),
    "--schedule": ("schedule", "constant", "constant"),
    "--decay-every": ("decay_every", "9", 9),
    "--decay-factor": ("decay_factor", "0.5", 0.5),
    "--pct-start": ("pct_start", "0.25", 0.25),
    "--div-factor": ("div_factor", "10", 10.0),
    "--final-div-factor": ("final_div_factor", "1e3", 1e3),
    "--optimizer": ("optimizer", "sgd", "sgd"),
    "--momentum": ("momentum", "0.25", 0.25),
    "--beta1": ("beta1", "0.75", 0.75),
    "--beta2": ("beta2", "0.625", 0.625),
    "--weight-decay": ("weight_decay", "0.375", 0.375),
    "--clip": ("clip", "0", 0.0),
    "--eval-every": ("eval_every", "3", 3),
    "--eval-batches": ("eval_batches", "11", 11),
    "--sample-tokens": ("sample_tokens", "0", 0),
    "--val-ratio": ("val_ratio", "0.3", 0.3),
    "--seed": ("seed", "8", 8),
    "--precision": ("precision", "bf16", "bf16"),
}
OF_THE_MODEL: dict[str, tuple[str, str, Any]] = {
    "--context": ("context_size", "9", 9),
    "--width": ("embedding_dim", "12", 12),
    "--heads": ("num_heads", "4", 4),
    "--layers": ("num_layers", "3", 3),
    "--dropout": ("dropout", "0.5", 0.5),
    "--use-bias": ("use_bias", "", True),
    "--tie-weights": ("tie_weights", "", True),
    "--norm": ("norm", "post", "post"),
    "--positions": ("positions", "sinusoidal", "sinusoidal"),
    "--attention": ("attention", "linear", "linear"),
}
# Each has a test below, and --from in tests/cli/test_from_and_export.py.
OTHERS = {
    "corpus",
    "--out",
    "--resume",
    "--from",
    "--checkpoint",
    "--device",
    "--threads",
    "--model",
    "--preset",
    "--tokenizer",
    "--recompute",
}


def test_every_flag_of_train_has_a_test():
    assert flags_of("train") == OF_SETTINGS.keys() | OF_THE_MODEL.keys() | OTHERS
    fields = {field.name for field in dataclasses.fields(TrainingSettings)}
    assert {name for name, _, _ in OF_SETTINGS.values()} == fields
    fields = {field.name for field in dataclasses.fields(gpt.GPTConfig)} - {"vocabulary_size"}
    assert {name for name, _, _ in OF_THE_MODEL.values()} == fields


@pytest.mark.parametrize("flag", OF_SETTINGS)
def test_a_flag_of_the_training_sets_its_field_only(flag: str, built: Callable[..., Built]):
    name, text, value = OF_SETTINGS[flag]
    usual = ["text.txt"]
    if name in USED_WITH:
        by, values = USED_WITH[name]
        usual += [f"--{by}", values[-1]]
    before, after = built(*usual), built(*usual, flag, text)
    changed = {name: value}
    if flag == "--lr":  # the default is a tenth of it
        changed["min_lr"] = value / 10
    if flag == "--steps":  # the default is a tenth of it
        changed["warmup"] = 1
    assert getattr(before.config.training, name) != value
    assert after.config.training == before.config.training.replace(**changed)
    assert after.config.model == before.config.model


@pytest.mark.parametrize("flag", OF_THE_MODEL)
def test_a_flag_of_the_model_sets_its_field_only(flag: str, built: Callable[..., Built]):
    name, text, value = OF_THE_MODEL[flag]
    usual = ["text.txt", *small.SIZES]
    if value is True:
        before = built(*usual, flag.replace("--", "--no-"))
        assert getattr(before.config.model, name) is False
        after = built(*usual, flag)
        assert built(*usual).config == after.config
    else:
        before, after = built(*usual), built(*usual, flag, text)
    assert getattr(before.config.model, name) != value
    assert after.config.model == before.config.model.replace(**{name: value})
    assert after.config.training == before.config.training


@pytest.mark.parametrize(
    ("steps", "warmup"), [(1, 0), (9, 0), (10, 1), (999, 99), (1000, 100), (1500, 100)]
)
def test_the_default_warm_up_is_a_tenth_of_the_steps_up_to_100(
    steps: int, warmup: int, built: Callable[..., Built]
):
    assert built("text.txt", "--steps", steps).config.training.warmup == warmup


@pytest.mark.parametrize("preset", gpt.PRESETS)
def test_a_preset_sets_its_fields_and_flags_override_it(preset: str, built: Callable[..., Built]):
    chosen = gpt.PRESETS[preset]
    config = built("text.txt", "--preset", preset).config
    usual = TrainingSettings(min_lr=chosen.training["lr"] / 10, **chosen.training)
    assert config.training == usual
    assert config.model == gpt.GPTConfig(len(small.TOKENIZER), **chosen.model)
    one = built("text.txt", "--preset", preset, "--eval-every", 77, "--layers", 5).config
    assert one.training == usual.replace(eval_every=77)
    assert one.model == config.model.replace(num_layers=5)


@pytest.mark.parametrize("preset", gpt.PRESETS)
def test_a_preset_is_as_large_as_it_says(preset: str):
    """Counted for 65 tokens, from the shapes: 12 C^2 + 13 C in a block, tables, and a norm."""
    chosen = gpt.PRESETS[preset]
    C, T, L = (chosen.model[n] for n in ("embedding_dim", "context_size", "num_layers"))
    count = L * (12 * C * C + 13 * C) + (65 + T) * C + 2 * C
    said = float(chosen.about.split()[0]) * 1e6
    assert count == pytest.approx(said, rel=0.03)


def test_the_run_the_corpus_and_the_tokenizer_are_described(
    tmp_path: Path, built: Callable[..., Built]
):
    found = built("text.txt")
    assert found.run.folder == Path("runs/text-tiny")
    assert found.config.data.name == str(tmp_path / "text.txt")
    assert found.config.data == Corpus.of(found.config.data.name, small.text())
    assert found.config.tokenizer == small.TokenizerId.of(small.TOKENIZER)
    assert (found.config.kind, found.config.task) == ("gpt", "language_model")
    assert built("text.txt", "--out", "elsewhere").run.folder == Path("elsewhere")
    assert built("text.txt", "--preset", "baby").run.folder == Path("runs/text-baby")
    assert built("text.txt", "--model", "gpt", "--tokenizer", "char").config == found.config


def test_recompute_and_the_device_are_passed_on(
    built: Callable[..., Built], monkeypatch: pytest.MonkeyPatch
):
    found = built("text.txt")
    assert (found.device, found.recompute) == ("cpu", False)
    assert built("text.txt", "--recompute").recompute is True
    needed: list[tuple[Any, ...]] = []

    def require_memory(model: Any, tokens: int, **options: Any) -> None:
        assert "--batch" in options["advice"]
        needed.append((tokens, options["device"], options["recompute"], options["half"]))

    monkeypatch.setattr(backend, "cuda_reason", lambda: "")
    monkeypatch.setattr("byhand.cli.start.require_memory", require_memory)
    assert built("text.txt", "--device", "cuda").device == "cuda"
    built("text.txt", "--batch", 5, "--context", 7, "--recompute", "--precision", "bf16")
    built("text.txt", "--device", "cuda", "--precision", "bf16")
    assert needed == [
        (12 * 64, "cuda", False, False),
        (5 * 7, "cpu", True, False),
        (12 * 64, "cuda", False, True),
    ]


@pytest.fixture
def threads() -> Any:
    before = backend.get_num_threads()
    yield
    backend.set_num_threads(before)


def test_threads_are_set(built: Callable[..., Built], threads: None):
    for count in (2, 1, 3):
        built("text.txt", "--threads", count)
        assert backend.get_num_threads() == count


def test_resume_continues_the_checkpoint_that_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "run"
    finished = small.new_trainer(run, small.config(tmp_path / "text.txt", steps=4, eval_every=2))
    (tmp_path / "text.txt").write_text(small.text())
    finished.best_loss = -math.inf  # of the steps none is better, so "best" is written by hand
    finished.run()
    of = small.config(tmp_path / "text.txt", steps=4, eval_every=2)
    at_two = small.new_trainer(tmp_path / "two", of)
    for _ in range(2):
        at_two.train_step()
    at_two.save("best")
    (tmp_path / "two" / "best.safetensors").replace(run / "best.safetensors")
    for name, step in (("", 4), ("best", 2), ("last", 4)):
        copied = tmp_path / f"copy {name}"
        shutil.copytree(run, copied)
        flags = ["--checkpoint", name] if name else []
        assert main(["train", "--resume", "--out", str(copied), "--steps", "6", *flags]) == 0
        assert f"continuing from step {step}" in capsys.readouterr().out
        assert read(copied / "last.safetensors").state["step"] == 6


# --- byhand generate and byhand eval -----------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose two checkpoints have different weights and steps."""
    folder = tmp_path_factory.mktemp("trained")
    text = folder / "text.txt"
    text.write_text(small.text())
    (folder / "prompt.txt").write_text("that is")
    (folder / "other.txt").write_text(small.text(700)[300:])
    run = folder / "run"
    of = small.config(text, steps=12, lr=0.05, eval_every=100, val_ratio=0.25)
    trainer = small.new_trainer(run, of)
    trainer.run()
    for p in trainer.model.parameters():
        p.value = p.value * 1.5
    trainer.step = 11
    trainer.save("best")
    return folder


GREEDY: dict[str, Any] = {"do_sample": False, "temperature": 1.0}
BEAMS = {**GREEDY, "num_beams": 3}
GENERATE: dict[str, tuple[list[str], dict[str, Any]]] = {
    "run_folder": ([], {}),
    "--prompt": (["--prompt", "to be"], {"prompt": "to be"}),
    "--prompt-file": (["--prompt-file", "prompt.txt"], {"prompt": "that is"}),
    "--num-return-sequences": (["--num-return-sequences", "2"], {"count": 2}),
    "--max-length": (["--max-length", "35"], {"max_length": 35, "max_new_tokens": None}),
    "--max-new-tokens": (["--max-new-tokens", "41"], {"max_new_tokens": 41}),
    "--min-new-tokens": (
        ["--min-new-tokens", "30", "--eos-token-id", "0,1,2,3"],
        {"min_new_tokens": 30, "eos_token_id": (0, 1, 2, 3)},
    ),
    "--do-sample": (["--no-do-sample"], {"do_sample": False, "temperature": 1.0}),
    "--temperature": (["--temperature", "2.5"], {"temperature": 2.5}),
    "--top-k": (["--top-k", "2"], {"top_k": 2}),
    "--top-p": (["--top-p", "0.9"], {"top_p": 0.9}),
    "--min-p": (["--min-p", "0.05"], {"min_p": 0.05}),
    "--typical-p": (["--typical-p", "0.2"], {"typical_p": 0.2}),
    "--repetition-penalty": (["--repetition-penalty", "3"], {"repetition_penalty": 3.0}),
    "--no-repeat-ngram-size": (["--no-repeat-ngram-size", "4"], {"no_repeat_ngram_size": 4}),
    "--eos-token-id": (["--eos-token-id", "0,1,2,3"], {"eos_token_id": (0, 1, 2, 3)}),
    "--pad-token-id": (["--pad-token-id", "3"], {"pad_token_id": 3}),
    "--bad-words-ids": (["--bad-words-ids", "[[0], [2, 3]]"], {"bad_words_ids": [[0], [2, 3]]}),
    "--stop-strings": (["--stop-strings", '["x", "nn"]'], {"stop_strings": ["x", "nn"]}),
    "--regex": (["--regex", "[a-t ]{3,9}"], {"regex": "[a-t ]{3,9}"}),
    "--json-schema": (
        ["--json-schema", '{"type": "boolean"}'],
        {"json_schema": {"type": "boolean"}},
    ),
    "--num-beams": (["--num-beams", "3"], BEAMS),
    "--length-penalty": (
        ["--num-beams", "3", "--length-penalty", "-2", "--eos-token-id", "0,1,2,3"],
        {**BEAMS, "length_penalty": -2.0, "eos_token_id": (0, 1, 2, 3)},
    ),
    "--early-stopping": (
        ["--num-beams", "3", "--early-stopping", "true", "--eos-token-id", "0,1,2,3"],
        {**BEAMS, "early_stopping": True, "eos_token_id": (0, 1, 2, 3)},
    ),
    "--num-beam-groups": (
        ["--num-beams", "3", "--num-beam-groups", "3", "--diversity-penalty", "2"],
        {**BEAMS, "num_beam_groups": 3, "diversity_penalty": 2.0},
    ),
    "--diversity-penalty": (
        ["--num-beams", "4", "--num-beam-groups", "2", "--diversity-penalty", "0.5"],
        {**BEAMS, "num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    ),
    "--penalty-alpha": (
        ["--penalty-alpha", "0.6", "--top-k", "4"],
        {**GREEDY, "penalty_alpha": 0.6, "top_k": 4},
    ),
    "--prompt-lookup-num-tokens": (
        ["--prompt-lookup-num-tokens", "3"],
        {"prompt_lookup_num_tokens": 3},
    ),
    "--max-matching-ngram-size": (
        ["--prompt-lookup-num-tokens", "3", "--max-matching-ngram-size", "1"],
        {"prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 1},
    ),
    "--seed": (["--seed", "6"], {"seed": 6}),
    "--overflow": (["--overflow", "truncate"], {"overflow": "truncate"}),
    "--use-cache": (["--no-use-cache"], {"use_cache": False}),
    "--tokens": (["--tokens", "42"], {"max_new_tokens": 42}),
    "--no-cache": (["--no-cache"], {"use_cache": False}),
    "--checkpoint": (["--checkpoint", "last"], {"which": "last"}),
    "--precision": (["--precision", "bf16"], {"precision": "bf16"}),
    "--device": (["--device", "cpu"], {}),
    "--threads": (["--threads", "1"], {}),
}
GENERATED = {
    "prompt": "",
    "max_new_tokens": 300,
    "do_sample": True,
    "temperature": 0.8,
    "overflow": "window",
}
LOADED = {"which": "best", "precision": "float32"}
SAME_TEXT = ("--no-cache", "--no-use-cache", "--precision", "--pad-token-id")
SAME_TEXT += ("--prompt-lookup-num-tokens",)
# After so short a training every search finds the text of greedy decoding.
SAME_TEXT += ("--num-beams", "--penalty-alpha")


def test_every_flag_of_generate_has_a_test():
    assert flags_of("generate") == GENERATE.keys()


@pytest.mark.parametrize("flag", GENERATE)
def test_a_flag_of_generate_changes_the_text_as_the_function_does(
    flag: str,
    trained: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    threads: None,
):
    made: dict[str, list[Any]] = {"cache": [], "precision": []}
    plain = gpt.GPT.new_cache

    def new_cache(model: gpt.GPT, batch_size: int = 1) -> Any:
        made["cache"].append(True)
        return plain(model, batch_size)

    monkeypatch.setattr(gpt.GPT, "new_cache", new_cache)
    arguments, changes = GENERATE[flag]
    monkeypatch.chdir(trained)
    assert main(["generate", "run", *arguments]) == 0
    shown = capsys.readouterr().out
    assert bool(made["cache"]) == changes.get("use_cache", True)
    options = {**GENERATED, **LOADED, **changes}
    model = load(trained / "run", options.pop("which"), options.pop("precision"))
    prompt, count = options.pop("prompt"), options.pop("count", 1)
    tokenizer = model.tokenizer
    wanted = ""
    for number in range(count):
        wanted += f"--- {number + 1} of {count} ---\n" if count > 1 else ""
        ids = tokenizer.encode(prompt or "\n")
        texts = generate(model, ids, num_return_sequences=count, **options)
        wanted += prompt + tokenizer.decode(texts[number, len(ids) :]) + "\n"
    assert shown == wanted


def test_the_generated_texts_differ(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """What is compared above would notice a flag that is not used."""
    monkeypatch.chdir(trained)
    texts = set()
    flags = [arguments for arguments, changes in GENERATE.values() if changes]
    for arguments in [[], *(a for a in flags if a[0] not in SAME_TEXT)]:
        assert main(["generate", "run", *arguments]) == 0
        texts.add(capsys.readouterr().out)
    assert len(texts) == 1 + sum(a[0] not in SAME_TEXT for a in flags)


EVAL: dict[str, list[list[str]]] = {
    "run_folder": [[]],
    "--corpus": [["--corpus", "other.txt"]],
    "--split": [["--split", "train"], ["--split", "all"], ["--split", "validation"]],
    "--context": [["--context", "4"]],
    "--batch": [["--batch", "7"]],
    "--checkpoint": [["--checkpoint", "last"]],
    "--precision": [["--precision", "bf16"]],
    "--device": [["--device", "cpu"]],
    "--threads": [["--threads", "1"]],
}


def test_every_flag_of_eval_has_a_test():
    assert flags_of("eval") == EVAL.keys()


@pytest.mark.parametrize("arguments", [a for rows in EVAL.values() for a in rows], ids=" ".join)
def test_a_flag_of_eval_changes_the_measurement_as_its_help_says(
    arguments: list[str],
    trained: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    threads: None,
):
    monkeypatch.chdir(trained)
    sizes: list[int] = []
    plain = gpt.GPT.loss

    def loss(model: gpt.GPT, ids: Any, targets: Any, scale: Any = None) -> Any:
        sizes.append(len(ids))
        return plain(model, ids, targets, scale)

    monkeypatch.setattr(gpt.GPT, "loss", loss)
    assert main(["eval", "run", *arguments]) == 0
    out = capsys.readouterr().out
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    model = load("run", given.get("--checkpoint", "best"), given.get("--precision"))
    text = Path(given.get("--corpus", "text.txt")).read_text()
    ids = model.tokenizer.encode(text)
    part = given.get("--split", "all" if "--corpus" in given else "validation")
    if part != "all":
        ids = split(ids, 0.25)[part == "validation"]
    context, batch = int(given.get("--context", 6)), int(given.get("--batch", 32))
    total = 0.0
    batches = list(consecutive_windows(ids, context, batch))
    assert sizes == [len(made["ids"]) for made in batches]
    for made in batches:
        total += float(plain(model, made["ids"], made["targets"], 1.0))
    mean = total / (len(ids) - 1)
    assert out.startswith(f"loss {mean:.4f} nats per character ({mean / math.log(2):.4f} bits, ")
    assert f"perplexity {math.exp(mean):.2f}) over {len(ids) - 1:,} characters: " in out
    assert out.rstrip().endswith(f"context {context}")
    assert f"step {12 if '--checkpoint' in given else 11}," in out
