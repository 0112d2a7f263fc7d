"""What a run is: the model, the task, the data, the tokenizer and the training settings."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from byhand import registry
from byhand.config import Config, Settings, config, positive_int, string
from byhand.data.corpus import TextSource, absolute_name, corpus_names, open_corpus
from byhand.errors import UserError
from byhand.runs.settings import TrainingSettings
from byhand.text.tokenizer import Tokenizer

FORMAT = 2


@config
class Corpus(Settings):
    """The text a run learns from, by name and by content.

    `edition` is the program that the text comes with, such as "Python 3.12.1" for python-docs; ""
    for any other text.
    """

    name: str = string()
    sha256: str = string()
    characters: int = positive_int()
    edition: str = string("", absent="")  # missing in runs of byhand 0.1

    @classmethod
    def of(cls, name: str, text: str | TextSource) -> Corpus:
        """The description of `text`."""
        source = TextSource.of(text)
        return cls(name, source.sha256, source.characters, source.edition)

    def reopen(self, named: str | None, command: str) -> tuple[Corpus, TextSource]:
        """The text this describes, and its description with the place where it is now.

        Args:
            named: the corpus that the user named, for a text that was moved; None: it is where it
                was.
            command: the command line that names another place, for the error message.

        UserError if it is not there, or is another text.
        """
        name = self.name if named is None else named
        if named is None and name not in corpus_names() and not Path(name).exists():
            raise UserError(
                f"the text of this run was {name}, which is not there: if it was moved, name its "
                f"place with {command}"
            )
        text = open_corpus(name)
        self.require_same(text)
        moved = self if named is None else self.replace(name=absolute_name(named))
        return moved, text

    def require_same(self, text: str | TextSource) -> None:
        """UserError unless `text` is, character for character, the text this describes."""
        source = TextSource.of(text)
        if (source.sha256, source.characters) == (self.sha256, self.characters):
            return
        if self.edition and source.edition:
            raise UserError(
                f"{self.name} of {source.edition} is not the text this run began with, which is "
                f"that of {self.edition}: use {self.edition}, or start a new run"
            )
        name = self.name if isinstance(text, str) else source.name
        raise UserError(
            f"{name} is not the text this run began with (now {source.characters:,} characters, "
            f"before {self.characters:,}): bring back the former text, or start a new run"
        )


@config
class TokenizerId(Settings):
    """Which tokenizer a run uses: its kind, and the SHA-256 that `Tokenizer.sha256` gives.

    The tokenizer itself is in the run's tokenizer.json.
    """

    kind: str = string()
    sha256: str = string()

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> TokenizerId:
        """The description of `tokenizer`."""
        return cls(tokenizer.kind, tokenizer.sha256())


@config
class Table(Settings):
    """The arrays a run learns from, by name and by content."""

    name: str = string()
    sha256: str = string()
    examples: int = positive_int()

    @classmethod
    def of(cls, name: str, **arrays: npt.NDArray[Any]) -> Table:
        """The description of arrays whose rows belong together."""
        digest = hashlib.sha256()
        for key in sorted(arrays):
            array = np.ascontiguousarray(arrays[key])
            digest.update(f"{key} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.reshape(-1).view(np.uint8).data)
        return cls(name, digest.hexdigest(), len(next(iter(arrays.values()))))


_DATA: dict[str, type[Corpus] | type[Table]] = {"corpus": Corpus, "table": Table}


@dataclass(frozen=True)
class RunConfig:
    """The content of config.json, and part of every checkpoint of the run.

    Attributes:
        kind: of the model; "gpt" is `byhand.models.gpt`.
        model: an instance of that module's `Config`.
        training: the settings.
        data: what the run learns from.
        tokenizer: None for a model that reads no text.
        task: what is learned; "language_model" is `byhand.tasks.language_model`.
    """

    kind: str
    model: Config
    training: TrainingSettings
    data: Corpus | Table
    tokenizer: TokenizerId | None = None
    task: str = "language_model"

    def to_dict(self) -> dict[str, Any]:
        """JSON data; `from_dict` reads it back."""
        data_kind = next(kind for kind, cls in _DATA.items() if isinstance(self.data, cls))
        return {
            "format": FORMAT,
            "kind": self.kind,
            "task": self.task,
            "model": self.model.to_dict(),
            "training": self.training.to_dict(),
            "data": {"kind": data_kind, **self.data.to_dict()},
            "tokenizer": None if self.tokenizer is None else self.tokenizer.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: object) -> RunConfig:
        """The run that `to_dict` described. UserError says what is wrong with `data`."""
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            written = data.get("format") if isinstance(data, dict) else None
            raise UserError(
                f"it does not describe a run in format {FORMAT}"
                + (f" but in format {written}" if isinstance(written, int) else "")
            )
        expected = {"format", "kind", "task", "model", "training", "data", "tokenizer"}
        if wrong := sorted(expected ^ data.keys()):
            fault = "missing" if wrong[0] in expected else "unknown"
            raise UserError(f"{wrong[0]!r} is {fault}")
        kind, task, described = data["kind"], data["task"], data["data"]
        registry.find("tasks", task)
        if not isinstance(described, dict) or described.get("kind") not in list(_DATA):
            raise UserError("its data is of an unknown kind")
        rest = {name: value for name, value in described.items() if name != "kind"}
        tokenizer = data["tokenizer"]
        try:
            return cls(
                kind,
                registry.find("models", kind).Config.from_dict(data["model"]),
                TrainingSettings.from_dict(data["training"]),
                _DATA[described["kind"]].from_dict(rest),
                None if tokenizer is None else TokenizerId.from_dict(tokenizer),
                task,
            )
        except (TypeError, ValueError) as error:
            raise UserError(str(error)) from None

    def difference(self, other: RunConfig) -> tuple[str, Any, Any] | None:
        """The first field in which the two differ, such as "training.lr", and its two values.

        None if they are of one run. A run may grow (`training.steps`), and its text may be moved
        (`data.name`).
        """
        own, others = _flat(self.to_dict()), _flat(other.to_dict())
        for name in [*own, *(name for name in others if name not in own)]:
            if name in ("training.steps", "data.name"):
                continue
            if own.get(name) != others.get(name):
                return name, own.get(name), others.get(name)
        return None


def _flat(data: dict[str, Any]) -> dict[str, Any]:
    """Nested dicts as one, with keys such as "training.lr"."""
    flat: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": item for inner, item in _flat(value).items()}
        else:
            flat[name] = value
    return flat
