"""Rows C01 to C09: tokenizers."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from byhand import _text, text
from byhand.cli.main import main
from byhand.errors import UserError
from byhand.runs import Run
from byhand.text import bpe, models, word, wordpiece
from byhand.text.character import CharacterTokenizer
from byhand.text.evaluate import evaluate_languages, evaluate_text
from byhand.text.formats import sentencepiece
from byhand.text.pipeline import PipelineTokenizer
from byhand.text.samples import SAMPLES
from tests.guide.planted import planted
from tests.text.made_files import model_file
from tests.training import small

SENTENCE = "The cat sat on the mat"


def split_by_letters(right):
    return {**right, "words": r"\p{L}+|\p{N}+", "words_spaces": r"\p{L}+|\p{N}+"}


@planted(
    "C01", "words end at each hyphen, apostrophe and point", word, "PATTERNS", split_by_letters
)
def test_c01_a_text_is_divided_into_words():
    """The guide's sentence, and what it calls hard: contractions, hyphens, punctuation, numbers and
    dates.
    """
    hard = "don't stop: state-of-the-art, 3.14 on 2024-01-02!"
    made: Any = text.WordTokenizer.train([SENTENCE, hard])
    assert made.tokenize(SENTENCE) == ["The", "cat", "sat", "on", "the", "mat"]
    assert made.tokenize(hard) == [
        *("don't", "stop", ":", "state-of-the-art", ",", "3.14", "on", "2024-01-02", "!")
    ]
    assert made.encode("The dog").tolist()[1] == made.unk_token_id
    lossless: Any = text.WordTokenizer.train([SENTENCE, hard], lossless=True)
    for sentence in (SENTENCE, hard):
        assert lossless.decode(lossless.encode(sentence)) == sentence


def in_order_of_ids(right):
    return lambda self, ids: right(self, sorted(ids))


@planted("C02", "the ids are sorted before they are decoded", CharacterTokenizer, "decode",
         in_order_of_ids)  # fmt: skip
@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_c02_every_text_is_its_characters(sentence: str):
    made = text.CharacterTokenizer.from_text(sentence + "b漢a")
    assert made.decode(made.encode(sentence)) == sentence
    assert made.decode(made.encode("b漢a")) == "b漢a"
    assert len(made.encode(sentence)) == len(sentence)
    unseen = next(chr(c) for c in range(0x4E00, 0x9FFF) if chr(c) not in sentence + "漢")
    with pytest.raises(UserError, match="is not among"):
        made.encode(unseen)


def rarest_first(right):
    def train(*arguments, **options):
        vocabulary, merges = right(*arguments, **options)
        return vocabulary, merges[::-1]

    return train


@planted("C03", "the merges are applied in the reverse order", _text, "train_bpe", rarest_first)
def test_c03_the_most_frequent_pair_is_merged():
    """The example of Wikipedia's page on byte-pair encoding: aaabdaaabac, Z = aa, Y = Za or ab,
    X = ZY.
    """
    made: Any = text.BPETokenizer.train("aaabdaaabac", 256 + 3, pattern=None)
    assert made.encode("aaabdaaabac").tolist() == [258, 100, 258, 97, 99]
    for sentence in SAMPLES.values():
        assert made.decode(made.encode(sentence)) == sentence
    assert made.decode([0xFF, 0x80]) == "\ufffd\ufffd"


@planted("C04", "the tokens inside a word have no mark", wordpiece, "PREFIX", lambda right: "")
def test_c04_the_longest_piece_comes_first():
    corpus = "hugging hugs hug pug puns bun bugs " * 5
    made: Any = text.WordPieceTokenizer.train(corpus, 45)
    vocabulary = {made.id_to_token(id) for id in range(len(made))}
    for found in ("hugging", "pugs", "buns", "bugging"):
        rest, expected = found, []
        while rest:
            mark = "##" if expected else ""
            longest = next(
                mark + rest[:end]
                for end in range(len(rest), 0, -1)
                if mark + rest[:end] in vocabulary
            )
            expected.append(longest)
            rest = rest[len(longest) - len(mark) :]
        assert made.tokenize(found) == expected
    assert made.tokenize("z") == ["[UNK]"]


def test_c04_ids_are_those_of_hugging_face(tmp_path: Path):
    library = pytest.importorskip("tokenizers")
    made = text.WordPieceTokenizer.train("the cats sat, the cat's mat; unaffable!" * 9, 60)
    text.save(made, tmp_path / "vocab.txt")
    theirs = library.BertWordPieceTokenizer(str(tmp_path / "vocab.txt"))
    for sentence in ("The cats' mats sat.", "unaffable CAT", "xyz"):
        assert made.encode(sentence).tolist() == theirs.encode(sentence).ids


def without_spaces(right):
    return lambda found: [part for part in right(found) if part["type"] != "Prepend"]


@planted("C05", "no space is put before the text", sentencepiece, "_normalisers", without_spaces)
def test_c05_sentencepiece_keeps_spaces_as_characters(tmp_path: Path):
    """Not a fourth algorithm, as the guide has it, but a way to treat spaces as characters: with
    BPE or Unigram as the model.
    """
    for model_type in (sentencepiece.UNIGRAM, sentencepiece.BPE):
        made: Any = text.load(model_file(tmp_path, model_type))
        assert made.tokenize("hello world") == ["▁hello", "▁world"]
        assert made.decode(made.encode("hello world")) == "hello world"


def unlikely_first(right):
    def make(description, *arguments, **options):
        if description["type"] == "Unigram":
            vocab = [[token, -score] for token, score in description["vocab"]]
            description = {**description, "vocab": vocab}
        return right(description, *arguments, **options)

    return make


@planted("C06", "the least probable division is taken", models, "make", unlikely_first)
def test_c06_the_most_probable_division():
    """All divisions of a word, and those that are sampled."""
    scores = {"h": -5.0, "u": -5.5, "g": -5.2, "s": -4.9, "hu": -6.0, "ug": -5.8, "gs": -7.0,
              "hug": -6.5, "ugs": -8.0}  # fmt: skip
    vocab = [["<unk>", 0.0], *map(list, scores.items())]
    model = {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": False}
    made: Any = text.UnigramTokenizer({"model": model})

    def divisions(rest: str) -> list[list[str]]:
        if not rest:
            return [[]]
        heads = (rest[:end] for end in range(1, len(rest) + 1))
        return [[h, *tail] for h in heads if h in scores for tail in divisions(rest[len(h) :])]

    for length in range(1, 6):
        for letters in itertools.product("hugs", repeat=length):
            found = "".join(letters)
            best = max(sum(scores[token] for token in way) for way in divisions(found))
            assert sum(scores[token] for token in made.tokenize(found)) == pytest.approx(best)
    native = _text.Unigram([(t.encode(), s) for t, s in vocab], unk_id=0, byte_fallback=False)
    drawn = {tuple(native.sample(b"hugs", 0.5, -1, seed)) for seed in range(300)}
    ids = {token: id for id, (token, _) in enumerate(vocab)}
    assert drawn <= {tuple(ids[token] for token in way) for way in divisions("hugs")}
    assert len(drawn) > 5
    assert math.isfinite(native.nbest(b"hugs", 3)[0][1])


def in_lower_case(right):
    return lambda self, ids, *arguments, **options: right(self, ids, *arguments, **options).lower()


@planted("C07", "decoding loses upper case", PipelineTokenizer, "decode", in_lower_case)
def test_c07_languages():
    """English, Chinese, Japanese, German, Arabic and others: the text comes back, and languages
    that the tokenizer was not trained on need more tokens.
    """
    made = text.BPETokenizer.train(SAMPLES["English"] * 20, 320)
    rows = evaluate_languages(made)
    assert set(rows) >= {"English", "German", "Chinese", "Japanese", "Arabic", "Thai", "Hindi"}
    assert all(row["round_trip"] for row in rows.values())
    assert rows["English"]["characters_per_token"] > 3
    for language in ("German", "Chinese", "Arabic", "Thai"):
        assert rows[language]["characters_per_token"] < 2
    chinese = rows["Chinese"]
    assert chinese["words"] == 1
    assert chinese["bytes"] == 3 * chinese["characters"]


@planted("C08", "special tokens in a text are always taken for themselves", PipelineTokenizer,
         "_allowed", lambda right: lambda self, names: None, kind="bpe")  # fmt: skip
@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram", "word"])
def test_c08_special_tokens_come_from_no_text(tmp_path: Path, kind: str):
    special = ["[SOS]", "[EOS]", "[PAD]", "[UNK]", "[MASK]", "<unk>"]
    made: Any = text.make_tokenizer(kind, ["dummy"])
    made = type(made).train("the cat sat on [the] mat " * 20, special_tokens=special)
    ids = {token: made.token_to_id(token) for token in special}
    sentence = "the cat [SOS][EOS] sat [MASK]"
    kept = {ids["[SOS]"], ids["[EOS]"], ids["[MASK]"]}
    assert not kept & set(made.encode(sentence).tolist())
    found = made.encode(sentence, allowed_special="all").tolist()
    assert [id for id in found if id in kept] == [ids["[SOS]"], ids["[EOS]"], ids["[MASK]"]]
    assert made.decode(found, skip_special_tokens=False).count("[SOS]") == 1
    made.save(tmp_path / "tokenizer.json")
    again: Any = text.load(tmp_path / "tokenizer.json")
    assert {token: again.token_to_id(token) for token in special} == ids
    assert again.encode(sentence, allowed_special="all").tolist() == found
    assert (again.pad_token_id, again.mask_token_id) == (ids["[PAD]"], ids["[MASK]"])


def test_c09_what_eval_measures():
    made: Any = text.WordTokenizer.train("the cat sat on the mat", min_frequency=1)
    found = evaluate_text(made, ["the cat ", "sat on a rug"])
    assert found["words"] == found["tokens"] == 6
    assert found["unknown_rate"] == pytest.approx(2 / 6)
    assert found["bytes_per_token"] == pytest.approx(20 / 6)
    addresses = text.BPETokenizer.train(SAMPLES["Addresses"], 300)
    assert addresses.decode(addresses.encode(SAMPLES["Addresses"])) == SAMPLES["Addresses"]


@planted("C09", "every tokenizer has the same hash", PipelineTokenizer, "sha256",
         lambda right: lambda self: "0" * 64)  # fmt: skip
def test_c09_a_run_refuses_another_tokenizer(tmp_path: Path):
    """The same tokenizer at training and at inference: its hash is part of the checkpoint."""
    path, run = tmp_path / "text.txt", tmp_path / "run"
    path.write_text(small.text())
    flags = ["--tokenizer", "bpe:280", "--steps", "1", *small.SIZES]
    assert main(["train", str(path), "--out", str(run), *flags]) == 0
    assert Run(run).read_tokenizer() is not None
    other = bpe.BPETokenizer.train(small.text()[::-1], 280)
    data = json.dumps(other.to_dict())
    (run / "tokenizer.json").write_text(data)
    refused = False
    try:
        Run(run).read_tokenizer()
    except UserError:
        refused = True
    assert refused
