"""The numpy reference: kernels in float64, with the checks of the native bindings."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from byhand.backend.native import Kernels
from byhand.backend.types import WRITTEN, Argument, arguments_of

_FLOAT64 = np.dtype(np.float64)


class _Reference(Kernels):
    """The kernels of the op modules that are imported. The others are imported when a kernel that
    is not yet there is asked for, by the function that `import_with` was given.
    """

    _import_all: Callable[[], object] | None = None

    def import_with(self, import_all: Callable[[], object]) -> None:
        self._import_all = import_all

    def _complete(self) -> None:
        if self._import_all is not None:
            import_all, self._import_all = self._import_all, None
            import_all()

    def register(self, name: str, kernel: Callable[..., None]) -> None:
        self.__dict__[name] = kernel
        self._names = sorted([*self._names, name])

    @property
    def available(self) -> list[str]:
        self._complete()
        return self._names

    def __getattr__(self, kernel: str) -> Callable[..., None]:
        if not kernel.startswith("_"):
            self._complete()
            if kernel in self.__dict__:
                return self.__dict__[kernel]
        return super().__getattr__(kernel)


reference = _Reference("reference", {})


def arguments(kernel: str) -> tuple[Argument, ...]:
    """The arguments of a kernel of any back end: they all have those of its reference. Raises
    MissingKernelError.
    """
    return getattr(reference, kernel).arguments()


def reference_kernel(body: Callable[..., None]) -> Callable[..., None]:
    """Registers ``body`` as the numpy reference of the kernel it is named after.

    The wrapper checks what the native binding checks: kind of array, dtype (float64), contiguity,
    writability. ``__wrapped__`` is the bare body, which also runs in float32 for calibration.
    """
    name = body.__name__
    described = functools.cache(lambda: arguments_of(body))  # at the first call: annotations cost

    @functools.wraps(body)
    def checked(*args: Any) -> None:
        expected = described()
        if len(args) != len(expected):
            raise TypeError(f"{name}: takes {len(expected)} arguments, got {len(args)}")
        for argument, value in zip(expected, args, strict=True):
            if argument.direction:
                _check_representation(name, argument, value)
        body(*args)

    checked.arguments = described  # type: ignore[attr-defined]
    reference.register(name, checked)
    return checked


def _check_representation(kernel: str, argument: Argument, value: Any) -> None:
    name = argument.name
    if value is None:
        if argument.optional:
            return
        raise TypeError(f"{kernel}: {name} must be an array, got None")
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{kernel}: {name} must be a numpy array, got {_describe(value)}")
    expected = _FLOAT64 if argument.floating else argument.dtype
    if value.dtype != expected:
        raise TypeError(f"{kernel}: {name} must be {expected}, got {_describe(value)}")
    if argument.direction in WRITTEN and not value.flags.writeable:
        raise TypeError(f"{kernel}: {name} is read-only")
    if not value.flags.aligned:
        raise TypeError(
            f"{kernel}: {name} must begin at a multiple of {value.itemsize} bytes, as its dtype "
            "asks"
        )
    if not argument.direction.startswith("Strided") and not value.flags.c_contiguous:
        raise TypeError(
            f"{kernel}: {name} must be C-contiguous, got strides {value.strides} "
            f"for shape {value.shape}"
        )


def _describe(value: Any) -> str:
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        kind, shape = type(value).__module__, tuple(value.shape)
        return f"a {kind} array of dtype {value.dtype} and shape {shape}"
    return type(value).__name__
