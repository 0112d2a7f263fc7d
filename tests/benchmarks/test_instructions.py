"""Counting instructions: how a profile is read, and that every call is made, without valgrind."""

from __future__ import annotations

import json
import os
import stat
import sys

import pytest

from bench import instructions
from byhand import backend

# Two object files, calls within and between them, and positions relative to the line before.
PROFILE = """\
version: 1
positions: line
events: Ir
ob=/site-packages/byhand/_cpu_avx2.cpython-311-x86_64-linux-gnu.so
fl=norm.cpp
fn=row
10 100
+1 20
cfn=exp
calls=3 40
* 5000
fn=exp
40 7
ob=/usr/lib/libc.so.6
fn=memcpy
0 900
cob=/site-packages/byhand/_cpu_avx2.cpython-311-x86_64-linux-gnu.so
cfn=row
calls=1 10
0 120
ob=/site-packages/byhand/_cpu_avx2.cpython-311-x86_64-linux-gnu.so
fn=last
-3 1000
totals: 6000
"""


def test_instructions_of_the_module_alone_are_summed():
    assert instructions.instructions(PROFILE) == 100 + 20 + 7 + 1000
    assert instructions.instructions(PROFILE, "libc.") == 900


@pytest.fixture
def valgrind(tmp_path, monkeypatch):
    """A program of that name: it runs the command, and counts 10, 20, ... between its marks."""
    if "cpu_avx2" not in backend.cpu_modules():
        pytest.skip("this machine has no AVX2")

    def use(spare: int = 0) -> None:
        program = tmp_path / "valgrind"
        program.write_text(
            f"""#!{sys.executable}
import json, subprocess, sys
from pathlib import Path

out = next(a.partition("=")[2] for a in sys.argv if a.startswith("--callgrind-out-file="))
command = sys.argv[max(i for i, a in enumerate(sys.argv) if a == {sys.executable!r}) :]
done = subprocess.run(command, capture_output=True, text=True)
sys.stdout.write(done.stdout)
sys.stderr.write(done.stderr)
if done.returncode == 0:
    ends = 2 * len(json.loads(done.stdout)) + {spare}
    for i in range(1, ends + 1):
        profile = f"ob=_cpu_avx2.so\\nfn=f\\n0 {{5 * i}}\\n"
        Path(f"{{out}}.{{i}}").write_text(profile)
    Path(out).write_text("the rest")
sys.exit(done.returncode)
"""
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    return use


def test_every_kernel_is_called_and_has_its_own_count(valgrind):
    valgrind()
    counts = instructions.count()
    assert list(counts.values()) == [10 * i for i in range(1, len(counts) + 1)]
    called = {name.split()[0].rstrip(",") for name in counts}
    assert called == {
        kernel for kernel in backend.reference.available if kernel in backend.cpu().available
    }


def test_differences_are_shown(valgrind, tmp_path, capsys):
    valgrind()
    out = tmp_path / "counts.json"
    assert instructions.main(["--only", "^softmax", "--out", str(out)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(out.read_text())
    assert found["cpu_backend"] == "cpu_avx2"
    forward, backward = found["instructions"]
    assert found["instructions"] == {forward: 10, backward: 20}

    assert instructions.main(["--only", "^softmax", "--compare", str(out)]) == 0
    assert capsys.readouterr().out == "2 of 2 calls: no difference\n"
    found["instructions"] = {forward: 8, "softmax_gone 1x2": 3, "other 1": 4}
    out.write_text(json.dumps(found))
    assert instructions.main(["--only", "^softmax", "--compare", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        [*backward.split(), "20", "new"],
        [*forward.split(), "8", "10", "+25.00", "%"],
        ["softmax_gone", "1x2", "3", "gone"],
        "0 of 3 calls: no difference".split(),
    ]


def test_counts_that_do_not_fit_the_calls_are_refused(valgrind, capsys):
    valgrind(spare=2)
    assert instructions.main(["--only", "^clip"]) == 1
    assert "1 calls were made, and callgrind wrote 2 counts" in capsys.readouterr().err


def test_without_valgrind_it_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert instructions.main([]) == 1
    assert capsys.readouterr().err == "error: valgrind is not installed\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--only", "("], "--only is not a regular expression"),
        (["--compare", "/nowhere.json"], "is not a result of this program"),
    ],
)
def test_mistakes_on_the_command_line(arguments, sentence, capsys):
    with pytest.raises(SystemExit):
        instructions.main(arguments)
    assert sentence in capsys.readouterr().err
