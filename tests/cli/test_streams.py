"""Closed outputs, signals and refused resources: no traceback, and nothing is lost."""

from __future__ import annotations

import io
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from byhand.cli.main import REFUSED_THREAD, main
from byhand.data.download import Download
from byhand.errors import UserError
from byhand.runs import hints
from byhand.runs.checkpoint import read
from tests.training import small

LONG = ["--steps", "1000000", "--eval-every", "500000", "--eval-batches", "1"]
PYTHON = [sys.executable, "-m", "byhand"]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(small.text())
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    (folder / "text.txt").write_text(small.text())
    command = ["train", str(folder / "text.txt"), "--out", str(folder / "run"), "--steps", "2"]
    assert main([*command, *small.SIZES]) == 0
    return folder / "run"


def run(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    options = {"capture_output": True, "text": True, "timeout": 120, "check": False, **options}
    return subprocess.run([*PYTHON, *map(str, arguments)], **options)


SHORT = [["info"], ["--help"], ["train", "--help"], ["--version"], ["eval", "RUN"]]
SHORT += [["generate", "RUN", "--max-new-tokens", "5"]]
IDS = [command[0] for command in SHORT]


@pytest.mark.parametrize("command", SHORT, ids=IDS)
def test_a_reader_that_is_gone_is_no_error(command: list[str], finished: Path):
    """`byhand info | head -0`."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        words = [str(finished) if word == "RUN" else word for word in command]
        done = run(*words, capture_output=False, stdout=writer, stderr=subprocess.PIPE)
    finally:
        os.close(writer)
    assert done.stderr == ""
    # argparse itself ignores that its help cannot be written.
    assert done.returncode == 1 or (done.returncode == 0 and "--help" in command)


@pytest.mark.parametrize("command", SHORT, ids=IDS)
@pytest.mark.parametrize("streams", [[1], [2], [0, 1, 2]])
def test_a_stream_that_was_closed_before_the_start(
    command: list[str], finished: Path, streams: list[int]
):
    """`byhand info >&-`."""
    words = [str(finished) if word == "RUN" else word for word in command]
    closed = " ".join(f"{number}>&-" for number in streams)
    script = f'"$@" {closed}'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *PYTHON, *words], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", SHORT, ids=IDS)
def test_an_output_that_is_full_is_one_sentence(command: list[str], finished: Path):
    words = [str(finished) if word == "RUN" else word for word in command]
    with open("/dev/full", "w") as full:
        done = run(*words, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    if done.returncode == 0 and "--help" in command:
        return  # argparse itself ignores that its help cannot be written
    assert (done.returncode, done.stderr) == (2, "byhand: No space left on device\n")


def test_a_mistake_with_a_closed_stderr_has_its_status(tmp_path: Path):
    done = subprocess.run(
        ["sh", "-c", '"$@" 2>&-', "sh", *PYTHON, "generate", "nowhere"],
        capture_output=True,
        cwd=tmp_path,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"")


def test_training_whose_reader_is_gone_saves_and_says_so(tmp_path: Path, corpus: Path):
    """`byhand train | head -1`."""
    process = small.command("train", corpus, *LONG, *small.SIZES, "--out", tmp_path / "run")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("text: ")
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    assert process.wait(60) == 1
    process.stderr.close()
    step = read(tmp_path / "run" / "last.safetensors").state["step"]
    assert err == (
        f"byhand: the output cannot be written ([Errno 32] Broken pipe): stopped and saved at step "
        f"{step} of 1000000; continue with: byhand train --resume --out {tmp_path / 'run'}\n"
    )


def test_training_into_a_full_file_saves(tmp_path: Path, corpus: Path):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with open("/dev/full", "w") as full:
        done = run(
            "train", corpus, *LONG, *small.SIZES, "--out", tmp_path / "run",
            capture_output=False, stdout=full, stderr=subprocess.PIPE,
        )  # fmt: skip
    assert done.returncode == 1
    assert "No space left on device): stopped and saved at step" in done.stderr
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "run" / "last.safetensors").exists()


# --- Signals -------------------------------------------------------------------------------------


def training(corpus: Path, out: Path, **options: Any) -> subprocess.Popen[str]:
    process = small.command("train", corpus, *LONG, *small.SIZES, "--out", out, **options)
    wait_for(out / "last.safetensors", process)
    return process


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs SIGHUP")
def test_a_closed_terminal_saves(tmp_path: Path, corpus: Path):
    process = training(corpus, tmp_path / "run")
    time.sleep(0.2)
    process.send_signal(signal.SIGHUP)
    status, out, err = small.finish(process)
    assert (status, err) == (129, "")
    step = read(tmp_path / "run" / "last.safetensors").state["step"]
    assert step > 0
    assert "SIGHUP: stopping as soon as this step is done\n" in out
    assert f"stopped and saved at step {step} of 1000000" in out


def test_ctrl_c_is_acknowledged_at_once(tmp_path: Path, corpus: Path):
    """In a step that takes very long; a second one ends it and keeps the checkpoint."""
    out = tmp_path / "run"
    process = small.command(
        "train", corpus, *LONG, *small.SIZES, "--accumulate", 10**12, "--out", out
    )
    wait_for(out / "last.safetensors", process)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    status, shown, err = small.finish(process)
    assert (status, err) == (130, "")
    assert (
        "SIGINT: stopping as soon as this step is done (Ctrl-C again ends at once, which" in shown
    )
    assert "loses the steps after step 0)" in shown
    assert "stopped and saved at step 0 of 1000000" in shown


def test_a_second_ctrl_c_says_what_is_kept(
    tmp_path: Path,
    corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    from byhand.training import Trainer

    plain = Trainer.train_step

    def train_step(self: Trainer) -> None:
        plain(self)
        if self.step == 7:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "train_step", train_step)
    run = tmp_path / "my run"
    sizes = [*small.SIZES, "--eval-every", "5", "--steps", "20"]
    assert main(["train", str(corpus), "--out", str(run), *sizes]) == 130
    out, err = capsys.readouterr()
    assert err == "\nbyhand: interrupted\n"
    assert (
        f"the checkpoint of step 5 is kept; continue with: byhand train --resume --out '{run}'\n"
    ) in out
    assert read(run / "last.safetensors").state["step"] == 5


def test_an_ignored_ctrl_c_stays_ignored(tmp_path: Path, corpus: Path):
    """A background job of a shell without job control ignores SIGINT."""
    process = training(
        corpus, tmp_path / "run", preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)
    )
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert small.finish(process)[0] == 143


def test_ctrl_c_while_importing_is_one_line(tmp_path: Path):
    """Wherever an import is interrupted: a module that sends the signal stands in for numpy."""
    (tmp_path / "numpy.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    paths = os.pathsep.join([str(tmp_path), *map(os.path.abspath, sys.path)])
    done = run("info", env={**os.environ, "PYTHONPATH": paths})
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "\nbyhand: interrupted\n")


def test_the_command_imports_little_before_it_can_handle_ctrl_c():
    code = (
        "import sys, byhand.cli.main\n"
        "print([m for m in ('numpy', 'argparse', 'rich', 'byhand.models') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"


def test_the_version_needs_no_models():
    code = (
        "import sys; from byhand.cli.main import main; main(['--version'])\n"
        "print([m for m in ('numpy', 'argparse', 'byhand.models') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"


# --- Refused resources ---------------------------------------------------------------------------


def large_stacks() -> None:
    """Every thread wants a stack of 1 TB, and the process may have 16 GB: none is started."""
    resource.setrlimit(resource.RLIMIT_STACK, (1 << 40, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_AS, (1 << 34, 1 << 34))


@pytest.mark.skipif(sys.platform != "linux", reason="the limits are those of Linux")
def test_a_refused_thread_is_one_sentence(tmp_path: Path, corpus: Path):
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "2"}
    command = ("train", corpus, "--out", tmp_path / "run", "--steps", 2, *small.SIZES)
    done = run(*command, env=environment, preexec_fn=large_stacks)
    assert (done.returncode, done.stderr) == (2, f"byhand: {REFUSED_THREAD}\n")
    assert not (tmp_path / "run").exists()
    # What the sentence advises works.
    done = run(*command, "--threads", 1, env=environment, preexec_fn=large_stacks)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_error_that_is_no_refusal_is_not_hidden(monkeypatch: pytest.MonkeyPatch):
    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("byhand.cli.info.run", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["info"])


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError("std::bad_alloc"), "a smaller model, --batch or --context needs less"),
        (MemoryError(), "a smaller model, --batch or --context needs less"),
        (MemoryError("Unable to allocate 7 GiB"), "Unable to allocate 7 GiB"),
    ],
)
def test_too_little_memory_is_said_in_words(
    error: MemoryError, words: str, monkeypatch: pytest.MonkeyPatch, capsys
):
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("byhand.cli.info.run", fail)
    assert main(["info"]) == 2
    assert capsys.readouterr().err == f"byhand: there is not enough memory for this: {words}\n"


def test_a_user_without_a_home_has_a_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """expanduser leaves "~" where there is no HOME and no entry for the user."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *args, **kwargs: "~/.cache/byhand")
    path = Download("Text", "http://localhost", "0" * 64, 5, "text.txt").path()
    assert path.is_absolute()
    assert path.name == "text.txt"
    assert "~" not in path.parts


# --- Hints ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["my run", "it's", "a$b", "-x", "plain"])
def test_the_commands_that_are_shown_work(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str], monkeypatch, name: str
):
    """Copied into a shell, whatever the folder is called."""
    monkeypatch.chdir(tmp_path)
    assert main(["train", "text.txt", f"--out={name}", "--steps", "2", *small.SIZES]) == 0
    hints = [line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()[-2:]]
    assert [hint.split()[:2] for hint in hints] == [["byhand", "generate"], ["byhand", "eval"]]
    assert main(["export", os.path.join(os.curdir, name), f"--out={name} exported"]) == 0
    hints.append(capsys.readouterr().out.splitlines()[-1].partition(": ")[2])
    paths = os.pathsep.join(map(os.path.abspath, sys.path))
    for hint in hints:
        script = 'byhand() { "$PYTHON" -m byhand "$@"; }\n' + hint
        done = subprocess.run(
            ["sh", "-c", script],
            env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=60,
        )
        slides = "the model sees the end of it (--overflow window)\n"
        said = done.stderr if "generate" not in hint else done.stderr.partition(slides)[2]
        assert (done.returncode, said) == (0, ""), hint


def test_a_command_is_quoted_for_the_shell_of_the_system(monkeypatch: pytest.MonkeyPatch):
    words = ("train", "--out", Path("my run"))
    assert hints.command_line(*words) == "byhand train --out 'my run'"
    monkeypatch.setattr(hints, "os", type("Windows", (), {"name": "nt"}))
    assert hints.command_line(*words) == 'byhand train --out "my run"'


# --- Prompts -------------------------------------------------------------------------------------


def standard_input(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="ascii"))


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_a_prompt_from_a_file_or_the_standard_input(
    finished: Path, tmp_path: Path, capsys, monkeypatch, end: str, bom: bytes
):
    """Line ends of Windows are newlines, as in the text of a training."""
    for ends in ("\n", "\r\n"):
        data = bom + f"to be{ends}or{end}".encode()
        (tmp_path / "prompt.txt").write_bytes(data)
        standard_input(monkeypatch, data)
        outputs = []
        for prompt in (
            ["--prompt", f"to be{ends}or"],
            ["--prompt-file", str(tmp_path / "prompt.txt")],
            ["--prompt", "-"],
        ):
            assert main(["generate", str(finished), "--max-new-tokens", "9", *prompt]) == 0
            outputs.append(capsys.readouterr().out)
        assert outputs[0].startswith("to be\nor")
        assert len(outputs[0]) == len("to be\nor") + 9 + 1
        assert outputs == outputs[:1] * 3


def test_a_vocabulary_with_carriage_returns_keeps_them():
    from byhand.cli.generate import _with_known_line_ends
    from byhand.text import CharacterTokenizer

    text = "a\r\nb\rc"
    assert _with_known_line_ends(text, CharacterTokenizer("abc\r\n")) == text
    assert _with_known_line_ends(text, CharacterTokenizer("abc\n")) == "a\nb\nc"


@pytest.mark.parametrize(("data", "words"), [(b"", "is empty"), (b"\xff", "is not UTF-8 text")])
def test_a_standard_input_without_a_prompt(finished: Path, monkeypatch, capsys, data, words):
    standard_input(monkeypatch, data)
    assert main(["generate", str(finished), "--prompt", "-"]) == 2
    err = capsys.readouterr().err
    assert "the standard input" in err
    assert words in err


def test_several_texts(finished: Path, capsys: pytest.CaptureFixture[str]):
    command = ["generate", str(finished), "--prompt", "to be", "--max-new-tokens", "20"]
    assert main(command) == 0
    one = capsys.readouterr().out
    assert main([*command, "--num-return-sequences", "3"]) == 0
    shown = capsys.readouterr().out
    first, second, third = (
        part[len(f"--- {i} of 3 ---\n") :] for i, part in enumerate(split_before(shown, "--- "), 1)
    )
    assert first == one
    assert len({first, second, third}) == 3
    assert all(text.startswith("to be") and len(text) == 26 for text in (first, second, third))
    assert main([*command, "--num-return-sequences", "3"]) == 0
    assert capsys.readouterr().out == shown


def split_before(text: str, mark: str) -> list[str]:
    starts = [
        i for i in range(len(text)) if text.startswith(mark, i) and " of 3 ---" in text[i : i + 15]
    ]
    return [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]


def test_no_command_raises_for_a_wrong_output(monkeypatch: pytest.MonkeyPatch):
    """A UserError while stderr is gone still has its status."""

    def fail(*args: object, **options: object) -> None:
        raise UserError("a mistake")

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr("byhand.cli.info.run", fail)
    monkeypatch.setattr(sys, "stderr", Gone())
    assert main(["info"]) == 2
