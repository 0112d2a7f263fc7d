"""What a run is: the model, the text, the tokenizer and the training settings, as one JSON file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from byhand.errors import UserError
from byhand.text import CharacterTokenizer
from byhand.training.settings import TrainingSettings

if TYPE_CHECKING:
    from byhand.models.gpt import GPTConfig


@dataclass(frozen=True)
class Corpus:
    """The text a run learns from, by name and by content."""

    name: str
    sha256: str
    characters: int

    @classmethod
    def of(cls, name: str, text: str) -> Corpus:
        return cls(name, hashlib.sha256(text.encode()).hexdigest(), len(text))

    def require(self, text: str) -> None:
        """UserError unless `text` is, character for character, the text this describes."""
        if Corpus.of(self.name, text) != self:
            raise UserError(
                f"the corpus {self.name} is no longer the text this run began with "
                f"({len(text)} characters, then {self.characters}): bring back the former text, or "
                "start a new run"
            )


@dataclass(frozen=True)
class RunConfig:
    """The content of config.json, and of every checkpoint of the run."""

    model: GPTConfig
    training: TrainingSettings
    corpus: Corpus
    tokenizer: CharacterTokenizer

    def to_json(self) -> dict[str, Any]:
        return {
            "format": 1,
            "model": self.model.to_dict(),
            "training": self.training.to_json(),
            "corpus": vars(self.corpus),
            "tokenizer": self.tokenizer.to_json(),
        }

    @classmethod
    def from_json(cls, data: object) -> RunConfig:
        """The run that `to_json` described. UserError says what is wrong with `data`."""
        from byhand.models.gpt import GPTConfig

        if not isinstance(data, dict) or data.get("format") != 1:
            raise UserError("it does not describe a run of this version of byhand")
        try:
            config = cls(
                GPTConfig(**data["model"]),
                TrainingSettings.from_json(data["training"]),
                Corpus(**data["corpus"]),
                CharacterTokenizer.from_json(data["tokenizer"]),
            )
        except (KeyError, TypeError) as error:
            raise UserError(f"it is incomplete or has something unknown ({error})") from None
        if len(config.tokenizer) != config.model.vocabulary_size:
            raise UserError(
                f"its tokenizer has {len(config.tokenizer)} characters, its model a vocabulary of "
                f"{config.model.vocabulary_size}"
            )
        return config

    def same_model(self, other: RunConfig) -> bool:
        """Whether a checkpoint of the one fits the other: equal models and equal token ids."""
        return self.model == other.model and self.tokenizer == other.tokenizer
