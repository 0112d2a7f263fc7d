"""One token per word: what is a word, the lossless mode, files and blocks."""

from __future__ import annotations

import json
import random
import unicodedata

import pytest

from byhand import _text
from byhand.data import TextSource
from byhand.errors import UserError
from byhand.text.pretokenise import PATTERNS
from byhand.text.word import WordTokenizer

SENTENCE = "The cat sat on the mat"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SENTENCE, ["The", "cat", "sat", "on", "the", "mat"]),
        ("don't", ["don't"]),
        ("don\u2019t!", ["don\u2019t", "!"]),
        ("state-of-the-art", ["state-of-the-art"]),
        ("3.14, 1,000.50.", ["3.14", ",", "1,000.50", "."]),
        ("2024-01-02 10:30 1/2", ["2024-01-02", "10:30", "1/2"]),
        ("a.b 3.b x:y", ["a", ".", "b", "3", ".", "b", "x", ":", "y"]),
        ("'quoted' -- words-", ["'", "quoted", "'", "-", "-", "words", "-"]),
        ("snake_case naïve 日本語", ["snake_case", "naïve", "日本語"]),
        ("", []),
        (" \n\t", []),
    ],
)
def test_what_a_word_is(text, words):
    made = WordTokenizer.from_text(text + " x")
    assert made.tokenize(text) == words


def test_words_are_numbered_by_their_counts():
    made = WordTokenizer.from_text("b a b c a b d")
    assert [made.id_to_token(i) for i in range(8)] == [
        "[PAD]", "[UNK]", "[SOS]", "[EOS]", "b", "a", "c", "d",
    ]  # fmt: skip
    assert made.encode("a e b").tolist() == [5, 1, 4]
    assert made.decode([4, 5]) == "b a"
    assert len(WordTokenizer.from_text("b a b c a b d", 6)) == 6
    assert len(WordTokenizer.from_text("b a b c a b d", min_frequency=2)) == 6
    assert WordTokenizer.from_text("The the", lowercase=True).tokenize("THE") == ["the"]


def test_the_text_of_a_special_token_is_not_its_id():
    made = WordTokenizer.from_text("PAD [ ] [PAD]")
    assert made.tokenize("[PAD]") == ["[", "PAD", "]"]
    assert made.encode("[PAD]", allowed_special="all").tolist() == [0]


def test_lossless_tokens_have_their_spaces():
    text = "The cat  sat,\n\n on\tthe mat.\r\n  3.14 isn't \u3000pi "
    made = WordTokenizer.from_text(text, lossless=True)
    assert made.decode(made.encode(text)) == text
    assert made.tokenize(text)[:5] == ["The", " cat", " ", " sat", ","]
    rng = random.Random(0)
    for _ in range(300):
        shuffled = "".join(rng.choices(["The", " cat", " ", "\n", ",", "\t", "."], k=12))
        again = WordTokenizer.from_text(shuffled, lossless=True)
        assert again.decode(again.encode(shuffled)) == shuffled


@pytest.mark.parametrize("name", ["words", "words_spaces"])
def test_the_scanner_finds_what_the_regular_expression_finds(name):
    regex = pytest.importorskip("regex")
    compiled = regex.compile(PATTERNS[name])
    scanner = _text.named_pattern(name)
    rng = random.Random(1)
    letters = "aé日3²५_'\u2019-.,:/ \n\t\u3000\u0301☃🙂A\u00a0"
    texts = ["".join(rng.choices(letters, k=rng.randint(0, 14))) for _ in range(5000)]
    # Python's tables are older than those of both: what they have, both have.
    every = [chr(c) for c in range(0x110000)]
    assigned = [c for c in every if unicodedata.category(c) not in ("Cn", "Cs", "Co")]
    for between in ("", "3."):
        texts += [between.join(assigned[i : i + 50]) for i in range(0, len(assigned), 50)]
    differ = set()
    for text in texts:
        data = text.encode()
        found = [data[a:b].decode() for a, b in _text.split([scanner], data).tolist()]
        if found != compiled.findall(text):
            differ.add(text)
    # The few characters whose category a later version of Unicode changed.
    assert len(differ) <= 6
    assert not any(set(text) <= set(letters) for text in differ)


def test_hugging_face_divides_and_decodes_the_same():
    hf = pytest.importorskip("tokenizers")
    text = "The cat isn't sat, on 3.14 state-of-the-art mats: 2024-01-02.\n The  cat!"
    for lossless in (False, True):
        made = WordTokenizer.from_text(text, lossless=lossless)
        theirs = hf.Tokenizer.from_str(json.dumps(made.description))
        rng = random.Random(2)
        for each in [text, *("".join(rng.choices(text, k=30)) for _ in range(300))]:
            encoded = theirs.encode(each)
            ids = made.encode(each)
            assert ids.tolist() == encoded.ids, each
            assert [tuple(pair) for pair in made.offsets(each).tolist()] == encoded.offsets
            assert made.decode(ids) == theirs.decode(encoded.ids)


@pytest.mark.parametrize("lossless", [False, True])
def test_blocks_of_any_size_give_the_words_of_the_whole(lossless):
    rng = random.Random(3)
    text = "".join(rng.choices(["The", " cat", "isn't", " ", "\n", "3.", "14", ", é日"], k=3000))
    whole = WordTokenizer.from_text(text, lossless=lossless)
    for size in (1, 7, 1000):
        blocks = [text[i : i + size] for i in range(0, len(text), size)]
        made = WordTokenizer.from_blocks(iter(blocks), lossless=lossless)
        assert made == whole
        ids = made.encode_blocks(iter(blocks), len(text))
        assert ids.tolist() == whole.encode(text).tolist()


def test_texts_may_be_files_and_sources(tmp_path):
    path = tmp_path / "é text.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "a é a".encode())
    made = WordTokenizer.train(path)
    assert made.tokenize("a é") == ["a", "é"]
    both = WordTokenizer.train([path, "b b", TextSource("c", "c")])
    assert [both.id_to_token(i) for i in range(4, 8)] == ["a", "b", "c", "é"]


def test_a_file_that_is_not_utf8_is_named_with_the_place(tmp_path):
    path = tmp_path / "bad.txt"
    for before in (0, 3, (1 << 20) - 1, 1 << 20):
        path.write_bytes(b"a" * before + b"\xe6\x97" + b"b")
        with pytest.raises(UserError, match=rf"bad.txt is not UTF-8 text: byte {before} does not"):
            WordTokenizer.train(path)
    path.write_bytes(b"a\xe6\x97")
    with pytest.raises(UserError, match="byte 1 does not fit"):
        WordTokenizer.train(path)
    with pytest.raises(UserError, match=r"missing.txt cannot be read: No such file"):
        WordTokenizer.train(tmp_path / "missing.txt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"texts": " "}, "the text has no words$"),
        ({"min_frequency": 9}, "the text has no words that occur 9 times"),
        ({"vocabulary_size": 4}, "4 tokens has no room for words after 4 special tokens"),
        ({"vocabulary_size": 0}, "0 tokens has no room"),
        ({"vocabulary_size": "x"}, "vocabulary_size is a whole number"),
        ({"special_tokens": ["[PAD]"]}, r"the special tokens need '\[UNK\]'"),
        ({"texts": ["a", "\ud800"]}, "half of a surrogate pair"),
    ],
)
def test_wrong_training_is_one_sentence(options, message):
    with pytest.raises(UserError, match=message):
        WordTokenizer.train(**{"texts": SENTENCE, **options})
