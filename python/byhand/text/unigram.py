"""Unigram: the division of a text whose tokens are most probable, as SentencePiece has it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from byhand import _text
from byhand.errors import UserError
from byhand.text import normalise, stream
from byhand.text.counting import (
    Progress,
    Texts,
    added_tokens,
    count_words,
    learned,
    special_tokens_of,
    without_special,
)
from byhand.text.formats import parts
from byhand.text.trained import TrainedTokenizer

SPECIAL = ("<unk>", "<s>", "</s>")
SPACE = "\u2581"  # what stands for a space in the vocabulary


class UnigramTokenizer(TrainedTokenizer):
    """Gives each token a probability, and divides a text so that the product of its tokens'
    probabilities is greatest. A character that is no token is <unk>.

    Spaces are part of the text: they become "▁", with which the tokens begin that begin words, so
    that `decode` gives back the text but for unknown characters.

    Source: Kudo 2018, "Subword Regularization", arXiv:1804.10959.
    """

    kind = "unigram"

    @classmethod
    def train(
        cls,
        texts: Texts,
        vocabulary_size: int = 8000,
        *,
        special_tokens: Iterable[str] = SPECIAL,
        normalizer: str = "identity",
        byte_fallback: bool = False,
        character_coverage: float = 0.9995,
        initial_alphabet: Sequence[str] = (),
        seed_size: int = 1_000_000,
        max_token_length: int = 16,
        shrinking: float = 0.75,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> UnigramTokenizer:
        """A tokenizer for texts. Its vocabulary is the special tokens, with byte_fallback the 256
        bytes, and the other tokens by descending probability.

        Args:
            texts: a str, the path of a UTF-8 file, or several of them.
            vocabulary_size: how many tokens there are at most, with the special ones.
            special_tokens: the first ids, in this order. <unk> must be among them.
            normalizer: "identity" changes no text; "nfkc" is that normal form; "nmt_nfkc" is
                SentencePiece's own, which also turns newlines and tabs into spaces.
            byte_fallback: whether an unknown character becomes the tokens of its bytes.
            character_coverage: which part of all characters are tokens, the most frequent ones.
            initial_alphabet: characters that are tokens in any case.
            seed_size: the number of strings from which tokens are chosen.
            max_token_length: in characters.
            shrinking: the part of the tokens that a step of choosing keeps.
            threads: default: `byhand.get_num_threads()`. The vocabulary is the same for any number.
            progress: called with how much is done, and all of it.

        UserError if the vocabulary is smaller than its alphabet, or an argument is wrong.
        """
        special = special_tokens_of(special_tokens, "<unk>")
        metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always"}
        description: dict[str, Any] = {
            "added_tokens": added_tokens(special),
            "normalizer": _normalizer(normalizer),
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {**metaspace, "split": True},
                    # No token reaches over the end of a line.
                    parts.split("\n", regex=False),
                ],
            },
            "decoder": {**metaspace, "split": True},
        }
        if byte_fallback:
            description["decoder"] = {
                "type": "Sequence",
                "decoders": [{"type": "ByteFallback"}, description["decoder"]],
            }
        counts = count_words(
            texts, description["normalizer"], description["pre_tokenizer"], threads
        )
        vocabulary = learned(
            _text.train_unigram,
            counts,
            vocabulary_size,
            special_tokens=special,
            byte_fallback=bool(byte_fallback),
            character_coverage=character_coverage,
            initial_alphabet=list(initial_alphabet),
            seed_size=seed_size,
            max_token_length=max_token_length,
            shrinking=shrinking,
            threads=stream.threads(threads),
            progress=progress,
        )
        scores = {token.decode(): score for token, score in vocabulary[len(special) :]}
        tokens = without_special(scores, special)
        description["model"] = {
            "type": "Unigram",
            "unk_id": special.index("<unk>"),
            "byte_fallback": bool(byte_fallback),
            "vocab": [[token, 0.0] for token in special] + [[t, scores[t]] for t in tokens],
        }
        return cls(description)


def _normalizer(name: str) -> dict[str, Any] | None:
    if name == "identity":
        return None
    if name == "nfkc":
        return {"type": "NFKC"}
    if name == "nmt_nfkc":
        return dict(normalise.nmt_nfkc())
    raise UserError(f"normalizer is identity, nfkc or nmt_nfkc, not {name!r}")


Tokenizer = UnigramTokenizer
