"""TRAFFIC lines are read as they are written, and those of the kernels fit the kernels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench import collect, traffic
from byhand import backend
from byhand.ops.packed_linear import FORMATS
from tests.benchmarks.without_memory import Maker, Shapes

SIZES = {"R": 5, "C": 7, "B": 2, "H": 6, "G": 3, "T": 11, "S": 13, "D": 4, "N": 17}


@pytest.fixture
def contract(monkeypatch: pytest.MonkeyPatch):
    """Makes a TRAFFIC line the contract of some kernels."""

    def use(line: str, *kernels: str) -> None:
        found = dict.fromkeys(kernels, traffic.parse(line))
        monkeypatch.setattr(traffic, "contracts", lambda: found)

    return use


def test_a_clause_belongs_to_the_kernel_it_names(contract):
    contract("forward 2RC, backward 3RC elements", "norm_forward", "norm_backward")
    assert traffic.bytes_moved("norm_forward", SIZES) == 4 * 2 * 35
    assert traffic.bytes_moved("norm_backward", SIZES) == 4 * 3 * 35
    assert traffic.bytes_moved("norm_backward", SIZES, itemsize=2) == 2 * 3 * 35
    assert not traffic.counts_operations("norm_forward")
    with pytest.raises(KeyError, match="the contract of norm_forward counts no operations"):
        traffic.operations("norm_forward", SIZES)


def test_the_longest_name_decides_and_names_are_whole_words(contract):
    contract("norm N, grad_norm 2N, or 3N elements", "grad_norm", "norm_of", "forward")
    assert traffic.bytes_moved("grad_norm", SIZES) == 4 * 2 * 17
    assert traffic.bytes_moved("norm_of", SIZES) == 4 * 17
    with pytest.raises(KeyError, match="forward"):  # not the clause `or`
        traffic.bytes_moved("forward", SIZES)


def test_a_clause_without_a_name_belongs_to_every_kernel(contract):
    contract("2N elements", "step", "other_step")
    assert traffic.bytes_moved("step", SIZES) == traffic.bytes_moved("other_step", SIZES) == 136


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, 2), ({"add": None}, 2), ({"add": False}, 2), ({"add": True}, 4), ({"ds": True}, 2)],
)
def test_an_optional_argument_changes_the_count(contract, given, expected):
    contract("forward 2RC (4RC with add), backward 3RC (4RC with ds) elements", "norm_forward")
    assert traffic.bytes_moved("norm_forward", SIZES, given) == 4 * expected * 35


def test_an_array_counts_as_given(contract):
    contract("forward 2RC (4RC with add) elements", "norm_forward")
    assert traffic.bytes_moved("norm_forward", SIZES, {"add": np.zeros(3)}) == 4 * 4 * 35


def test_elements_may_have_a_type_of_their_own(contract):
    contract("6N f32 + N g (6N f32 + N g + 2N i64 with copy) elements", "step")
    half = {"g": np.zeros(1, np.float16)}
    assert traffic.bytes_moved("step", SIZES, itemsize=4) == 28 * 17
    assert traffic.bytes_moved("step", SIZES, half, itemsize=4) == 26 * 17
    assert traffic.bytes_moved("step", SIZES, {**half, "copy": half["g"]}) == 42 * 17


def test_products_sums_remarks_and_two_units(contract):
    contract(
        "forward 2B(HT + GS)D + BHT f32 elements (each read once); no pass of its own, whatever T;"
        " 4BHTSD (2BHTSD with causal) operations",
        "attention_forward",
    )
    elements = 2 * 2 * (6 * 11 + 3 * 13) * 4
    assert traffic.bytes_moved("attention_forward", SIZES, itemsize=2) == (
        2 * elements + 4 * 2 * 6 * 11
    )
    product = 2 * 6 * 11 * 13 * 4
    assert traffic.operations("attention_forward", SIZES) == 4 * product
    assert traffic.operations("attention_forward", SIZES, {"causal": True}) == 2 * product
    assert traffic.counts_operations("attention_forward")


def test_an_argument_may_multiply_operations(contract):
    contract("2RC rounds operations", "probe")
    assert traffic.operations("probe", {**SIZES, "rounds": 9}) == 2 * 35 * 9


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("about twice the array", "counts neither elements nor operations"),
        ("2RC elements f32, N of g", "counts neither elements nor operations"),
        ("forward elements", "a count that cannot be read"),
        ("2RC + elements", "a count that cannot be read"),
        ("2(R + C elements", "a count that cannot be read"),
        ("2R * C elements", "a count that cannot be read"),
        ("N of g elements", "a count that cannot be read"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(line, sentence):
    with pytest.raises(traffic.MalformedTraffic, match=sentence) as error:
        traffic.parse(line)
    assert line in str(error.value) or "forward" in line


HEADER = """\
// MATH     y = x
// TRAFFIC  forward 2RC,
//          backward 3RC elements
#pragma once
namespace byhand {
void copy_forward(Out y, In x, Stream stream);
void copy_backward(Out dx, In dy,
                   Stream stream);
std::int64_t rows_of(std::int64_t n);

// MATH     y = 0
// TRAFFIC  RC elements
// EFFECTS  writes y
void zero_forward(Out y, Stream stream);
}  // namespace byhand
"""


def test_every_declaration_has_the_line_above_it():
    assert list(traffic.traffic_lines(HEADER)) == [
        ("copy_forward", "forward 2RC, backward 3RC elements"),
        ("copy_backward", "forward 2RC, backward 3RC elements"),
        ("zero_forward", "RC elements"),
    ]


def test_a_malformed_line_names_its_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    folder = tmp_path / "csrc" / "ops" / "norm"
    folder.mkdir(parents=True)
    (folder / "zero.h").write_text(HEADER.replace("  RC elements", "  some elements"))
    monkeypatch.setattr(traffic, "CSRC", tmp_path / "csrc")
    traffic.contracts.cache_clear()
    try:
        with pytest.raises(traffic.MalformedTraffic, match=r"csrc.ops.norm.zero\.h: .*'some elem"):
            traffic.contracts()
    finally:
        traffic.contracts.cache_clear()


# --- The contracts of the kernels ---------------------------------------------------------------


def test_every_kernel_of_the_cpu_has_a_contract_with_a_clause():
    for kernel in backend.cpu().available:
        clauses = [c for unit in traffic.contracts()[kernel].values() for c in unit]
        assert any(clause.fits(kernel) for clause in clauses), kernel


def test_an_alternative_names_an_argument_of_the_kernel():
    """A misspelt `with` would never apply."""
    for kernel in backend.reference.available:
        names = [argument.name for argument in backend.arguments(kernel)]
        for clause in (c for unit in traffic.contracts()[kernel].values() for c in unit):
            if clause.fits(kernel):
                assert set(clause.instead) <= set(names), kernel


FULL = tuple(collect.gpu_cases(Shapes, "full", maker=Maker))
# Their traffic is not the size of their arrays: of the table only the rows that are looked up are
# read; two kernels are held against the least that both need; the words of packed weights are
# written once, although their direction is Mut.
OTHER = {"embedding_forward", "embedding_backward", "cross_entropy, both"}
OTHER |= {f"packed_linear_pack, {format}" for format in FORMATS}


@pytest.mark.parametrize(
    "case", [c for c in FULL if not c.gemm and not c.environment and c.name not in OTHER], ids=str
)
def test_the_traffic_is_the_size_of_the_arrays(case):
    """Every input and result once, an array that is updated twice. Statistics of the rows and
    working memory, which TRAFFIC leaves out, are small in full sizes."""
    moved = 0
    for kernel, arguments in case.calls:
        for argument in backend.arguments(kernel):
            array = arguments.get(argument.name)
            if isinstance(array, np.ndarray):
                moved += array.nbytes * (2 if argument.direction in ("Acc", "Mut") else 1)
    assert case.bytes == pytest.approx(moved, rel=0.12)
