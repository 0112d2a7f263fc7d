"""Bugs planted in the matrix multiply: a line of its headers is changed, compiled and run. Without
a bug the results are right under every schedule; with a bug they are wrong under at least one.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.cuda import compile
from tests.cuda.schedules import SCHEDULES

pytestmark = pytest.mark.deep

TILES, FEW, MMA = "core/gemm_tiles.cuh", "core/gemm_few.cuh", "core/mma.cuh"

# Bug -> the header, a text that occurs there once, its replacement.
BUGS = {
    "no barrier at a step": (
        TILES, "sync_block();  // this step has arrived, and the previous one is no longer read",
        ""),
    "waits one group short": (
        TILES, "copy_async_wait<G::kStages - 2>();", "copy_async_wait<G::kStages - 1>();"),
    "fetches into the stage that is read": (
        TILES, "(stage + G::kStages - 1) % G::kStages", "stage"),
    "no barrier before the ring is used again": (
        TILES, "sync_block();  // the ring buffer is no longer read", ""),
    "no barrier of the warp around its sheet": (
        TILES, "    sync_warp();\n}", "}"),
    "every piece begins at the first step": (TILES, "(before + step) * G::kDeep",
                                             "step * G::kDeep"),
    "a piece has a step too many": (TILES, "min(p.steps, all - before)",
                                    "min(p.steps + 1, all - before)"),
    "pieces from the last to the first": (TILES, "pieces + piece * size + i",
                                          "pieces + (count - 1 - piece) * size + i"),
    "a piece is forgotten": (TILES, "piece < count", "piece < count - 1"),
    "no barrier before the shares are read": (FEW, "    sync_block();\n", ""),
    "the other half of a word": (FEW, "l.set({a.z, b.z, a.w, b.w});",
                                 "l.set({a.z, b.w, a.w, b.z});"),
    "large products are added by tensor cores": (MMA, "mma_tf32(to, left.high, high);",
                                                 "mma_tf32(sum, left.high, high);"),
    "a warp's share is forgotten": (FEW, "w < G::kWarps", "w < G::kWarps - 1"),
}  # fmt: skip


def said(program: Path, schedule: str) -> str:
    environment = {**os.environ, "BYHAND_SCHEDULE": schedule, "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run([program], env=environment, capture_output=True, text=True, timeout=300)
    return (done.stdout + done.stderr).strip() or f"ended with status {done.returncode}"


def test_without_bugs_it_is_right(cache_dir: Path) -> None:
    program = compile.on_host("gemm", cache_dir, program=True)
    assert {said(program, schedule) for schedule in SCHEDULES} == {"right"}


@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_sanitizers_say_nothing_about_what_is_right(sanitizer: str, cache_dir: Path) -> None:
    program = compile.on_host("gemm", cache_dir, sanitizer, program=True)
    for schedule in ("forward late", "warp-greedy early"):
        answer = said(program, schedule)
        if "unexpected memory mapping" in answer:
            pytest.skip(answer)  # the system randomises addresses more than the sanitizer supports
        assert answer == "right"


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_is_found(bug: str, cache_dir: Path, tmp_path: Path) -> None:
    header, text, becomes = BUGS[bug]
    whole = (compile.ROOT / "cuda" / header).read_text(encoding="utf-8")
    assert whole.count(text) == 1, f"{header} has no such line, or several"
    changed = tmp_path / header
    changed.parent.mkdir()
    changed.write_text(whole.replace(text, becomes), encoding="utf-8")
    program = compile.on_host("gemm", cache_dir, program=True, changed=tmp_path)
    assert any(said(program, schedule) != "right" for schedule in SCHEDULES)
