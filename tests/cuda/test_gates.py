"""The checks of machine code must be able to fail: kernels with one mistake each."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cuda import budget, instructions, machine_code
from tests.cuda.budget import Line, resident_blocks
from tests.cuda.compile import KERNELS
from tests.cuda.instructions import Rule
from tests.cuda.machine_code import Kernel, readable

ROOT = Path(__file__).parents[2]
ROWS = "softmax_forward_rows<bf16, Plan<8, 2, WarpTeam, false>, 1>"


# --- Kernels that nvcc compiles ----------------------------------------------------------------


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> dict[str, Kernel]:
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc was not found")
    binary = tmp_path_factory.mktemp("planted") / "planted.fatbin"
    source = KERNELS / "refused.cu"
    paths = [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'cuda'}"]
    command = [nvcc, "-std=c++17", *paths, "-arch=sm_80", "-fatbin", "-o", binary, source]
    subprocess.run(command, check=True)
    try:
        return {kernel.stem: kernel for kernel in machine_code.kernels(binary)}
    except machine_code.MissingTool as error:
        pytest.skip(str(error))


def test_an_atomic_sum_is_refused(planted):
    (sentence,) = instructions.complaints(planted["atomic_sum"])
    assert sentence.startswith("atomic_sum on sm_80 has RED.E.ADD.F32")
    assert "any order" in sentence


def test_an_array_indexed_at_run_time_is_refused(planted):
    kernel = planted["local_array"]
    assert kernel.stack > 0
    (sentence,) = instructions.complaints(kernel)
    assert "LDL" in sentence
    assert "STL" in sentence


def test_a_lost_wide_load_is_refused(planted, monkeypatch):
    kernel = planted["narrow_load"]
    assert instructions.complaints(kernel) == []  # it has one, and no rule requires two
    monkeypatch.setattr(instructions, "RULES", (Rule("narrow_load", loads=2),))
    assert instructions.complaints(kernel) == [
        "narrow_load<4> on sm_80 has 1 loads of 16 bytes instead of 2 at least"
    ]


def test_a_wide_access_to_unaligned_rows_is_refused(planted):
    assert instructions.complaints(planted["wide_load"]) == [
        "wide_load<1> on sm_80 has 1 accesses of 16 bytes to unaligned rows"
    ]


def test_a_kernel_that_needs_more_than_its_budget_is_refused(planted):
    found = budget.measured(list(planted.values()))
    assert budget.changes(found, found) == []
    key = ("narrow_load<4>", 256, "sm_80")
    used = found[key].registers
    (sentence,) = budget.changes({**found, key: replace(found[key], registers=used - 1)}, found)
    assert sentence == (
        f"narrow_load<4> with 256 threads on sm_80 grew: registers from {used - 1} to {used}; "
        "if that is meant: python -m tests.cuda.budget --update"
    )


# --- Kernels that are made up ------------------------------------------------------------------


def made_up(name: str, *opcodes: str, arch: str = "sm_80", registers: int = 32) -> Kernel:
    return Kernel(name, arch, registers, threads=256, instructions=Counter(opcodes))


def test_what_a_name_says():
    kernel = made_up(ROWS)
    assert (kernel.stem, kernel.storage) == ("softmax_forward_rows", "bf16")
    assert (kernel.pack, kernel.packs) == (8, 2)
    assert made_up(ROWS.replace("Plan<8", "Plan<1")).pack == 1
    assert made_up("clip_scale<4>").pack == 4
    assert made_up("dropout_groups<bf16, 8>").pack == 8
    assert made_up("clip_scale<8, bf16>").storage == "bf16"
    assert made_up("some_rows<bf16, 512>").pack is None
    assert made_up("grad_norm_finish").pack is None
    assert readable(
        "void byhand::(anonymous namespace)::rows<__nv_bfloat16, byhand::Plan<8, 4, "
        "byhand::BlockTeam<256>, true>, (byhand::(anonymous namespace)::Form)1>(float*, float)"
    ) == ("rows<bf16, Plan<8, 4, BlockTeam<256>, true>, 1>")


@pytest.mark.parametrize(
    ("opcodes", "sentence"),
    [
        (["LDG.E.128"] * 2 + ["STG.E.128"] * 2, "no instruction that matches MUFU"),
        (["LDG.E.128"] + ["STG.E.128"] * 2 + ["MUFU.EX2"], "1 loads of 16 bytes instead of 2"),
        (["LDG.E.128.CONSTANT"] * 2 + ["STG.E.64", "MUFU.EX2"], "0 stores of 16 bytes instead"),
        (["LDG.E.128", "STG.E.128"] * 2 + ["MUFU.EX2", "ATOMS.ADD"], "ATOMS.ADD: atomics"),
    ],
)
def test_instructions_that_are_missing_or_too_many(opcodes, sentence):
    found = instructions.complaints(made_up(ROWS, *opcodes))
    assert len(found) == 1
    assert found[0].startswith(f"{ROWS} on sm_80 has ")
    assert sentence in found[0]


def test_a_rule_may_speak_of_one_architecture():
    name, codes = "gemm_hopper<true, true>", ["LDG.E.128", "STG.E.128", "UTMALDG.2D"]
    assert instructions.complaints(made_up(name, "EXIT")) == []
    found = instructions.complaints(made_up(name, "HMMA.16816", *codes, arch="sm_90a"))
    assert [sentence.split()[-1] for sentence in found] == [
        instructions.HOPPER[0],
        instructions.HOPPER[2],
        *instructions.SHEET,
    ]
    codes += ["HGMMA.64x128x16.F32.BF16", "USETMAXREG.DEALLOC.CTAPOOL", "LDS.128", "STS.64"]
    assert instructions.complaints(made_up(name, *codes, arch="sm_90a")) == []


def test_a_kernel_without_a_rule_must_still_be_wide():
    assert len(instructions.complaints(made_up("new_rows<4>", "LDG.E", "STG.E"))) == 2
    assert instructions.complaints(made_up("new_rows<4>", "LDG.E.128", "STG.E.128")) == []
    assert instructions.complaints(made_up("new_rows<4>", "LDG.E.128", "STG.E.128", "REDUX")) == []


@pytest.mark.parametrize(
    ("arch", "threads", "registers", "shared", "blocks"),
    [
        ("sm_80", 256, 32, 0, 8),  # all 2048 threads
        ("sm_80", 256, 33, 0, 6),  # 40 registers a thread: 51 warps, of which 48 fill blocks
        ("sm_80", 1024, 64, 0, 1),
        ("sm_80", 128, 255, 0, 2),
        ("sm_80", 32, 16, 0, 32),  # no more blocks than that
        ("sm_80", 128, 32, 40 << 10, 4),  # 4 x 41 KiB = 164 KiB
        ("sm_90a", 128, 32, 41 << 10, 5),  # the report has the reserved KiB in it
    ],
)
def test_resident_blocks(arch, threads, registers, shared, blocks):
    assert resident_blocks(arch, threads, registers, shared) == blocks


def test_the_budget_survives_its_file():
    kernels = [made_up(ROWS), made_up(ROWS, registers=40), made_up(ROWS, arch="sm_90a")]
    kernels += [made_up("grad_norm_finish")]
    found = budget.measured(kernels)
    group = ("softmax_forward_rows<bf16x8>", 256)
    assert found[(*group, "sm_80")] == Line(40, 0, 0, 2)
    content = budget.text(found, "13.0")
    read, compiler = budget.parse(content)
    assert compiler == "13.0"
    assert budget.text(read, compiler) == content
    assert budget.changes(read, found) == []


def test_growth_new_and_vanished_kernels_are_named():
    before = budget.measured([made_up("a"), made_up("b")])
    after = budget.measured([made_up("b", registers=40), made_up("c")])
    grown = "b with 256 threads on sm_80 grew: registers from 32 to 40, blocks per multiprocessor"
    expected = [
        "a with 256 threads on sm_80 has a budget but was not built",
        f"{grown} from 8 to 6",
        "c with 256 threads on sm_80 has no budget",
    ]
    advice = "; if that is meant: python -m tests.cuda.budget --update"
    assert budget.changes(before, after) == [sentence + advice for sentence in expected]
    assert budget.changes(after, budget.measured([made_up("b"), made_up("c")])) == []  # fewer
