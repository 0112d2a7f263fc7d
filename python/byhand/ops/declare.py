"""`@op`: a public function of an op declares the shapes of its arrays, once.

    @op(x="... K", w="N K", b="N?", add="... N?")
    def forward(x, w, b=None, add=None): ...

    @op(saved={"x": "... K", "w": "N K"}, dy="... N", dw="N K?")
    def backward(dy, saved, dw=None): ...

A name is a dimension: the first argument that has it gives its size, the others must have the same.
A number is a size. `...` stands for any leading dimensions, the same ones wherever it occurs. "" is
a 0-d array, and "*" an array of any shape. A `?` at the end allows None.

`saved` names what the forward function saved, in its order, up to the last entry that is needed.
Its shapes give sizes and are not checked. Parentheses, "(V C)", say that a shape was saved and not
its array.

A wrong shape is a ValueError and a value that is not an array a TypeError, in one sentence that
names op and argument, and the other arguments that it does not fit. An error of a kernel that does
not say which argument is the cause (dtype, memory) is replaced by one that does. What shapes cannot
express (ranges, dtypes, broadcasting) the function checks itself, afterwards.
"""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np

from byhand.backend.arrays import from_dlpack, is_foreign
from byhand.backend.dispatch import UnsupportedArray
from byhand.ops import check

Function = TypeVar("Function", bound=Callable[..., Any])
Sizes = dict[Any, Any]  # dimension -> size; "..." -> the leading sizes


def op(*, saved: dict[str, str] | None = None, **shapes: str) -> Callable[[Function], Function]:
    """Declares shapes, as above. Arguments that are not arrays are left out.

    The check is compiled, so that it costs as little as comparisons written by hand. That happens
    at the first call, because it would slow the import down. The compiled code then replaces the
    code of the function returned here, so modules that have imported it by name get it too.
    """

    def decorate(body: Function) -> Function:
        declared = Declaration(body, saved or {}, shapes)

        def checked(*args: Any, **kwargs: Any) -> Any:
            # Uses `declared` and `body` as the compiled code does: code can only be replaced by
            # code with the same closure.
            return declared.compile_into(body)(*args, **kwargs)

        functools.update_wrapper(checked, body)
        checked.__defaults__, checked.__kwdefaults__ = body.__defaults__, body.__kwdefaults__
        checked.declared = declared  # type: ignore[attr-defined]
        declared.function = checked
        return typing.cast(Function, checked)

    return decorate


class Shape(NamedTuple):
    """One declared shape. leading: whether any dimensions may come before `dimensions`. free: any
    shape at all. itself: it is saved as a shape, not as an array.
    """

    dimensions: tuple[str | int, ...] = ()
    leading: bool = False
    optional: bool = False
    free: bool = False
    itself: bool = False

    @classmethod
    def parse(cls, text: str) -> Shape:
        """ValueError for a text in none of the forms above."""
        words = text.removesuffix("?")
        optional, itself = words != text, words.startswith("(") and words.endswith(")")
        parts = (words[1:-1] if itself else words).split()
        if parts == ["*"]:
            return cls(optional=optional, free=True)
        leading = parts[:1] == ["..."]
        parts = parts[leading:]
        if not all(part.isidentifier() or part.isdigit() for part in parts):
            raise ValueError(f"{text!r} does not declare a shape")
        dimensions = tuple(int(part) if part.isdigit() else part for part in parts)
        return cls(dimensions, leading, optional, itself=itself)

    @property
    def names(self) -> tuple[str | int, ...]:
        """Its dimensions, "..." among them if it has leading ones."""
        return (*self.dimensions, "...") if self.leading else self.dimensions

    def agrees(self, shape: tuple[int, ...], sizes: Sizes) -> bool:
        """Whether a shape fits, given sizes; adds those that it gives itself."""
        split = len(shape) - len(self.dimensions)
        if self.free:
            return True
        if split < 0 or (split > 0 and not self.leading):
            return False
        if self.leading and sizes.setdefault("...", shape[:split]) != shape[:split]:
            return False
        pairs = zip(self.dimensions, shape[split:], strict=True)
        return all((d if isinstance(d, int) else sizes.setdefault(d, n)) == n for d, n in pairs)

    def with_sizes(self, sizes: Sizes) -> str:
        """As errors show it: numbers for known sizes, names for the others."""
        leading = sizes.get("...", ("...",)) if self.leading else ()
        parts = [str(part) for part in (*leading, *(sizes.get(d, d) for d in self.dimensions))]
        return f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})"


class Declaration:
    """The shapes that one public function declares."""

    function: Callable[..., Any]  # the one that checks

    def __init__(self, body: Callable[..., Any], saved: dict[str, str], shapes: dict[str, str]):
        self._body = body
        self._saved = saved
        self._shapes = shapes

    @property
    def name(self) -> str:
        """As errors name it: linear.forward."""
        return f"{self._body.__module__.rpartition('.')[2]}.{self._body.__name__}"

    @functools.cached_property
    def saved(self) -> dict[str, Shape]:
        return {name: Shape.parse(text) for name, text in self._saved.items()}

    @functools.cached_property
    def shapes(self) -> dict[str, Shape]:
        return {name: Shape.parse(text) for name, text in self._shapes.items()}

    @functools.cached_property
    def parameters(self) -> tuple[inspect.Parameter, ...]:
        return tuple(inspect.signature(self._body).parameters.values())

    def _by_name(self, values: tuple[Any, ...]) -> dict[str, Any]:
        return dict(zip((p.name for p in self.parameters), values, strict=True))

    def refusal(self, *values: Any) -> Exception:
        """The error of a call that must be refused, from all its arguments."""
        given = self._by_name(values)
        sizes: Sizes = {}
        saved = given.get("saved")
        if self.saved and (type(saved) is not tuple or len(saved) < len(self.saved)):
            return self.other_saved(saved)
        gave: dict[Any, str] = {}  # dimension -> the argument that gave its size, "" for saved
        for entry, shape in zip(saved or (), self.saved.values(), strict=False):
            found = entry if shape.itself else getattr(entry, "shape", None)
            if type(found) is not tuple or not shape.agrees(found, sizes):
                return self.other_saved(saved)
            gave.update(dict.fromkeys(shape.names, ""))
        for name, shape in self.shapes.items():
            array = given[name]
            if array is None and shape.optional:
                continue
            if not hasattr(array, "shape"):
                return check.not_an_array(self.name, name, array)
            expected = shape.with_sizes(sizes)
            if not shape.agrees(tuple(array.shape), sizes):
                error = check.wrong_shape(self.name, name, expected, array)
                others = dict.fromkeys(gave[d] for d in shape.names if gave.get(d))
                fits = " and ".join(f"{o} has shape {given[o].shape}" for o in others)
                return ValueError(f"{error}, where {fits}") if fits else error
            for dimension in shape.names:
                gave.setdefault(dimension, name)
        return AssertionError(f"{self.name} refuses what it declares")

    def other_saved(self, saved: Any) -> Exception:
        """The error of a `saved` that another function made."""
        got = type(saved).__name__
        if type(saved) is tuple:
            got = f"({', '.join(type(entry).__name__ for entry in saved)})"
        forward = self.name.replace("backward", "forward")
        return TypeError(f"{self.name}: saved must be what {forward} returned, got {got}")

    def converted(self, *values: Any) -> dict[str, Any] | None:
        """The arguments, with arrays of other libraries converted by `backend.from_dlpack`; None if
        there is none. A kernel refuses such an array before it has written anything.
        """
        given = self._by_name(values)
        foreign = {name: a for name, a in given.items() if is_foreign(a)}
        made = {name: from_dlpack(a, f"{self.name}: {name}") for name, a in foreign.items()}
        return given | made if made else None

    def better(self, error: Exception, *values: Any) -> Exception | None:
        """An error that says more of the cause than the one that the function raised, or None."""
        given = self._by_name(values)
        if isinstance(error, MemoryError):
            if str(error) not in ("", "std::bad_alloc"):  # it says how much was asked for
                return None
            shapes = [f"{n} {a.shape}" for n, a in given.items() if hasattr(a, "shape")]
            return MemoryError(f"{self.name}: not enough memory, for {', '.join(shapes)}")
        arrays = {n: given[n] for n in self.shapes if isinstance(given[n], np.ndarray)}
        if isinstance(error, UnsupportedArray):
            for name in self.shapes:
                if error.array is given[name]:
                    return TypeError(f"{self.name}: {name}: {error}")
        if "C-contiguous" in str(error):
            for name, array in given.items():
                if hasattr(array, "flags") and not array.flags.c_contiguous:
                    library = "np" if isinstance(array, np.ndarray) else "cupy"
                    return TypeError(f"{error}: use {library}.ascontiguousarray({name})")
        if "must be float" not in str(error):
            about = re.match(rf"{self.name.partition('.')[0]}[\w.]*: (\w+)", str(error))
            if self.saved and (about is None or about[1] not in given):
                return self.other_saved(given["saved"])
            return None
        of_saved = zip(self.saved, given.get("saved") or (), strict=False)
        arrays |= {f"the saved {n}": a for n, a in of_saved if isinstance(a, np.ndarray)}
        floats = {n: a.dtype for n, a in arrays.items() if a.dtype.kind == "f"}
        for name, dtype in floats.items():
            first = next(iter(floats))
            if dtype != floats[first]:
                return TypeError(
                    f"{self.name}: {first} is {floats[first]} and {name} is {dtype}: all arrays of "
                    "a call must have the same floating dtype"
                )
        return None

    def source(self) -> str:
        """Python that defines `make(body, declared)`, which returns the function that checks its
        arguments and calls `body`.
        """
        setup, tests = _Comparisons(self.saved, self.shapes).made
        errors = "AttributeError, IndexError, TypeError, ValueError"
        names = [p.name for p in self.parameters]
        star = next((i for i, p in enumerate(self.parameters) if p.kind == p.KEYWORD_ONLY), None)
        header = names if star is None else [*names[:star], "*", *names[star:]]
        passed = [f"{n}={n}" if star is not None and i >= star else n for i, n in enumerate(names)]
        lines = [
            "def make(body, declared):",
            f"    def {self._body.__name__}({', '.join(header)}):",
            "        try:",
            *(f"            {line}" for line in setup),
            f"            wrong = {' or '.join(tests) or False}",
            f"        except ({errors}):  # of something that is not an array",
            "            wrong = True",
            "        if wrong:",
            f"            raise declared.refusal({', '.join(names)})",
            "        try:",
            f"            return body({', '.join(passed)})",
            f"        except ({errors}, MemoryError) as error:",
            f"            converted = declared.converted({', '.join(names)})",
            "            if converted is None:",
            f"                better = declared.better(error, {', '.join(names)})",
            "                if better is None:",
            "                    raise",
            "                raise better from None",
            "        return declared.function(**converted)",
            f"    return {self._body.__name__}",
        ]
        return "\n".join(lines) + "\n"

    def compiled(self, body: Callable[..., Any]) -> Callable[..., Any]:
        """The function that checks its arguments and calls `body`, without default values."""
        scope: dict[str, Any] = {}
        exec(compile(self.source(), f"<shapes of {self.name}>", "exec"), scope)
        return scope["make"](body, self)

    def compile_into(self, body: Callable[..., Any]) -> Callable[..., Any]:
        self.function.__code__ = self.compiled(body).__code__
        return self.function


class _Comparisons:
    """What a declaration compiles to.

    made: statements that fetch shapes, and expressions of which one is true when a shape is wrong.
    Those are evaluated in order: each relies on the ranks that the ones before it have compared.
    """

    def __init__(self, saved: dict[str, Shape], shapes: dict[str, Shape]):
        self._sizes: dict[Any, str] = {}  # dimension or "..." -> an expression for its size(s)
        self._shapes: dict[Any, str] = {}  # (leading, dimensions) -> an expression for them all
        fetched, wrong = [], []
        for i, (name, shape) in enumerate(saved.items()):
            fetched.append(f"of_{name} = saved[{i}]{'' if shape.itself else '.shape'}")
            self._learn(shape, f"of_{name}")
        for name, shape in shapes.items():
            if shape.free:
                fetched.append(f"{f'{name} is None or ' * shape.optional}{name}.shape")
            elif shape.optional:
                wrong.append(f"{name} is not None and ({self._differs(shape, f'{name}.shape')})")
                self._forget(shape)
            else:
                fetched.append(f"shape_{name} = {name}.shape")
                wrong.append(self._differs(shape, f"shape_{name}"))
                self._learn(shape, f"shape_{name}")
        self.made = fetched, [test for test in wrong if test]

    def _learn(self, shape: Shape, at: str) -> None:
        """Later comparisons may use the sizes of the shape at this expression."""
        self._shapes.setdefault((shape.leading, shape.dimensions), at)
        count = len(shape.dimensions)
        if shape.leading:
            self._sizes.setdefault("...", f"{at}[:-{count}]" if count else at)
        for dimension, element in _elements(shape, at):
            self._sizes.setdefault(dimension, element)

    def _forget(self, shape: Shape) -> None:
        """Sizes that only an argument gives which may be None cannot be used."""
        for dimension in ("...", *shape.dimensions) if shape.leading else shape.dimensions:
            self._sizes.setdefault(dimension, "")

    def _size(self, dimension: str | int) -> str | None:
        if isinstance(dimension, int):
            return str(dimension)
        if (known := self._sizes.get(dimension)) == "":
            raise ValueError(f"{dimension} is first given by an argument that may be None")
        return known

    def _whole(self, shape: Shape) -> str | None:
        """An expression for the whole shape, where all its sizes are known."""
        if (same := self._shapes.get((shape.leading, shape.dimensions))) is not None:
            return same
        sizes = [self._size(dimension) for dimension in shape.dimensions]
        leading = self._size("...") if shape.leading else None
        if None in sizes or (shape.leading and leading is None):
            return None
        own = f"({', '.join(map(str, sizes))}{',' * (len(sizes) == 1)})"
        if leading is None:
            return own
        return f"{leading} + {own}" if sizes else leading

    def _differs(self, shape: Shape, at: str) -> str:
        """An expression that is true when the shape at this expression is wrong."""
        if (expected := self._whole(shape)) is not None:
            return f"{at} != {expected}"
        count = len(shape.dimensions)
        found = [f"len({at}) {'<' if shape.leading else '!='} {count}"] if count else []
        if shape.leading and (leading := self._size("...")) is not None:
            found.append(f"{at}[:-{count}] != {leading}")
        here: dict[str | int, str] = {}
        for dimension, element in _elements(shape, at):
            known = self._size(dimension) or here.get(dimension)
            here.setdefault(dimension, element)
            if known is not None:
                found.append(f"{element} != {known}")
        return " or ".join(found)


def _elements(shape: Shape, at: str) -> list[tuple[str | int, str]]:
    """(dimension, expression of its size) in the shape at an expression."""
    first = -len(shape.dimensions) if shape.leading else 0
    return [(d, f"{at}[{first + i}]") for i, d in enumerate(shape.dimensions)]
