"""Every mistake on the command line: one sentence on stderr, status 2, nothing overwritten."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from byhand import backend
from byhand.cli import flags
from byhand.cli.main import main
from byhand.cli.parser import parser
from byhand.runs import load_trained
from byhand.runs.checkpoint import pack, read
from tests.training import small


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    (folder / "text.txt").write_text(small.text())
    config = small.config(folder / "text.txt", steps=4, eval_every=2)
    trainer = small.new_trainer(folder / "run", config)
    small.stop_after(trainer, 3)
    trainer.run()
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a text, a run that stopped at step 3 of 4, and some bad files."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "short.txt").write_text("0123456789")
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    (tmp_path / "wide.txt").write_bytes(("to be or not" * 100).encode("utf-16-le"))
    (tmp_path / "other.txt").write_text("ÄÖÜ" * 1000)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


TRAIN = ["train", "text.txt", "--out", "new", *small.SIZES]
RESUME = ["train", "--out", "run", "--resume"]
GENERATE = ["generate", "run"]
FROM = ["train", "text.txt", "--out", "new", "--from"]

MISTAKES = [
    # the command line itself
    (["fly"], "there is no command 'fly': choose from train, generate, eval, export, tokenizer, "),
    (["trian"], "there is no command 'trian' (did you mean train?): choose from"),
    ([""], "there is no command '': choose from"),
    (["--speed"], "there is no flag --speed (see byhand --help)"),
    (["train", "text.txt", "--velocity"], "there is no flag --velocity (see byhand train --help)"),
    (
        ["train", "--bacth", "3"],
        "no flag --bacth (did you mean --batch?) (see byhand train --help)",
    ),
    (["train", "--bacth=3"], "there is no flag --bacth (did you mean --batch?)"),
    (["train", "text.txt", "--ste"], "there is no flag --ste (did you mean --steps?)"),
    (["train", "--model", "mlp", "--hidden-size", "8"], "(did you mean --hidden-sizes?)"),
    (["generate", "--promt", "x"], "there is no flag --promt (did you mean --prompt?)"),
    (["generate", "run", "extra"], "unexpected argument 'extra' (see byhand generate --help)"),
    (["generate", "run", "-n", "3"], "there is no flag -n (see byhand generate --help)"),
    (["bench", "--round", "3"], "there is no flag --round (did you mean --rounds?)"),
    (["generate"], "required: DIR"),
    # the corpus
    (["train", "nowhere.txt"], "there is no corpus or file called 'nowhere.txt'"),
    (["train", "run"], "run is a folder"),
    (["train", "empty.txt"], "the corpus empty.txt is empty"),
    (["train", "latin.txt"], "latin.txt is not UTF-8 text: byte 2 (0xef)"),
    (["train", "wide.txt"], "wide.txt is not UTF-8 text: byte 1 is 0, which no text has (it seems"),
    (["eval", "run", "--corpus", "wide.txt"], "(it seems to be UTF-16-LE); convert the file to"),
    (["train", "short.txt"], "the training part of the text has 9 tokens, and one window of"),
    ([*TRAIN, "--context", "300"], "the validation part of the text has 200 tokens"),
    # sizes and settings
    ([*TRAIN, "--preset", "huge"], "no preset called 'huge': choose from tiny, guide, baby, gpt2"),
    (
        [*TRAIN, "--model", "gtp"],
        "no model of kind 'gtp' (did you mean gpt?): choose from ",
    ),
    ([*TRAIN, "--model"], "argument --model: expected one argument"),
    (["train", "text.txt", "--model", "mlp"], "'mlp' does not learn from text: choose from "),
    ([*TRAIN, "--preset", "guied"], "called 'guied' (did you mean guide?): choose from tiny,"),
    ([*TRAIN, "--tokenizer", "wrod"], "no tokenizer of kind 'wrod' (did you mean word?): "),
    ([*TRAIN, "--tokenizer", "char:9"], "cannot have a vocabulary of 9"),
    ([*TRAIN, "--heads", "3"], "byhand: --width must be a multiple of --heads, got 8 and 3"),
    ([*TRAIN, "--layers", "0"], "argument --layers: must be at least 1, not 0"),
    ([*TRAIN, "--width", "-8"], "argument --width: must be at least 1, not -8"),
    ([*TRAIN, "--context", "0"], "argument --context: must be at least 1"),
    ([*TRAIN, "--batch", "two"], "argument --batch: must be a whole number, not 'two'"),
    ([*TRAIN, "--batch", "1.5"], "argument --batch: must be a whole number"),
    ([*TRAIN, "--steps", "0"], "argument --steps: must be at least 1"),
    ([*TRAIN, "--accumulate", "0"], "argument --accumulate: must be at least 1"),
    ([*TRAIN, "--lr", "fast"], "argument --lr: must be a number, not 'fast'"),
    ([*TRAIN, "--lr", "nan"], "argument --lr: must be a number"),
    ([*TRAIN, "--lr", "-1e-3"], "argument --lr: must be greater than 0, not -1e-3"),
    ([*TRAIN, "--lr", "-.5E2"], "argument --lr: must be greater than 0, not -.5E2"),
    ([*TRAIN, "--lr", "-inf"], "argument --lr: must be a number, not '-inf'"),
    ([*TRAIN, "--batch", "-3x"], "argument --batch: must be a whole number, not '-3x'"),
    ([*TRAIN, "--lr", "0"], "argument --lr: must be greater than 0, not 0"),
    ([*TRAIN, "--min-lr", "1"], "--min-lr must be at most --lr = 0.001, not 1.0"),
    ([*TRAIN, "--dropout", "1"], "argument --dropout: must be at least 0 and less than 1, not 1"),
    ([*TRAIN, "--beta2", "1"], "argument --beta2: must be at least 0 and less than 1"),
    ([*TRAIN, "--val-ratio", "1"], "argument --val-ratio: must be greater than 0 and less than 1"),
    ([*TRAIN, "--warmup", "50", "--steps", "9"], "--warmup must be at most --steps = 9, not 50"),
    ([*TRAIN, "--decay-every", "9"], "has no effect with --schedule cosine: it is for step_decay"),
    (
        [*TRAIN, "--schedule", "one_cycle", "--warmup", "1"],
        "--warmup has no effect with --schedule one_cycle: it is for cosine or inverse_sqrt",
    ),
    (
        [*TRAIN, "--optimizer", "adam", "--momentum", "0.5"],
        "byhand: --momentum has no effect with --optimizer adam: it is for rmsprop or sgd",
    ),
    ([*FROM, "run", "--pct-start", "0.5"], "--pct-start has no effect with --schedule cosine"),
    ([*TRAIN, "--device", "gpu"], "invalid choice: 'gpu'"),
    ([*TRAIN, "--threads", "0"], "argument --threads: must be at least 1"),
    ([*TRAIN, "--threads", "9999"], "byhand: --threads must be between 1 and 256"),
    ([*TRAIN, "--width", "80000000"], "of memory to train, and this machine has"),
    ([*TRAIN, "--width", str(2**62), "--heads", "2"], "of memory to train"),
    (["train", "text.txt", "--preset", "gpt2", "--batch", "100000"], "GB: lower --batch (with a"),
    (["bench", "--preset", "gpt2", "--batch", "10000000"], "GB: lower --batch or --context"),
    ([*TRAIN, "--context", "1801"], "take a longer text or a smaller --context"),
    # a folder that holds a run, or is a file
    (["train", "text.txt", "--out", "run"], "run already holds a run (config.json)"),
    (["train", "text.txt", "--out", "text.txt"], "text.txt is a file: a run needs a folder"),
    (["train", "text.txt", "--out", "text.txt/x", *small.SIZES], "text.txt/x: Not a directory"),
    # resuming
    (["train", "--out", "nowhere", "--resume"], "there is no folder nowhere"),
    (
        ["train", "--resume"],
        "--resume needs the folder of the run: byhand train --resume --out DIR",
    ),
    (["train", "--resume", "run"], "the folder of the run: byhand train --resume --out run"),
    (["train", "--out", ".", "--resume"], "holds no training run"),
    ([*RESUME, "--lr", "0.5"], "has --lr 0.001, not 0.5: a resumed run keeps its settings"),
    ([*RESUME, "--model", "mlp"], "does not learn from text"),
    ([*RESUME, "--tokenizer", "bpe"], "has --tokenizer character, not bpe"),
    ([*RESUME, "--no-use-bias"], "has --use-bias True, not False"),
    ([*RESUME, "--width", "16"], "has --width 8, not 16"),
    ([*RESUME, "--preset", "tiny"], "has --layers 1, not 4"),
    ([*RESUME, "--steps", "2"], "the run is at step 3 already, past --steps 2"),
    (["train", "other.txt", "--out", "run", "--resume"], "is not the text this run began with"),
    ([*RESUME, "--steps", "1"], "byhand: --warmup must be at most --steps = 1, not 2"),
    ([*RESUME, "--from", "run"], "argument --from: not allowed with argument --resume"),
    # starting from a trained model
    ([*FROM, "nowhere"], "there is no folder nowhere"),
    ([*FROM, "run", "--width", "16"], "has --width 8, not 16: --from keeps the model"),
    ([*FROM, "run", "--preset", "tiny"], "has --layers 1, not 4: --from keeps the model"),
    ([*FROM, "run", "--tokenizer", "bpe"], "has --tokenizer character, not bpe"),
    ([*FROM, "run", "--min-lr", "1"], "--min-lr must be at most --lr = 0.001, not 1.0"),
    (["train", "other.txt", "--from", "run"], "vocabulary: --from keeps the tokenizer of run"),
    # a file where a folder is meant
    (["generate", "run/best.safetensors"], "is a file: name the folder of the run, run"),
    (["eval", "run/last.safetensors"], "is a file: name the folder of the run, run"),
    ([*FROM, "run/best.safetensors"], "is a file: name the folder of the run, run"),
    (["train", "--resume", "--out", "run/config.json"], "a file: name the folder of the run, run"),
    (["export", "run/best.safetensors", "--out", "new"], "a file: name the folder of the run, run"),
    # exporting
    (["export", "run"], "the following arguments are required: --out"),
    (["export", "nowhere", "--out", "new"], "there is no folder nowhere"),
    (
        ["export", "run", "--out", "run"],
        "holds a run (config.json): name another folder with --out",
    ),
    (["export", "run", "--out", "text.txt"], "text.txt is a file: a run needs a folder"),
    # generating and evaluating
    (["generate", "nowhere"], "there is no folder nowhere"),
    (["generate", "."], "holds no training run"),
    ([*GENERATE, "--prompt", "toé"], "'é' (U+00E9) at position 2 of the text is not among the"),
    (
        [*GENERATE, "--max-new-tokens", "-1"],
        "argument --max-new-tokens: must be at least 0, not -1",
    ),
    ([*GENERATE, "--temperature", "-1"], "argument --temperature: must be at least 0, not -1"),
    ([*GENERATE, "--temperature", "inf"], "argument --temperature: must be a number"),
    ([*GENERATE, "--top-k", "-1"], "argument --top-k: must be at least 0, not -1"),
    ([*GENERATE, "--top-p", "1.5"], "argument --top-p: must be at least 0 and at most 1, not 1.5"),
    ([*GENERATE, "--top-p", "-1"], "argument --top-p: must be at least 0 and at most 1, not -1"),
    ([*GENERATE, "--overflow", "slide"], "argument --overflow: invalid choice: 'slide'"),
    (
        [*GENERATE, "--bad-words-ids", "5"],
        "argument --bad-words-ids: must be a sequence of sequences",
    ),
    ([*GENERATE, "--stop-strings", ""], "argument --stop-strings: must be a string"),
    ([*GENERATE, "--stop-strings", "[3]"], "argument --stop-strings: must be a string"),
    ([*GENERATE, "--eos-token-id", "-1"], "argument --eos-token-id: must be a"),
    ([*GENERATE, "--eos-token-id", "99"], "--eos-token-id 99 is outside the vocabulary 0.."),
    ([*GENERATE, "--no-do-sample", "--top-p", "0.5"], "--top-p=0.5 acts only with --do-sample"),
    (
        [*GENERATE, "--num-return-sequences", "2", "--no-do-sample"],
        "--num-return-sequences = 2 needs as many --num-beams, or --do-sample=True without beams",
    ),
    (
        [*GENERATE, "--overflow", "error", "--max-new-tokens", "99"],
        "and 99 new ones do not fit the context of 6",
    ),
    (
        [*GENERATE, "--max-length", "1"],
        "--max-length = 1 counts the prompt, which has 1 tokens: give --max-new-tokens",
    ),
    (
        [*GENERATE, "--prompt-file", "nowhere.txt"],
        "cannot read the prompt from nowhere.txt: No such",
    ),
    ([*GENERATE, "--prompt-file", "latin.txt"], "latin.txt is not UTF-8 text: byte 2 does not fit"),
    ([*GENERATE, "--prompt-file", "empty.txt"], "the prompt from empty.txt is empty"),
    ([*GENERATE, "--prompt", "to", "--prompt-file", "text.txt"], "not allowed with argument"),
    ([*GENERATE, "--num-return-sequences", "0"], "--num-return-sequences: must be at least 1"),
    ([*GENERATE, "--seed", "-1"], "argument --seed: must be at least 0"),
    ([*GENERATE, "--checkpoint", "worst"], "invalid choice: 'worst'"),
    (["eval", "run", "--context", "7"], "--context 7 is longer than the model's context of 6"),
    (["eval", "run", "--corpus", "other.txt"], "'Ä' (U+00C4) at position 0"),
    (["eval", "run", "--corpus", "empty.txt"], "the corpus empty.txt is empty"),
    (["bench", "--preset", "huge"], "no preset called 'huge'"),
    (["bench", "--rounds", "0"], "argument --rounds: must be at least 1"),
]


@pytest.mark.parametrize(
    ("arguments", "words"), MISTAKES, ids=[" ".join(a)[-60:] for a, _ in MISTAKES]
)
def test_a_mistake_is_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
):
    before = snapshot(folder)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert err.startswith("byhand: ")
    assert err.count("\n") == 1
    assert words in err
    assert "Traceback" not in out + err
    after = snapshot(folder)
    after.pop(folder / "run" / ".lock", None)
    assert after == before
    assert not (folder / "new").exists()


def flags_that_take(kind: str) -> list[tuple[str, str]]:
    """(command, flag) of every flag and argument that takes a text, or of those for integers."""
    found = []
    for name, command in parser()[1].items():
        for action in command._actions:
            is_text = action.type is flags.text
            if action.dest in ("stop_strings", "regex"):  # almost any text is right
                continue
            takes_no_value = action.nargs == 0 or action.choices is not None
            if (is_text if kind == "text" else not is_text) and not takes_no_value:
                found.append((name, action.option_strings[0] if action.option_strings else ""))
    return found


@pytest.mark.parametrize(("command", "flag"), flags_that_take("text"))
def test_an_empty_text_is_not_the_default(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str, flag: str
):
    """As from a shell variable that is not set."""
    before = snapshot(folder)
    needed = {"generate": ["run"], "eval": ["run"], "export": ["run"]}.get(command, [])
    for arguments in ([flag, ""], [f"{flag}="]) if flag else ([""],):
        assert main([command, *(needed if flag else []), *arguments]) == 2
        err = capsys.readouterr().err
        assert f"argument {flag}" in err
        assert "must not be empty (is a shell variable not set?)" in err
        assert err.count("\n") == 1
    assert snapshot(folder) == before


def test_every_flag_with_a_value_checks_it():
    """No flag takes any text whatever: it has choices, a check, or refuses an empty text."""
    for command in parser()[1].values():
        for action in command._actions:
            if action.nargs != 0 and action.choices is None:
                assert action.type is not None, action


@pytest.mark.parametrize(("command", "flag"), flags_that_take("number"))
@pytest.mark.parametrize("value", ["2.5x", "1e", "", "½", "0x10", "three"])
def test_a_value_that_is_no_number_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str, flag: str, value: str
):
    assert (
        main([command, "run", flag, value] if command != "bench" else [command, flag, value]) == 2
    )
    err = capsys.readouterr().err
    assert f"argument {flag}: must be " in err
    assert err.count("\n") == 1


INTEGERS = ["--top-k", "--max-new-tokens", "--seed", "--num-return-sequences", "--threads"]


@pytest.mark.parametrize("flag", INTEGERS)
@pytest.mark.parametrize("value", ["2.5", "1e3", "3.0"])
def test_a_fraction_where_an_integer_is_needed(
    folder: Path, capsys: pytest.CaptureFixture[str], flag: str, value: str
):
    assert main([*GENERATE, flag, value]) == 2
    assert f"argument {flag}: must be a whole number, not '{value}'" in capsys.readouterr().err


def test_a_value_that_looks_like_a_flag_is_a_value(folder: Path):
    """Text with a space, as in --prompt "--to be"."""
    for arguments in (["--prompt", "--to be"], ["--prompt=--to"]):
        assert main([*GENERATE, *arguments]) == 2  # "-" is not in the vocabulary
    (folder / "text.txt").write_text("--to be or not" * 200)
    assert main([*TRAIN, "--steps", "1"]) == 0
    for arguments in (["--prompt", "--to be"], ["--prompt=--to"]):
        assert main(["generate", "new", *arguments]) == 0


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)


def of_a_deeper_model(path: Path) -> None:
    found = read(path)
    found.state["config"]["model"]["num_layers"] = 2
    path.write_bytes(pack(found.tensors, found.state))


def without_numbers(path: Path) -> None:
    found = read(path)
    found.tensors["model.decoder.norm.weight"][1] = float("nan")
    path.write_bytes(pack(found.tensors, found.state))


DAMAGED = [
    (without_numbers, "cannot be used: decoder.norm.weight has numbers that are NaN or infinite"),
    (cut, "truncated or in another format"),
    (flip, "is damaged"),
    (lambda path: path.write_text("my shopping list"), "truncated or in another format"),
    (of_a_deeper_model, "belongs to another configuration than config.json"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGED)
@pytest.mark.parametrize(
    "arguments", [GENERATE, ["eval", "run"], RESUME, ["export", "run", "--out", "x"]], ids="-".join
)
def test_a_damaged_checkpoint_is_one_sentence(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    damage: Callable[[Path], None],
    words: str,
):
    which = "last" if arguments is RESUME else "best"
    damage(folder / "run" / f"{which}.safetensors")
    before = snapshot(folder)
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("byhand: ")
    assert f"run/{which}.safetensors" in err
    assert err.count("\n") == 1
    assert words in err
    other = "best" if which == "last" else "last"
    assert err.endswith(f"{other}.safetensors is sound: use it with --checkpoint {other}\n")
    after = snapshot(folder)
    after.pop(folder / "run" / ".lock", None)
    assert after == before
    # The command that the message names works.
    assert main([*arguments, "--checkpoint", other]) == 0


def test_the_corpus_changed_under_the_run(folder: Path, capsys: pytest.CaptureFixture[str]):
    config = (folder / "run" / "config.json").read_text()
    moved = config.replace(str(Path(corpus_name(config))), str(folder / "text.txt"))
    (folder / "run" / "config.json").write_text(moved)
    (folder / "text.txt").write_text(small.text() + "x")
    for arguments in (RESUME, ["eval", "run"]):
        assert main(arguments) == 2
        assert "is not the text this run began with" in capsys.readouterr().err


def corpus_name(config: str) -> str:
    import json

    return json.loads(config)["data"]["name"]


def test_no_network(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    from byhand.data.download import Download

    def no_network(self: Download, timeout: float) -> bytes:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *a, **k: str(folder / "cache"))
    monkeypatch.setattr(Download, "_download", no_network)
    assert main(["train", "shakespeare", "--out", "new"]) == 2
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert "Network is unreachable" in sentence
    assert "python-docs" in sentence
    assert "any UTF-8 text file" in sentence
    assert not (folder / "new").exists()


def test_a_folder_without_write_permission(folder: Path, capsys: pytest.CaptureFixture[str]):
    def denied(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(folder / "new"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "mkdir", denied)
        assert main(TRAIN) == 2
    assert capsys.readouterr().err.endswith(f"byhand: {folder}/new: Permission denied\n")


NUMERIC = [
    (name, action.option_strings[0])
    for name, command in parser()[1].items()
    for action in command._actions
    if action.option_strings and action.metavar in ("N", "N,N,...")
    if action.dest != "length_penalty"  # which may be negative
]


@pytest.mark.parametrize(("command", "flag"), NUMERIC, ids=" ".join)
def test_a_negative_number_is_a_value_and_no_flag(
    command: str, flag: str, capsys: pytest.CaptureFixture[str]
):
    for value in ("-1e-3", "-2E+5", "-.5", "-inf"):
        assert main([command, flag, value]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"byhand: argument {flag}: must be "), err
        assert value in err


def test_a_back_end_that_does_not_exist(folder: Path):
    """In a process of its own: the sentence, and no traceback."""
    process = subprocess.run(
        [sys.executable, "-m", "byhand", "generate", "run"],
        env={**__import__("os").environ, "BYHAND_CPU": "abacus"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 2
    assert process.stderr.startswith("byhand: BYHAND_CPU asks for cpu_abacus")
    assert process.stderr.count("\n") == 1


def test_the_run_used_here_is_sound(original: Path):
    assert load_trained(original / "run", "last").step == 3


@pytest.mark.parametrize("command", [TRAIN, RESUME, GENERATE, ["eval", "run"]])
def test_no_gpu(
    command: list[str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(backend, "cuda_reason", lambda: "no CUDA device was found")
    before = snapshot(folder)
    assert main([*command, "--device", "cuda"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "byhand: --device cuda cannot be used: no CUDA device was found\n"
    assert snapshot(folder) == before
