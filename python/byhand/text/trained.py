"""What the tokenizers that can be trained share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from byhand.text.counting import BlockSource
from byhand.text.pipeline import PipelineTokenizer

Self = TypeVar("Self", bound="TrainedTokenizer")


class TrainedTokenizer(PipelineTokenizer):
    """A tokenizer whose class has a method `train`."""

    @classmethod
    def train(cls: type[Self], *args: Any, **options: Any) -> Self:
        """A tokenizer for texts: see the class of each kind."""
        raise NotImplementedError(f"{cls.__name__} cannot be trained")

    @classmethod
    def from_text(
        cls: type[Self], text: str, vocabulary_size: int | None = None, **options: Any
    ) -> Self:
        """`train` on one text, with its options."""
        return cls.from_blocks([text], vocabulary_size, **options)

    @classmethod
    def from_blocks(
        cls: type[Self],
        blocks: Iterable[str],
        vocabulary_size: int | None = None,
        **options: Any,
    ) -> Self:
        """`train` on a text in consecutive pieces, with its options."""
        if vocabulary_size is not None:
            options["vocabulary_size"] = vocabulary_size
        return cls.train(BlockSource(blocks), **options)
