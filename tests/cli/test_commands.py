"""The commands do what their help says."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import byhand
from byhand.cli.main import main
from byhand.cli.parser import _inner_commands, parser
from byhand.cli.start import training_settings
from byhand.models.gpt import PRESETS, GPTConfig
from byhand.models.preset import find
from byhand.runs import Run, TrainingSettings, load
from byhand.runs.checkpoint import read
from tests.training import small

COMMANDS = ("train", "generate", "eval", "export", "tokenizer", "demo", "info", "bench")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text and a finished run of it."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "text.txt").write_text(small.text())
    flags = [*small.SIZES, "--steps", "30", "--lr", "0.02", "--eval-every", "10"]
    assert main(["train", str(folder / "text.txt"), "--out", str(folder / "run"), *flags]) == 0
    return folder


def output(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(a) for a in arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_training_reports_what_it_does_and_the_next_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    text, run = tmp_path / "text.txt", tmp_path / "run"
    text.write_text(small.text())
    out = output(capsys, "train", text, "--out", run, "--steps", 4, *small.SIZES)
    assert f"text: {text}, 2,000 characters; 1,800 tokens to learn from, 200 to validate" in out
    sizes = "vocabulary 14, context 6, width 8, heads 2, layers 1"
    assert f"model: gpt, {sizes}: 1,048 parameters" in out
    assert "step 0 of 4: validation loss 2.6" in out
    assert "step 4 of 4: validation loss 2." in out
    assert f"byhand generate {run}" in out.splitlines()[-2]
    again = output(capsys, "train", "--resume", "--out", run)
    assert "is finished: 4 steps; a larger --steps would continue it" in again
    longer = output(capsys, "train", "--resume", "--out", run, "--steps", 6)
    assert "continuing from step 4" in longer
    assert read(run / "last.safetensors").state["step"] == 6
    assert Run(run).read_config().training.steps == 6


def test_a_run_keeps_its_precision(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    text, run = tmp_path / "text.txt", tmp_path / "run"
    text.write_text(small.text())
    command = ("train", text, "--out", run, *small.SIZES, "--precision", "bf16", "--steps", 4)
    assert ", in bf16" in output(capsys, *command)
    assert load(run).precision == "bf16"
    assert load(run, precision="float32").precision == "float32"
    assert "continuing" in output(capsys, "train", "--out", run, "--resume", "--steps", 5)
    assert main(["train", "--out", str(run), "--resume", "--precision", "float32"]) == 2
    assert "has --precision bf16, not float32" in capsys.readouterr().err
    rounded, exact = (output(capsys, "eval", run, *f) for f in ((), ("--precision", "float32")))
    losses = [float(line.split()[1]) for line in (rounded, exact)]
    assert losses[0] == pytest.approx(losses[1], abs=0.01)


def test_the_same_command_with_resume_continues(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """All flags of the first command may be repeated."""
    (tmp_path / "text.txt").write_text(small.text())
    command = ["train", str(tmp_path / "text.txt"), "--out", str(tmp_path / "run")]
    command += ["--preset", "tiny", "--seed", "3", "--eval-batches", "1", "--sample-tokens", "0"]
    sizes = ["--layers", "1", "--width", "8", "--context", "5", "--batch", "2"]
    output(capsys, *command, *sizes, "--steps", "3")
    assert "finished" in output(capsys, *command, *sizes, "--steps", "3", "--resume")
    assert "continuing" in output(capsys, *command, *sizes, "--steps", "4", "--resume")


def test_model_and_tokenizer_are_chosen_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    text, run = tmp_path / "text.txt", tmp_path / "run"
    text.write_text(small.text())
    command = ["train", text, "--out", run, *small.SIZES, "--model", "gpt", "--tokenizer", "char"]
    output(capsys, *command, "--steps", 2, "--no-tie-weights", "--num-layers", 2)
    config = Run(run).read_config()
    assert (config.kind, config.tokenizer.kind) == ("gpt", "character")
    assert (config.model.tie_weights, config.model.num_layers) == (False, 2)
    again = ["--tokenizer", "character", "--model=gpt", "--no-tie-weights", "--resume"]
    assert "continuing" in output(capsys, "train", "--out", run, *again, "--steps", 3)


def test_the_flags_of_the_model_are_those_of_its_kind():
    def flags(*arguments: str) -> set[str]:
        _, commands = parser(arguments)
        return {option for a in commands["train"]._actions for option in a.option_strings}

    assert {"--layers", "--num-layers", "--no-use-bias"} <= flags()
    assert "--vocabulary-size" not in flags()
    for chosen in (["train", "--model", "mlp"], ["train", "--model=mlp"]):
        assert "--hidden-sizes" in flags(*chosen)
        assert "--layers" not in flags(*chosen)
    assert flags("train", "--model", "gtp") == flags() == flags("train", "--model")


def test_a_moved_text_is_found_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    text, run = tmp_path / "text.txt", tmp_path / "run"
    text.write_text(small.text())
    output(capsys, "train", text, "--out", run, "--steps", 2, *small.SIZES)
    text.rename(tmp_path / "moved.txt")
    moved = tmp_path / "moved.txt"
    output(capsys, "train", moved, "--out", run, "--resume", "--steps", 3)
    assert "the validation part" in output(capsys, "eval", run, "--corpus", moved)


def test_the_default_folder_is_named_after_corpus_and_preset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    sizes = ["--layers", "1", "--width", "8", "--context", "4", "--batch", "2"]
    output(capsys, "train", "--steps", "1", "--eval-batches", "1", *sizes)
    assert (tmp_path / "runs" / "python-docs-tiny" / "best.safetensors").exists()


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_documented_sizes(name: str):
    sizes = {
        "tiny": (4, 4, 128, 64, 12),
        "guide": (6, 6, 384, 64, 64),
        "baby": (6, 6, 384, 256, 64),
        "gpt2": (12, 12, 768, 1024, 4),
    }
    p = find("gpt", name)
    c = GPTConfig(vocabulary_size=65, **p.model)
    found = (c.num_layers, c.num_heads, c.embedding_dim, c.context_size, p.training["batch_size"])
    assert found == sizes[name]
    parameters = 12 * c.num_layers * c.embedding_dim**2 + (65 + c.context_size) * c.embedding_dim
    assert float(p.about.split()[0]) * 1e6 == pytest.approx(parameters, rel=0.05)
    assert TrainingSettings(**p.training).steps == p.training["steps"]


def test_defaults_are_those_documented():
    settings = training_settings(dict(PRESETS["tiny"].training))
    assert (settings.steps, settings.batch_size, settings.accumulate) == (2000, 12, 1)
    assert (settings.lr, settings.min_lr, settings.warmup) == (1e-3, 1e-4, 100)
    assert (settings.beta1, settings.beta2, settings.weight_decay) == (0.9, 0.99, 0.1)
    assert (settings.clip, settings.val_ratio, settings.seed) == (1.0, 0.1, 0)
    assert PRESETS["guide"].training["steps"] == 5000
    assert PRESETS["guide"].training["eval_every"] == 100


def test_generate_writes_the_prompt_and_continues_it(
    finished: Path, capsys: pytest.CaptureFixture[str]
):
    command = ["generate", finished / "run", "--prompt", "to be", "--max-new-tokens", 40]
    assert main([str(part) for part in command]) == 0
    text, said = capsys.readouterr()
    assert said == (
        "byhand: where the text exceeds the context of 6 tokens, the model sees the end of it "
        "(--overflow window)\n"
    )
    command += ["--overflow", "window"]  # as asked, so nothing is said
    assert output(capsys, *command) == text
    text = output(capsys, *command)
    assert text.startswith("to be")
    assert len(text) == len("to be") + 40 + 1
    assert set(text) <= set(small.text())
    assert output(capsys, *command) == text
    assert output(capsys, *command, "--no-cache") == text
    assert output(capsys, *command, "--threads", 1) == text
    assert output(capsys, *command, "--seed", 1) != text
    greedy = output(capsys, *command, "--temperature", 0)
    assert output(capsys, *command, "--top-k", 1) == greedy
    assert len(output(capsys, "generate", finished / "run", "--tokens", 5)) == 6


def test_eval_is_the_mean_over_every_character(finished: Path, capsys: pytest.CaptureFixture[str]):
    model = load(finished / "run")
    ids = model.tokenizer.encode(small.text())[1800:]
    losses = []
    for start in range(0, len(ids) - 1, 6):
        x, y = ids[start : start + 6], ids[start + 1 : start + 7]
        logits = np.asarray(model(x[None, : len(y)])[0], np.float64)
        log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        losses += [-log_p[t, y[t]] for t in range(len(y))]
    words = output(capsys, "eval", finished / "run").split()
    assert float(words[1]) == pytest.approx(np.mean(losses), abs=1e-4)
    bits, perplexity = float(words[5].strip("(")), float(words[8].rstrip(")"))
    assert bits == pytest.approx(float(words[1]) / math.log(2), abs=1e-3)
    assert perplexity == pytest.approx(math.exp(float(words[1])), abs=1e-2)
    assert "over 199 characters: the validation part of" in " ".join(words)


def test_eval_takes_other_parts_and_texts(finished: Path, capsys: pytest.CaptureFixture[str]):
    run, other = finished / "run", finished / "other.txt"
    other.write_text("to be or not to be")
    assert "over 1,799 characters: the train part" in output(
        capsys, "eval", run, "--split", "train"
    )
    assert "over 1,999 characters: all of" in output(capsys, "eval", run, "--split", "all")
    assert "over 17 characters: all of" in output(capsys, "eval", run, "--corpus", other)
    same = [output(capsys, "eval", run, "--batch", n).split()[1] for n in (1, 7)]
    assert same[0] == same[1]
    short = output(capsys, "eval", run, "--context", 3)
    assert "context 3" in short


def test_info_prints_every_fact(capsys: pytest.CaptureFixture[str]):
    out = output(capsys, "info")
    for name, value in byhand.info().items():
        assert name.replace("_", " ") in out
        if isinstance(value, str):
            assert value in out


def test_version(capsys: pytest.CaptureFixture[str]):
    assert output(capsys, "--version") == f"byhand {byhand.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_is_explained(command: str, capsys: pytest.CaptureFixture[str]):
    assert main([command, "--help"]) == 0
    capsys.readouterr()
    own = parser()[1][command]
    for action in (a for p in (own, *_inner_commands(own).values()) for a in p._actions):
        assert action.help
        assert len(action.help) > 10


def test_no_command_prints_the_help(capsys: pytest.CaptureFixture[str]):
    out = output(capsys)
    assert "a first session:" in out
    assert set(parser()[1]) == set(COMMANDS)
    for command in COMMANDS:
        assert f"{command} " in out


def test_the_commands_load_nothing_heavy_before_they_need_it():
    code = (
        "import sys; from byhand.cli.main import main; main(['--version'])\n"
        "heavy = {'rich', 'safetensors', 'matplotlib', 'torch', 'http', 'platformdirs'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert out.stdout.splitlines()[-1] == "[]"


SLIDING = ("--overflow", "window")


def test_a_closed_pipe_is_not_an_error(finished: Path):
    process = small.command("generate", finished / "run", "--tokens", "100000", *SLIDING)
    assert len(process.stdout.read(50)) == 50  # type: ignore[union-attr]
    process.stdout.close()  # type: ignore[union-attr]
    assert process.stderr.read() == ""  # type: ignore[union-attr]
    process.wait(60)
    process.stderr.close()  # type: ignore[union-attr]
    assert process.returncode == 1


def test_a_terminal_that_lacks_a_character_shows_a_question_mark(tmp_path: Path):
    (tmp_path / "text.txt").write_text("“é”…\n" * 100)
    process = subprocess.run(
        [sys.executable, "-m", "byhand", "train", "text.txt", "--steps", "2", *small.SIZES],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert "?" in process.stdout
    sample = tmp_path / "runs" / "text-tiny" / "samples" / "step_000000.txt"
    assert set("“é”…") & set(sample.read_text())


def test_ctrl_c_while_generating_is_one_line(finished: Path):
    process = small.command("generate", finished / "run", "--tokens", "1000000", *SLIDING)
    assert len(process.stdout.read(50)) == 50  # type: ignore[union-attr]
    process.send_signal(2)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "\nbyhand: interrupted\n"
