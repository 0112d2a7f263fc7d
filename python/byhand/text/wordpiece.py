"""WordPiece: words divided into the longest tokens, as BERT does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from byhand import _text
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

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PREFIX = "##"


class WordPieceTokenizer(TrainedTokenizer):
    """Divides each word, from left to right, into the longest tokens of the vocabulary; those
    inside a word are written with ## before them. A word that cannot be divided so is [UNK].

    Source: Schuster and Nakajima 2012, "Japanese and Korean voice search"; Devlin et al. 2018,
    arXiv:1810.04805. Text is divided into words as by BERT: at white space and punctuation, and
    around each Chinese character.
    """

    kind = "wordpiece"

    @classmethod
    def train(
        cls,
        texts: Texts,
        vocabulary_size: int = 8192,
        *,
        special_tokens: Iterable[str] = SPECIAL,
        lowercase: bool = True,
        score: str = "likelihood",
        min_frequency: int = 2,
        limit_alphabet: int | None = None,
        initial_alphabet: Sequence[str] = (),
        max_token_length: int | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> WordPieceTokenizer:
        """A tokenizer for texts. Its vocabulary is the special tokens, the characters, and the
        tokens that pairs of others were joined to, in this order.

        Args:
            texts: a str, the path of a UTF-8 file, or several of them.
            vocabulary_size: how many tokens there are at most, with the special ones.
            special_tokens: the first ids, in this order. [UNK] must be among them. If [CLS] and
                [SEP] are, `encode` puts them around a text.
            lowercase: whether a text is made lower case without accents, as BERT's "uncased".
            score: which pair is joined next. "likelihood": the one that adds most to the log
                likelihood of the words; "ratio": the one with the greatest c(ab) / (c(a) c(b)), c
                being the counts; "frequency": the most frequent one, as Hugging Face's trainer.
            min_frequency: a pair that occurs less often is not joined.
            limit_alphabet: how many characters are tokens at most, the most frequent ones.
            initial_alphabet: characters that are tokens in any case.
            max_token_length: in characters, without ##.
            threads: for counting words. Default: `byhand.get_num_threads()`. The vocabulary is
                the same for any number.
            progress: called with how much is done, and all of it.

        UserError if the vocabulary is smaller than its alphabet, or an argument is wrong.
        """
        special = special_tokens_of(special_tokens, "[UNK]")
        description: dict[str, Any] = {
            "added_tokens": added_tokens(special),
            "normalizer": {
                "type": "BertNormalizer",
                "clean_text": True,
                "handle_chinese_chars": True,
                "strip_accents": None,
                "lowercase": bool(lowercase),
            },
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": None,
            "decoder": {"type": "WordPiece", "prefix": PREFIX, "cleanup": True},
        }
        if "[CLS]" in special and "[SEP]" in special:
            ids = {token: id for id, token in enumerate(special)}
            description["post_processor"] = parts.template(["[CLS]"], ["[SEP]"], ids)
        counts = count_words(
            texts, description["normalizer"], description["pre_tokenizer"], threads
        )
        vocabulary = learned(
            _text.train_wordpiece,
            counts,
            vocabulary_size,
            special_tokens=special,
            prefix=PREFIX.encode(),
            score=score,
            min_frequency=min_frequency,
            limit_alphabet=limit_alphabet,
            initial_alphabet=list(initial_alphabet),
            max_token_length=max_token_length,
            progress=progress,
        )
        tokens = without_special(map(bytes.decode, vocabulary[len(special) :]), special)
        description["model"] = {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": PREFIX,
            "max_input_chars_per_word": 100,
            "vocab": {token: id for id, token in enumerate(special + tokens)},
        }
        return cls(description)


Tokenizer = WordPieceTokenizer
