"""One token per word."""

from __future__ import annotations

from collections.abc import Iterable

from byhand.errors import UserError
from byhand.text.counting import (
    Progress,
    Texts,
    added_tokens,
    count_words,
    special_tokens_of,
)
from byhand.text.pretokenise import PATTERNS
from byhand.text.trained import TrainedTokenizer

SPECIAL = ("[PAD]", "[UNK]", "[SOS]", "[EOS]")


class WordTokenizer(TrainedTokenizer):
    """Numbers the words of a text by descending count. A word that is not among them is [UNK].

    "don't", "state-of-the-art", "3.14", "2024-01-02" and "10:30" are one word each; every other
    character that is neither letter, digit nor white space is a word of its own. White space is
    dropped, and `decode` puts one space between words, unless the tokenizer is lossless: there each
    word has the space before it, so that `decode(encode(text)) == text` for a text of known words.
    """

    kind = "word"

    @classmethod
    def train(
        cls,
        texts: Texts,
        vocabulary_size: int | None = None,
        *,
        special_tokens: Iterable[str] = SPECIAL,
        lowercase: bool = False,
        lossless: bool = False,
        min_frequency: int = 1,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> WordTokenizer:
        """A tokenizer for texts. Its vocabulary is the special tokens and the most frequent words;
        of equally frequent ones, those that come first in the order of their bytes.

        Args:
            texts: a str, the path of a UTF-8 file, or several of them.
            vocabulary_size: how many tokens there are at most, with the special ones. Default: all
                words.
            special_tokens: the first ids, in this order. [UNK] must be among them.
            lowercase: whether a text is made lower case.
            lossless: whether spaces are kept.
            min_frequency: a word that occurs less often is left out.
            threads: for counting. Default: `byhand.get_num_threads()`.
            progress: called with how much is done, and all of it.

        UserError if there are no words, or an argument is wrong.
        """
        special = special_tokens_of(special_tokens, "[UNK]")
        split = {
            "type": "Split",
            "pattern": {"Regex": PATTERNS["words_spaces" if lossless else "words"]},
            "behavior": "Isolated" if lossless else "Removed",
            "invert": not lossless,
        }
        normalizer = {"type": "Lowercase"} if lowercase else None
        if not isinstance(vocabulary_size, int | None):
            raise UserError(f"vocabulary_size is a whole number, not {vocabulary_size!r}")
        if vocabulary_size is not None and vocabulary_size <= len(special):
            raise UserError(
                f"a vocabulary of {vocabulary_size} tokens has no room for words after "
                f"{len(special)} special tokens"
            )
        if not isinstance(min_frequency, int):
            raise UserError(f"min_frequency is a whole number, not {min_frequency!r}")
        counts = count_words(texts, normalizer, split, threads)
        # As many words as tokens: some may be spelled like a special one.
        most = len(counts) if vocabulary_size is None else vocabulary_size
        words = counts.take_most_frequent(most, max(min_frequency, 0))
        if not words:
            raise UserError(
                "the text has no words"
                + (f" that occur {min_frequency} times" if min_frequency > 1 else "")
            )
        vocabulary = dict.fromkeys([*special, *map(bytes.decode, words)])
        if progress is not None:
            progress(1, 1)
        return cls(
            {
                "added_tokens": added_tokens(special),
                "normalizer": normalizer,
                "pre_tokenizer": split,
                "decoder": {"type": "Fuse"} if lossless else None,
                "model": {
                    "type": "WordLevel",
                    "unk_token": "[UNK]",
                    "vocab": {
                        token: id for id, token in enumerate(list(vocabulary)[:vocabulary_size])
                    },
                },
            }
        )


Tokenizer = WordTokenizer
