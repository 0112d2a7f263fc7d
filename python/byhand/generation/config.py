"""How a text is generated: the settings, with Hugging Face's names."""

from __future__ import annotations

import json
import numbers
from collections.abc import Sequence
from typing import Any

from byhand.config import (
    Config,
    choice,
    config,
    field,
    flag,
    json_object,
    non_negative,
    non_negative_int,
    number,
    positive,
    positive_int,
)
from byhand.errors import UserError
from byhand.values import Number, Text, Values, WholeNumber, WholeNumbers


class _TokenIds(Values):
    """One token id, or a sequence of them; on the command line `1,2`."""

    metavar = "N,N,..."

    def accept(self, value: Any) -> int | tuple[int, ...]:
        try:
            if isinstance(value, numbers.Integral):
                return WholeNumber(0).accept(value)
            accepted = WholeNumbers(0).accept(value)
        except (TypeError, ValueError) as error:
            raise type(error)("a token id or a sequence of them") from None
        if not accepted:
            raise ValueError("a token id or a sequence of at least one")
        return accepted

    def parse(self, text: str) -> int | tuple[int, ...]:
        ids = WholeNumbers(0).parse(text)
        return ids[0] if len(ids) == 1 else ids


class _Sequences(Values):
    """A sequence of sequences of token ids; on the command line as JSON."""

    metavar = "JSON"

    def accept(self, value: Any) -> tuple[tuple[int, ...], ...]:
        wanted = "a sequence of sequences of token ids, such as [[5], [7, 8]]"
        if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
            raise TypeError(wanted)
        try:
            accepted = tuple(WholeNumbers(0).accept(one) for one in value)
        except (TypeError, ValueError) as error:
            raise type(error)(wanted) from None
        if not all(accepted) or not accepted:
            raise ValueError(f"{wanted}, none of them empty")
        return accepted

    def parse(self, text: str) -> tuple[tuple[int, ...], ...]:
        try:
            return self.accept(json.loads(text))
        except (ValueError, RecursionError):
            raise TypeError("a JSON list of lists of token ids, such as [[5], [7, 8]]") from None


class _Strings(Values):
    """A string or a sequence of them; on the command line one string, or a JSON list."""

    metavar = "TEXT"

    def accept(self, value: Any) -> tuple[str, ...]:
        many = (value,) if isinstance(value, str) else value
        if not isinstance(many, (tuple, list)) or not all(isinstance(s, str) for s in many):
            raise TypeError("a string or a sequence of strings")
        if not many or not all(many):
            raise ValueError("a string or a sequence of strings, none of them empty")
        return tuple(many)

    def parse(self, text: str) -> tuple[str, ...]:
        if not text.startswith("["):
            return self.accept(text)
        try:
            return self.accept(json.loads(text))
        except ValueError:
            raise TypeError('a string, or a JSON list such as ["a", "b"]') from None


class _EarlyStopping(Values):
    """True, False or "never"."""

    metavar = "true|false|never"

    def accept(self, value: Any) -> bool | str:
        if isinstance(value, bool) or value == "never":
            return value
        raise TypeError("True, False or 'never'")

    def parse(self, text: str) -> bool | str:
        known: dict[str, bool | str] = {"true": True, "false": False, "never": "never"}
        if text.lower() not in known:
            raise TypeError("true, false or never")
        return known[text.lower()]


_0_to_1 = Number("at least 0 and at most 1", lambda x: 0 <= x <= 1)
_above_0_to_1 = Number("greater than 0 and at most 1", lambda x: 0 < x <= 1)
DEFAULT_NEW_TOKENS = 20
_OVERFLOW = ("error", "window", "truncate")
# What acts only when tokens are drawn, or only with beams, with its neutral value.
_OF_SAMPLING = {"top_k": 0, "top_p": 1.0, "min_p": None, "typical_p": 1.0}
_OF_BEAMS = {"length_penalty": 1.0, "early_stopping": False}


@config
class GenerationConfig(Config):
    """The settings of `generate`, with the names and meanings of Hugging Face's GenerationConfig.

    Attributes:
        max_length: the most tokens of a text, its prompt included. Of a batch each row's own prompt
            counts, without padding, so that a row is the same alone.
        max_new_tokens: the most tokens after the prompt; if given, max_length has no effect. With
            neither there are 20.
        min_new_tokens: no end token is chosen before so many tokens.
        do_sample: draw from the distribution; otherwise take the most likely token (greedy).
        temperature: the logits are divided by it before the softmax; 0 takes the most likely token.
        top_k: draw among the k most likely tokens; 0 is off. Hugging Face's default is 50, which
            would cut a distribution without being asked. With penalty_alpha, the candidates.
        top_p: draw among the fewest tokens whose probabilities add up to p (Holtzman et al., 2020).
        min_p: draw among tokens with at least this part of the largest probability.
        typical_p: draw among the tokens whose information is nearest to the entropy, with this
            probability together (Meister et al., 2023).
        repetition_penalty: logits of tokens that are in the text, the prompt included, are divided
            by it if positive and multiplied if negative (Keskar et al., 2019).
        no_repeat_ngram_size: no sequence of so many tokens occurs twice in a text; 0 is off.
        num_beams: how many texts are kept in beam search; 1 is no beam search.
        num_beam_groups: groups of beams that differ (Vijayakumar et al., 2018).
        diversity_penalty: subtracted from a score for each equal token of an earlier group.
        penalty_alpha: contrastive search (Su et al., 2022) with this weight of the degeneration
            penalty among top_k candidates.
        length_penalty: beam scores are divided by the length to this power.
        early_stopping: when beam search ends: True, with num_beams finished texts; False, when a
            better one is unlikely; "never", when there cannot be a better one.
        num_return_sequences: texts of each prompt.
        eos_token_id: the token, or several, that end a text.
        pad_token_id: what fills a row that ended before others, and the left of a shorter prompt;
            None: the first end token.
        bad_words_ids: sequences of tokens that are never generated.
        stop_strings: a text ends when one of them occurs in what follows the prompt.
        regex: a regular expression that the text after the prompt matches (see `constrain`).
        json_schema: a JSON schema, a dict, under which the text after the prompt is valid JSON.
        seed: of the random numbers; one seed gives the same text alone and in a batch, with and
            without cache, on the CPU and on the GPU.
        overflow: what happens if prompt and new tokens do not fit the context: "error" refuses;
            "window" drops the older half of a full context and reads the newer one again;
            "truncate" reads the end of the prompt that leaves space for the new tokens, or for half
            a context of them if they are more, and ends the text where the context is full.
        use_cache: keep keys and values of earlier positions; the text is the same without.
        prompt_lookup_num_tokens: for one text, guess up to so many tokens from what followed its
            last tokens where they occurred before, and read them together (see `lookup`); the text
            is the same. None: no guesses.
        max_matching_ngram_size: the most last tokens that are looked for.

    Raises ValueError or TypeError naming the field that is wrong.
    """

    max_length: int | None = positive_int(None, help="most tokens, with the prompt")
    max_new_tokens: int | None = non_negative_int(None, help="most tokens after the prompt")
    min_new_tokens: int = non_negative_int(0, help="tokens before a text may end")
    do_sample: bool = flag(False, help="draw tokens; else the most likely one is taken")
    temperature: float = non_negative(
        1.0, help="the logits are divided by it; below 1 favours likely tokens, 0 takes the first"
    )
    top_k: int = non_negative_int(0, help="draw among the N most likely tokens; 0: among all")
    top_p: float = field(_0_to_1, 1.0, help="draw among the fewest tokens of this probability")
    min_p: float | None = field(
        _0_to_1, None, help="draw among tokens with this part of the largest probability"
    )
    typical_p: float = field(
        _above_0_to_1, 1.0, help="draw among tokens of typical information, of this probability"
    )
    repetition_penalty: float = positive(1.0, help="above 1 tokens of the text become less likely")
    no_repeat_ngram_size: int = non_negative_int(0, help="no N tokens occur twice; 0: they may")
    num_beams: int = positive_int(1, help="texts kept in beam search")
    num_beam_groups: int = positive_int(1, help="groups of beams that differ")
    diversity_penalty: float = non_negative(0.0, help="for a token that an earlier group has")
    penalty_alpha: float | None = field(
        _above_0_to_1, None, help="contrastive search with this weight of the penalty"
    )
    length_penalty: float = number(1.0, help="beam scores are divided by the length to this power")
    early_stopping: bool | str = field(_EarlyStopping(), False, help="when beam search ends")
    num_return_sequences: int = positive_int(1, help="texts of each prompt")
    eos_token_id: int | tuple[int, ...] | None = field(
        _TokenIds(), None, help="the tokens that end a text"
    )
    pad_token_id: int | None = non_negative_int(None, help="fills rows that end before others")
    bad_words_ids: tuple[tuple[int, ...], ...] | None = field(
        _Sequences(), None, help="sequences of token ids that are never generated"
    )
    stop_strings: tuple[str, ...] | None = field(
        _Strings(), None, help="ends a text where it occurs; several as a JSON list"
    )
    regex: str | None = field(Text(), None, help="what is written matches this expression")
    json_schema: dict[str, Any] | None = json_object(
        None, help="what is written is JSON that is valid under this schema"
    )
    seed: int = non_negative_int(0, help="of the random numbers: one seed gives one text")
    overflow: str = choice(
        _OVERFLOW, "error", help="if the text does not fit the context: refuse, slide, or cut"
    )
    use_cache: bool = flag(True, help="keep keys and values; the text is the same without")
    prompt_lookup_num_tokens: int | None = positive_int(
        None, help="guess so many tokens from the text; it is the same, sooner if it repeats itself"
    )
    max_matching_ngram_size: int = positive_int(2, help="last tokens that a guess goes by")

    def check(self) -> None:
        self._check_lengths()
        self._check_sampling()
        if self.regex is not None and self.json_schema is not None:
            raise self.error("regex and json_schema do not go together")
        beams, groups = self.num_beams, self.num_beam_groups
        self.require(beams % groups == 0, "num_beams", f"a multiple of num_beam_groups = {groups}")
        if groups > 1 and self.do_sample:
            raise self.error("num_beam_groups and do_sample do not go together")
        if (groups > 1) != (self.diversity_penalty > 0):
            raise self.error("diversity_penalty above 0 and num_beam_groups above 1 go together")
        if beams == 1:
            for name, neutral in _OF_BEAMS.items():
                if getattr(self, name) != neutral:
                    raise self.error(f"{name} acts only with num_beams above 1")
        most = beams if beams > 1 or not self.do_sample else self.num_return_sequences
        if self.num_return_sequences > most:
            raise self.error(
                f"num_return_sequences = {self.num_return_sequences} needs as many num_beams, or "
                "do_sample=True without beams"
            )

    def _check_lengths(self) -> None:
        limit = self.max_new_tokens
        if limit is not None:
            self.require(
                self.min_new_tokens <= limit, "min_new_tokens", f"at most max_new_tokens = {limit}"
            )

    def _check_sampling(self) -> None:
        contrastive = self.penalty_alpha is not None
        if contrastive:
            if self.do_sample or self.num_beams > 1:
                raise self.error("penalty_alpha goes with neither do_sample nor num_beams")
            self.require(self.top_k > 1, "top_k", "at least 2 with penalty_alpha")
        if self.do_sample:
            return
        changed = [name for name, neutral in _OF_SAMPLING.items() if getattr(self, name) != neutral]
        if contrastive:
            changed.remove("top_k")
        if self.temperature not in (0, 1):
            changed.insert(0, "temperature")
        if changed:
            name = changed[0]
            raise self.error(f"{name}={getattr(self, name)} acts only with do_sample")

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn; at temperature 0 they are not."""
        return self.do_sample and self.temperature > 0

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The end tokens, a tuple."""
        if self.eos_token_id is None:
            return ()
        return (self.eos_token_id,) if isinstance(self.eos_token_id, int) else self.eos_token_id

    @property
    def padding(self) -> int | None:
        """The token that fills rows: pad_token_id, or the first end token."""
        if self.pad_token_id is None and self.eos_ids:
            return self.eos_ids[0]
        return self.pad_token_id

    def new_tokens(self, prompt: int) -> int:
        """The most tokens that follow a prompt of so many. UserError if max_length leaves none."""
        limit = self.max_length
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        if limit is None:
            return max(DEFAULT_NEW_TOKENS, self.min_new_tokens)
        if prompt >= limit:
            raise UserError(
                f"max_length = {limit} counts the prompt, which has {prompt} tokens: give "
                "max_new_tokens, or a larger max_length"
            )
        if self.min_new_tokens > limit - prompt:
            raise UserError(
                f"min_new_tokens = {self.min_new_tokens} does not fit max_length = {limit} after "
                f"a prompt of {prompt} tokens"
            )
        return limit - prompt

    def check_vocabulary(self, size: int) -> None:
        """UserError if a token id is outside a vocabulary of this size."""
        words = [id for word in self.bad_words_ids or () for id in word]
        padding = [] if self.pad_token_id is None else [self.pad_token_id]
        for name, ids in (
            ("eos_token_id", self.eos_ids),
            ("pad_token_id", padding),
            ("bad_words_ids", words),
        ):
            if wrong := [id for id in ids if id >= size]:
                raise UserError(f"{name} {wrong[0]} is outside the vocabulary 0..{size - 1}")
