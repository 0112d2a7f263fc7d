"""Tests of the guide's rows, each with a planted bug that must turn it red."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Planted:
    """A test of a row, and a wrong replacement of one attribute that the test must notice.

    Attributes:
        row: of docs/guide_map.md.
        bug: what the replacement does wrong, in words.
        owner, name: the attribute.
        wrong: the replacement, made from the right value.
        arguments: of the test, apart from the fixtures tmp_path and monkeypatch.
    """

    row: str
    test: Callable[..., None]
    bug: str
    owner: Any
    name: str
    wrong: Callable[[Any], Any]
    arguments: dict[str, Any]

    @property
    def path(self) -> str:
        """The test as docs/guide_map.md names it."""
        return f"{self.test.__module__.replace('.', '/')}.py::{self.test.__name__}"

    def is_noticed(self, patch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Runs the test with the bug; it must fail by an assertion."""
        arguments = dict(self.arguments)
        for name, fixture in (("tmp_path", tmp_path), ("monkeypatch", patch)):
            if name in inspect.signature(self.test).parameters:
                arguments[name] = fixture
        patch.setattr(self.owner, self.name, self.wrong(getattr(self.owner, self.name)))
        with pytest.raises(AssertionError):
            self.test(**arguments)


PLANTED: list[Planted] = []


def planted(
    row: str, bug: str, owner: Any, name: str, wrong: Callable[[Any], Any], **arguments: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Lists a test of a row with its planted bug; see `Planted`."""

    def mark(test: Callable[..., None]) -> Callable[..., None]:
        PLANTED.append(Planted(row, test, bug, owner, name, wrong, arguments))
        return test

    return mark
