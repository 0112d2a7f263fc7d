"""Every native kernel has a reference with the same signature, and a case."""

from __future__ import annotations

import inspect
import typing

import pytest

from byhand import backend, ops
from byhand.backend import native
from byhand.ops import philox
from tests.cases import all_ops
from tests.kernel_case import Op, directions


def built() -> list[str]:
    return backend.built_modules()


def native_signatures(name: str) -> dict[str, list[tuple[str, str]]]:
    try:
        module = native.load(name)
    except ImportError as error:  # this processor lacks its instructions, or it needs a library
        pytest.skip(f"{name} cannot be loaded here: {error}")
    # Probes are not operations; they have tests of their own.
    kernels = {k: a for k, a in module.kernels.items() if not k.endswith("_probe")}
    return {k: list(map(tuple, a)) for k, a in kernels.items()}


def reference_signature(kernel: str) -> list[tuple[str, str]]:
    body = inspect.unwrap(getattr(backend.reference, kernel))
    hints = typing.get_type_hints(body)
    # The binding calls an offset an integer.
    kinds = {n: int if hint == philox.Offset else hint for n, hint in hints.items()}
    return [(n, d or kinds[n].__name__) for n, d, _ in directions(kernel)]


def test_every_op_has_a_case_of_its_name() -> None:
    assert {op.name for op in all_ops()} >= set(ops.__all__)


def test_every_reference_has_a_case() -> None:
    assert {k for op in all_ops() for k in op.kernels} == set(backend.reference.available)


@pytest.mark.parametrize("name", built())
def test_every_native_kernel_has_a_case(name: str) -> None:
    cased = {k for op in all_ops() for k in op.kernels}
    assert native_signatures(name).keys() <= cased


@pytest.mark.parametrize("name", [n for n in built() if n.startswith("cpu")])
def test_every_reference_has_a_native_kernel(name: str) -> None:
    assert set(backend.reference.available) <= native_signatures(name).keys()


@pytest.mark.parametrize("name", built())
def test_signatures_are_those_of_the_reference(name: str) -> None:
    """The same names, the same directions, the same kinds of scalar, in the same order."""
    for kernel, signature in native_signatures(name).items():
        assert signature == reference_signature(kernel), kernel


@pytest.mark.parametrize("op", all_ops(), ids=lambda op: op.name)
def test_the_cases_reach_every_corner(op: Op) -> None:
    """An argument that may be None is None in some sample and given in another; every gradient is
    frozen in one; some sample has no element, one has one, and one spans many vector words.
    """
    optional = {n for k in op.kernels for n, _, may in directions(k) if may}
    # What one kernel needs is in every sample, even if the other may do without it.
    optional -= {n for k in op.kernels for n, _, may in directions(k) if not may}
    inputs = {name for s in op.samples for name in s.arrays}
    for name in optional & inputs:
        given = [s.arrays.get(name) is not None for s in op.samples]
        assert any(given), f"{name} is never given"
        assert not all(given), f"{name} is never None"
    for gradient in op.gradients.values():
        if gradient in optional:
            assert any(gradient in s.frozen for s in op.samples), f"{gradient} is never frozen"
    sizes = [a.size for s in op.samples for a in s.arrays.values() if a is not None and a.ndim]
    assert 0 in sizes
    assert max(sizes) >= 1023
    names = [s.label for s in op.samples]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("op", all_ops(), ids=lambda op: op.name)
def test_the_cases_tell_dimensions_apart(op: Op) -> None:
    """The first sample gives every dimension its own size, so that no two can be swapped."""
    for array in op.samples[0].arrays.values():
        if array is not None:
            assert len(set(array.shape)) == array.ndim
            assert array.ndim == 0 or array.size > 1
