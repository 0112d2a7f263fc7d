"""What every tokenizer can do, and how one is found and read back by its kind."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from byhand import registry
from byhand.errors import UserError


@runtime_checkable
class Tokenizer(Protocol):
    """Turns text into token ids and back. The module of each kind exports its class under the name
    `Tokenizer` too: `text/character.py` is the kind "character".

    Attributes:
        kind: the name of its module.
    """

    kind: str

    def encode(self, text: str) -> npt.NDArray[np.int64]:
        """The ids of `text`: int64 of shape (n,). UserError if some of it has no id."""
        ...

    def decode(self, ids: npt.ArrayLike) -> str:
        """The text of `ids`, any sequence of integers. UserError on an id out of range."""
        ...

    def __len__(self) -> int:
        """The size of the vocabulary: ids are 0 .. len - 1."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """JSON data with at least "kind"; `from_dict` reads it back."""
        ...

    @classmethod
    def from_dict(cls, data: object) -> Tokenizer:
        """The tokenizer that `to_dict` described. UserError if `data` is anything else."""
        ...

    def sha256(self) -> str:
        """A fingerprint: equal for two tokenizers if they give the same ids for every text."""
        return hashlib.sha256(json.dumps(self.to_dict()).encode("ascii")).hexdigest()


def tokenizer_of(data: object) -> Tokenizer:
    """The tokenizer of any kind that `to_dict` described. UserError if there is no such kind or
    the description is wrong.
    """
    if not isinstance(data, dict) or "kind" not in data:
        raise UserError("the tokenizer's description does not say of which kind it is")
    found: Tokenizer = registry.find("text", data["kind"]).Tokenizer.from_dict(data)
    return found


def opening(tokenizer: Tokenizer) -> npt.NDArray[np.int64]:
    """The ids to begin a text with where there is no prompt: those of a newline, or id 0 if the
    vocabulary has no newline. int64 of shape (n,), n at least 1.
    """
    try:
        ids = tokenizer.encode("\n")
    except UserError:
        ids = np.empty(0, np.int64)
    return ids if len(ids) else np.zeros(1, np.int64)
