"""Byte-pair encoding: words divided by merges, as GPT does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from byhand import _text
from byhand.errors import UserError
from byhand.text import bytes_alphabet
from byhand.text.counting import (
    Progress,
    Texts,
    added_tokens,
    count_words,
    learned,
    special_tokens_of,
)
from byhand.text.formats import parts
from byhand.text.pretokenise import pattern_named
from byhand.text.trained import TrainedTokenizer


class BPETokenizer(TrainedTokenizer):
    """Each word begins as its bytes (or characters); then neighbours that form a merge of the
    vocabulary are joined, the merge that was learned first before all others, until none is left.

    Source: Sennrich, Haddow and Birch 2016, arXiv:1508.07909; on bytes: Radford et al. 2019,
    "Language models are unsupervised multitask learners".
    """

    kind = "bpe"

    @classmethod
    def train(
        cls,
        texts: Texts,
        vocabulary_size: int = 8192,
        *,
        special_tokens: Iterable[str] | None = None,
        pattern: str | None = "gpt2",
        byte_level: bool = True,
        end_of_word_suffix: str = "",
        min_frequency: int = 0,
        limit_alphabet: int | None = None,
        initial_alphabet: Sequence[str] = (),
        max_token_length: int | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> BPETokenizer:
        """A tokenizer for texts. Again and again the most frequent pair of neighbours becomes a
        token, until the vocabulary is full or no pair is left; of equally frequent pairs that with
        the lower ids (first that of the left token).

        Args:
            texts: a str, the path of a UTF-8 file, or several of them.
            vocabulary_size: how many tokens there are at most, with the special ones.
            special_tokens: byte-level, they have the last ids (default: none); otherwise the first,
                and the first of them stands for unknown characters (default: "<unk>").
            pattern: how a byte-level text is divided into words, which no token crosses: "gpt2",
                "gpt4", "llama3", "qwen2", "o200k", "tekken", any regular expression (for those
                without a scanner the package `regex` is needed), or None: not at all.
            byte_level: True: the ids 0 .. 255 are the bytes, then come the merges in order, and
                every text can be encoded. False: words begin as characters, and as in SentencePiece
                a word begins with "▁" in place of the space before it.
            end_of_word_suffix: without byte_level, what marks the last character of a word instead
                of "▁" before the first, such as "</w>"; words then are what is between white space.
            min_frequency: a pair that occurs less often is not joined.
            limit_alphabet: without byte_level, how many characters are tokens at most, the most
                frequent ones.
            initial_alphabet: without byte_level, characters that are tokens in any case.
            max_token_length: in bytes if byte_level, else in characters.
            threads: for counting words. Default: `byhand.get_num_threads()`. The vocabulary is
                the same for any number.
            progress: called with how much is done, and all of it.

        UserError if the vocabulary is smaller than its alphabet, there is no text, or an argument
        is wrong.
        """
        if special_tokens is None:
            special_tokens = () if byte_level else ("<unk>",)
        special = special_tokens_of(special_tokens)
        if byte_level:
            description = _of_bytes(pattern, end_of_word_suffix)
        else:
            description = _of_characters(pattern, end_of_word_suffix, special)
        counts = count_words(texts, None, description["pre_tokenizer"], threads)
        vocabulary, merges = learned(
            _text.train_bpe,
            counts,
            vocabulary_size,
            min_frequency=min_frequency,
            special_tokens=[token.encode() for token in special],
            suffix=end_of_word_suffix.encode(),
            byte_level=bool(byte_level),
            limit_alphabet=limit_alphabet,
            initial_alphabet=list(initial_alphabet),
            max_token_length=max_token_length,
            progress=progress,
        )
        written = bytes_alphabet.to_alphabet if byte_level else bytes.decode
        description["added_tokens"] = added_tokens(special)
        if byte_level:  # special tokens are texts, and the vocabulary is written in bytes
            first = len(vocabulary) - len(special)
            vocabulary = vocabulary[:first]
            for id, token in enumerate(description["added_tokens"], first):
                token["id"] = id
        vocab = {written(token): id for id, token in enumerate(vocabulary)}
        for token in special:
            if byte_level and token in vocab:
                raise UserError(
                    f"the special token {token!r} cannot be told from the token that a byte-level "
                    "vocabulary writes in this way"
                )
        description["model"] = {
            "type": "BPE",
            "unk_token": None if byte_level else special[0],
            # Neighbours that are unknown become one token, as in SentencePiece.
            "fuse_unk": not byte_level and not end_of_word_suffix,
            "end_of_word_suffix": end_of_word_suffix or None,
            "vocab": vocab,
            "merges": [[written(left), written(right)] for left, right in merges],
        }
        return cls(description)


def _of_bytes(pattern: str | None, suffix: str) -> dict[str, Any]:
    if suffix:
        raise UserError("end_of_word_suffix is for byte_level=False: bytes have their own spaces")
    if pattern is not None and not isinstance(pattern, str):
        raise UserError(f"pattern is a name, a regular expression or None, not {pattern!r:.60}")
    patterns = [] if pattern is None else [pattern_named(pattern)]
    return {
        "pre_tokenizer": parts.byte_level_words(patterns),
        "decoder": parts.byte_level(use_regex=True),
    }


def _of_characters(pattern: str | None, suffix: str, special: list[str]) -> dict[str, Any]:
    if pattern not in (None, "gpt2"):
        raise UserError("pattern is for byte_level=True: words of characters end at spaces")
    if not special:
        raise UserError("special_tokens needs one, the first, that stands for unknown characters")
    if suffix:
        return {
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "decoder": {"type": "BPEDecoder", "suffix": suffix},
        }
    words = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    return {"pre_tokenizer": words, "decoder": words}


Tokenizer = BPETokenizer
