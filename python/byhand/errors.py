"""The exception for mistakes that a user can correct."""

from __future__ import annotations

from collections.abc import Iterable


class UserError(ValueError):
    """Something in the input is wrong; the message is one sentence that says what is wrong and, if
    possible, how to correct it.

    The command line prints it without a traceback and exits with 2. In a program it is a
    ValueError.
    """


class Instead:
    """The attribute of a class under a name that PyTorch has for it and that is not used here:
    reading it raises AttributeError, which says what to use.

    A ``__getattr__`` for such names would slow down the reading of every attribute of the class.
    """

    def __init__(self, use: str):
        self._use = use

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> None:
        raise AttributeError(
            f"{owner.__name__!r} object has no attribute {self._name!r}: use {self._use}"
        )


def suggestion(name: object, known: Iterable[str]) -> str:
    """ " (did you mean X?)" with the known name that is most like `name`; "" if none is."""
    import difflib

    in_lower_case = {one.lower(): one for one in known}
    near = difflib.get_close_matches(str(name).lower(), list(in_lower_case), n=1)
    return f" (did you mean {in_lower_case[near[0]]}?)" if near else ""
