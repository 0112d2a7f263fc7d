"""The types in the signatures of kernels: how an argument is used, and what its elements are.

    def layernorm_forward(y: Out, mean: Out[np.float32], x: In, w: In, b: In | None, eps: float)

The directions are the words of csrc/core/array.h: `In` is read, every element of `Out` is written,
`Acc` is added into, `Mut` is read and written in place; `StridedIn` and `StridedOut` may have any
strides, all others are C-contiguous. `| None` allows None.

A direction alone means the floating dtype of the call: float32, bfloat16 on a GPU, float64 on the
reference (check mode). A dtype in brackets is fixed:

    In[np.float32]    float32 where the call is bfloat16 too: statistics, losses, moments. In check
                      mode float64, as all that floats. `Acc` is always this.
    In[np.int64]      token ids, lengths, counters
    In[np.bool_]      masks
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np

Element = TypeVar("Element", bound=np.generic)

In = Annotated[np.ndarray[Any, np.dtype[Element]], "In"]
Out = Annotated[np.ndarray[Any, np.dtype[Element]], "Out"]
Mut = Annotated[np.ndarray[Any, np.dtype[Element]], "Mut"]
StridedIn = Annotated[np.ndarray[Any, np.dtype[Element]], "StridedIn"]
StridedOut = Annotated[np.ndarray[Any, np.dtype[Element]], "StridedOut"]
Acc = Annotated[np.ndarray[Any, np.dtype[np.float32]], "Acc"]

WRITTEN = ("Out", "Acc", "Mut", "StridedOut")

Array = Any  # a numpy.ndarray or a cupy.ndarray

# What products are computed in. In bf16 their factors are rounded to bfloat16, and everything else,
# every array too, stays float32.
PRECISIONS = ("float32", "bf16")


class Argument(NamedTuple):
    """An argument of a kernel. direction: "" for a scalar. optional: whether it may be None.
    dtype: None for the floating dtype of the call, and for scalars.
    """

    name: str
    direction: str
    optional: bool
    dtype: np.dtype | None

    @property
    def floating(self) -> bool:
        """Whether it is an array of floating numbers, float64 in check mode."""
        return bool(self.direction) and (self.dtype is None or self.dtype.kind == "f")


def arguments_of(body: Callable[..., None]) -> tuple[Argument, ...]:
    """The arguments of a kernel, from the annotations of its reference."""
    hints = typing.get_type_hints(body, include_extras=True)
    return tuple(_argument(name, hints[name]) for name in inspect.signature(body).parameters)


def _argument(name: str, hint: Any) -> Argument:
    options = typing.get_args(hint)
    optional = type(None) in options
    if optional:
        hint = next(option for option in options if option is not type(None))
    if not hasattr(hint, "__metadata__"):
        return Argument(name, "", optional, None)
    element = typing.get_args(typing.get_args(hint.__origin__)[1])[0]
    dtype = None if isinstance(element, TypeVar) else np.dtype(element)
    return Argument(name, hint.__metadata__[0], optional, dtype)
