"""How public functions declare the shapes of their arrays."""

from __future__ import annotations

import inspect
import subprocess
import sys
import typing
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byhand import ops
from byhand.backend import Array
from byhand.ops.declare import Shape, op


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape)


def declared(**shapes: str) -> Any:
    """A function of two or three arrays that returns them."""

    @op(**shapes)
    def f(a, b=None, c=None, *, d=None):
        """Returns what it was given."""
        return a, b, c, d

    return f


LINEAR = declared(a="... K", b="N K", c="N?", d="... N?")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((ones(), ones(5, 3)), "a must have shape (..., K), got ()"),
        (
            (ones(2, 3), ones(5, 4)),
            "b must have shape (N, 3), got (5, 4), where a has shape (2, 3)",
        ),
        ((ones(2, 3), ones(3)), "b must have shape (N, 3), got (3,), where a has shape (2, 3)"),
        (
            (ones(2, 3), ones(5, 3), ones(3)),
            "c must have shape (5,), got (3,), where b has shape (5, 3)",
        ),
        (
            (ones(2, 3), ones(5, 3), ones(5, 1)),
            "c must have shape (5,), got (5, 1), where b has shape (5, 3)",
        ),
    ],
)
def test_a_wrong_shape_is_one_sentence(arguments, message) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        LINEAR(*arguments)
    assert str(caught.value) == f"test_declare.f: {message}"


def test_leading_dimensions_are_the_same_everywhere() -> None:
    x, w = ones(4, 2, 3), ones(5, 3)
    LINEAR(x, w, d=ones(4, 2, 5))
    with pytest.raises(
        ValueError, match=r"d must have shape \(4, 2, 5\), got \(2, 5\), where b has"
    ):
        LINEAR(x, w, d=ones(2, 5))
    LINEAR(ones(3), w, d=ones(5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], ones(5, 3)), "a must be an array, got list"),
        ((ones(2, 3), None), "b must be an array, got NoneType"),
        ((ones(2, 3), ones(5, 3), 1.0), "c must be an array, got float"),
    ],
)
def test_something_else_than_an_array_is_named(arguments, message) -> None:
    with pytest.raises(TypeError) as caught:
        LINEAR(*arguments)
    assert str(caught.value) == f"test_declare.f: {message}"


def test_numbers_scalars_and_any_shape() -> None:
    f = declared(a="3 C", b="", c="*?", d="?")
    f(ones(3, 7), ones(), ones(2, 2, 2), d=ones())
    f(ones(3, 7), ones())
    with pytest.raises(ValueError, match=r"a must have shape \(3, C\), got \(4, 7\)"):
        f(ones(4, 7), ones())
    with pytest.raises(ValueError, match=r"b must have shape \(\), got \(1,\)"):
        f(ones(3, 7), ones(1))
    with pytest.raises(TypeError, match="c must be an array, got int"):
        f(ones(3, 7), ones(), 3)


def test_saved_arrays_and_shapes_give_sizes() -> None:
    @op(saved={"x": "... K", "table": "(V C)"}, dy="... C", dw="V C?")
    def backward(dy, saved, dw=None):
        return dy

    saved = (ones(2, 3), (5, 4), "more")
    backward(ones(2, 4), saved, ones(5, 4))
    with pytest.raises(ValueError, match=r"dy must have shape \(2, 4\), got \(3, 4\)"):
        backward(ones(3, 4), saved)
    with pytest.raises(ValueError, match=r"dw must have shape \(5, 4\), got \(4, 5\)"):
        backward(ones(2, 4), saved, ones(4, 5))


@pytest.mark.parametrize("text", ["a b-c", "A ... B", "*x", "1.5", "(A", "A? B"])
def test_what_declares_no_shape_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="does not declare a shape"):
        Shape.parse(text)


def test_a_size_that_only_an_optional_argument_gives_cannot_be_used() -> None:
    with pytest.raises(ValueError, match="N is first given by an argument that may be None"):
        declared(a="K", b="N?", c="N")(ones(2))


def test_the_function_is_the_same_before_and_after_its_first_call() -> None:
    f = declared(a="N", b="N?")
    before = f.__code__
    signature, doc = inspect.signature(f), f.__doc__
    a = ones(3)
    assert f(a, d=5) == (a, None, None, 5)
    assert f.__code__ is not before
    assert inspect.signature(f) == signature
    assert list(signature.parameters) == ["a", "b", "c", "d"]
    assert f.__doc__ == doc == "Returns what it was given."
    assert f(a, c=7) == (a, None, 7, None)
    with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'a'"):
        f()
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'e'"):
        f(a, e=1)


def test_an_error_inside_the_function_is_not_taken_for_a_wrong_argument() -> None:
    @op(a="N")
    def f(a):
        return a.no_such_attribute

    with pytest.raises(AttributeError, match="no_such_attribute"):
        f(ones(3))


TOKENS = st.sampled_from(["A", "B", "C", "2"])
SPECS = st.builds(
    lambda leading, parts, optional: ("... " * leading + " ".join(parts)).strip() + "?" * optional,
    st.booleans(),
    st.lists(TOKENS, max_size=3),
    st.booleans(),
)
SHAPES = st.lists(st.integers(1, 3), max_size=4).map(tuple)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(specs=st.tuples(SPECS, SPECS, SPECS), shapes=st.tuples(SHAPES, SHAPES, SHAPES))
def test_the_compiled_check_is_the_interpreted_one(specs, shapes) -> None:
    """What is refused, and what is accepted, for any declaration and any shapes."""
    f = declared(**dict(zip("abc", specs, strict=True)))
    arrays = [ones(*shape) for shape in shapes]
    sizes: dict[Any, Any] = {}
    agree = all(
        shape.agrees(array.shape, sizes)
        for shape, array in zip(f.declared.shapes.values(), arrays, strict=True)
    )
    try:
        f.declared.source()
    except ValueError as error:
        assert "may be None" in str(error)  # noqa: PT017
        return
    if agree:
        f(*arrays)
    else:
        with pytest.raises(ValueError, match="must have shape"):
            f(*arrays)


# --- The folder is the registry -----------------------------------------------------------------


def test_every_module_of_the_folder_declares_its_public_functions() -> None:
    for name in ops.__all__:
        module = getattr(ops, name)
        functions = [f for f in vars(module).values() if hasattr(f, "declared")]
        assert any(f.__module__ == module.__name__ for f in functions), name
    assert not {"check", "declare", "heads", "philox", "precision"} & set(ops.__all__)
    assert dir(ops) == ops.__all__


@pytest.mark.parametrize("name", ops.__all__)
def test_every_array_is_declared(name: str) -> None:
    """All but those that may be a number instead, and what is in a tuple."""
    for function in vars(getattr(ops, name)).values():
        if hasattr(function, "declared"):
            hints = typing.get_type_hints(inspect.unwrap(function))
            arrays = {n for n, h in hints.items() if h in (Array, Array | None) and n != "return"}
            assert arrays == function.declared.shapes.keys(), function.declared.name


def test_an_operation_is_imported_when_it_is_used() -> None:
    code = (
        "import sys; from byhand import backend, ops\n"
        "assert 'byhand.ops.matmul' not in sys.modules\n"
        "assert callable(backend.reference.matmul_forward)\n"
        "assert 'byhand.ops.matmul' in sys.modules\n"
        "from byhand.ops import *\n"
        "print(softmax.__name__, hasattr(ops, 'frobnicate'))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert out.stdout.split() == ["byhand.ops.softmax", "False"]
    with pytest.raises(AttributeError, match="no operation 'frobnicate'; it has: activation, "):
        ops.frobnicate  # noqa: B018
