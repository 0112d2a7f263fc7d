"""WordPiece and WordLevel: longest tokens first, training by score, equality with others."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import pairwise

import pytest

from byhand import _text
from byhand.errors import UserError
from byhand.text.wordpiece import WordPieceTokenizer
from tests.text.parts import counted

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXT = (
    "The cat sat on the mat; the mat wasn't flat. Unaffable cats, unaffected mats! "
    "日本語 and naïve café 3.14 words. " * 3
)


def model(tokens: list[str], **options) -> _text.WordPiece:
    settings = {"unk": b"[UNK]", "prefix": b"##", "max_characters": 100, **options}
    return _text.WordPiece([token.encode() for token in tokens], **settings)


def pieces(made: _text.Model, word: str) -> list[str]:
    return [made.token(id).decode() for id, _, _ in made.encode_word(word.encode())]


def longest_first(word: str, tokens: list[str]) -> list[str]:
    """The definition: the longest beginning of what is left that is a token."""
    found: list[str] = []
    left = word
    while left:
        prefix = "##" if found else ""
        lengths = [n for n in range(len(left), 0, -1) if prefix + left[:n] in tokens]
        if not lengths:
            return ["[UNK]"]
        found.append(prefix + left[: lengths[0]])
        left = left[lengths[0] :]
    return found


def test_words_are_divided_into_the_longest_tokens():
    rng = random.Random(0)
    for _ in range(60):
        letters = "abé日"
        tokens = {
            rng.choice(["", "##"]) + "".join(rng.choices(letters, k=rng.randint(1, 4)))
            for _ in range(rng.randint(1, 30))
        }
        vocabulary = ["[UNK]", *sorted(tokens)]
        made = model(vocabulary)
        for _ in range(60):
            word = "".join(rng.choices(letters, k=rng.randint(1, 12)))
            assert pieces(made, word) == longest_first(word, vocabulary), (word, vocabulary)


def test_spans_are_those_of_the_bytes():
    made = model(["[UNK]", "na", "##ï", "##ve"])
    assert made.encode_word("naïve".encode()) == [(1, 0, 2), (2, 2, 4), (3, 4, 6)]
    assert made.encode_word("naïf".encode()) == [(0, 0, 5)]
    assert made.encode_word(b"") == []


def test_a_word_with_more_characters_is_unknown():
    made = model(["[UNK]", "é", "##é"], max_characters=5)
    assert pieces(made, "é" * 5) == ["é"] + ["##é"] * 4
    assert pieces(made, "é" * 6) == ["[UNK]"]


def test_no_text_becomes_a_special_token():
    tokens = ["[UNK]", "[CLS]", "[", "##CLS", "##]"]
    assert pieces(model(tokens), "[CLS]") == ["[CLS]"]
    assert pieces(model(tokens, special=[0, 1]), "[CLS]") == ["[", "##CLS", "##]"]
    assert model(tokens, special=[0, 1]).id_of(b"[CLS]") == 1


def test_without_a_token_for_unknown_words_they_are_an_error():
    with pytest.raises(ValueError, match=r"no tokens for 'xy', and not the token '\[UNK\]'"):
        model(["a"]).encode_word(b"xy")
    with pytest.raises(ValueError, match=r"no tokens for 'xy', and there is no token"):
        model(["a"], unk=None).encode_word(b"xy")
    level = _text.WordLevel([b"a", b"<unk>"], unk=b"<unk>")
    assert level.encode_word(b"a") == [(0, 0, 1)]
    assert level.encode_word(b"aa") == [(1, 0, 2)]
    with pytest.raises(ValueError, match="no tokens for 'b'"):
        _text.WordLevel([b"a"], unk=b"<unk>").encode_word(b"b")


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        (["a", "b", "a"], {}, "token 'a' has two ids, 0 and 2"),
        (["a"], {"max_characters": 0}, "max_characters must be at least 1, not 0"),
        (["a"], {"special": [1]}, "special id 1 is outside the vocabulary of 1 tokens"),
        (["a"], {"special": [-1]}, "special id -1 is outside"),
    ],
)
def test_wrong_arguments_are_named(tokens, options, message):
    with pytest.raises(ValueError, match=message):
        model(tokens, **options)


def test_ids_are_those_of_hugging_face():
    hf = pytest.importorskip("tokenizers")
    made = WordPieceTokenizer.from_text(TEXT, 120)
    theirs = hf.Tokenizer.from_str(__import__("json").dumps(made.description))
    rng = random.Random(1)
    texts = [TEXT, "[CLS] the [MASK]", "", " ", "İstanbul ﬁne", "a" * 101, "don't-stop"]
    texts += ["".join(rng.choices(TEXT + "zZ#É☃", k=40)) for _ in range(300)]
    for text in texts:
        encoded = theirs.encode(text)
        ours = made.encode(text, allowed_special="all")
        assert ours.tolist() == encoded.ids, text
        offsets = made.offsets(text, allowed_special="all")
        assert [tuple(pair) for pair in offsets.tolist()] == encoded.offsets, text
        assert made.decode(ours) == theirs.decode(encoded.ids), text


# --- Training ------------------------------------------------------------------------------------


def learned(words: dict[str, int], size: int, **options) -> list[str]:
    return [token.decode() for token in _text.train_wordpiece(counted(words), size, **options)]


def merges_by_definition(words: dict[str, int], merges: int, score: str) -> list[str]:
    """The joined tokens, found by counting everything again for each of them."""
    divided = {word: [c if i == 0 else "##" + c for i, c in enumerate(word)] for word in words}
    scored_total = 0
    vocabulary = {token for parts in divided.values() for token in parts}
    joined = []

    def term(count: float) -> float:
        return count * math.log(count) if count > 0 else 0.0

    while len(joined) < merges:
        single: Counter[str] = Counter()
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in divided.items():
            for part in parts:
                single[part] += words[word]
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        total = sum(single.values())
        if scored_total == 0 or total < 0.99 * scored_total:
            scored_total = total

        def value(pair, single=single, pairs=pairs, n=scored_total):
            c, a, b = pairs[pair], single[pair[0]], single[pair[1]]
            if score == "frequency":
                return c
            if score == "ratio":
                return c / (a * b)
            parts = (
                term(a - 2 * c) - term(a)
                if pair[0] == pair[1]
                else term(a - c) - term(a) + term(b - c) - term(b)
            )
            return parts + term(c) + term(n) - term(n - c)

        best = min(pairs, key=lambda pair: (-value(pair), pair), default=None)
        if best is None:
            break
        token = best[0] + best[1][2:]
        for word, parts in divided.items():
            new: list[str] = []
            i = 0
            while i < len(parts):
                if tuple(parts[i : i + 2]) == best:
                    new.append(token)
                    i += 2
                else:
                    new.append(parts[i])
                    i += 1
            divided[word] = new
        if token not in vocabulary:
            vocabulary.add(token)
            joined.append(token)
    return joined


@pytest.mark.parametrize("score", ["likelihood", "ratio", "frequency"])
def test_training_joins_the_pair_with_the_best_score(score):
    rng = random.Random(2)
    for case in range(12):
        words = {
            "".join(rng.choices("abcde"[: 2 + case % 4], k=rng.randint(1, 9))): rng.randint(1, 60)
            for _ in range(25)
        }
        alphabet = {c if i == 0 else "##" + c for word in words for i, c in enumerate(word)}
        found = learned(words, len(alphabet) + 25, score=score, min_frequency=1)
        assert found[: len(alphabet)] == sorted(alphabet)
        assert found[len(alphabet) :] == merges_by_definition(words, 25, score)


def test_the_worked_example_of_the_ratio():
    words = {"hug": 10, "pug": 5, "pun": 12, "bun": 4, "hugs": 5}
    found = learned(words, 9, score="ratio", min_frequency=1)
    # c(##gs) / (c(##g) c(##s)) = 5 / (20 * 5); then 1 / 36 for each pair with ##u.
    assert found == ["##g", "##n", "##s", "##u", "b", "h", "p", "##gs", "##ug"]


def test_the_vocabulary_depends_on_nothing_but_the_counts():
    rng = random.Random(3)
    words = {"".join(rng.choices("abcdef", k=rng.randint(1, 8))): 3 for _ in range(500)}
    first = learned(words, 300)
    for _ in range(3):
        shuffled = list(words.items())
        rng.shuffle(shuffled)
        assert learned(dict(shuffled), 300) == first
    text = " ".join(word for word in words for _ in range(3))
    tokenizers = [WordPieceTokenizer.train(text, 300, threads=n) for n in (1, 2, 7)]
    assert len({tokenizer.sha256() for tokenizer in tokenizers}) == 1


def test_every_word_of_the_text_has_tokens():
    made = WordPieceTokenizer.from_text(TEXT, 75)
    assert len(made) == 75
    assert made.unk_token_id not in made.encode(TEXT)
    assert made.tokenize("the unaffable cat")[0] == "the"
    assert made.encode("cat").tolist()[0] == made.cls_token_id
    assert [made.id_to_token(i) for i in range(5)] == SPECIAL


def test_limits_of_training():
    words = {"abab": 9, "ab": 5, "xy": 1, "é": 2}
    vocabulary = learned(words, 100, min_frequency=2, limit_alphabet=2)
    assert "x" not in vocabulary
    assert "é" not in vocabulary
    assert "ab" in vocabulary
    assert max(len(t.removeprefix("##")) for t in learned(words, 100, max_token_length=2)) == 2
    vocabulary = learned(words, 100, initial_alphabet=["z"])
    assert "z" in vocabulary
    assert "##z" in vocabulary
    assert learned(words, 100, special_tokens=["[UNK]"])[0] == "[UNK]"
    # Longer words than the model takes are not learned from.
    assert learned({"q" * 101: 5, "a": 1}, 100) == ["##q", "a", "q"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocabulary_size": 5}, "vocabulary of 5 tokens is too small for 5 special tokens and"),
        ({"vocabulary_size": 0}, "vocabulary_size is a whole number of at least 1, not 0"),
        ({"score": "best"}, "score must be likelihood, ratio or frequency, not 'best'"),
        ({"special_tokens": ["[PAD]"]}, r"the special tokens need '\[UNK\]'"),
        ({"special_tokens": ["[UNK]", "[UNK]"]}, r"'\[UNK\]' is listed twice"),
        ({"special_tokens": ["[UNK]", ""]}, "a special token is a text"),
        ({"initial_alphabet": ["ab"]}, "an alphabet has single characters, not 'ab'"),
        ({"limit_alphabet": 0}, "limit_alphabet must be at least 1, not 0"),
        ({"threads": 0}, "threads is a whole number of at least 1"),
        ({"min_frequency": "x"}, "wrong type.*min_frequency='x'"),
        ({"texts": ""}, "nothing to train on: the text has no words"),
        ({"texts": 5}, "trained on texts or paths, not int"),
        ({"texts": [5]}, "trained on texts or paths, not int"),
    ],
)
def test_wrong_training_is_one_sentence(options, message):
    with pytest.raises(UserError, match=message):
        WordPieceTokenizer.train(**{"texts": TEXT, "vocabulary_size": 100, **options})


def test_progress_rises_to_the_end_and_may_stop_the_training():
    calls = []
    WordPieceTokenizer.train(TEXT, 100, progress=lambda done, whole: calls.append((done, whole)))
    assert calls == sorted(calls)
    assert calls[-1][0] == calls[-1][1] > 0

    def stop(done: int, whole: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        WordPieceTokenizer.train(TEXT, 100, progress=stop)


def test_a_text_that_spells_a_special_token_can_be_learned():
    special = ["[UNK]", "king", "##ing"]
    tokenizer = WordPieceTokenizer.train("the king sings " * 20, 60, special_tokens=special)
    assert tokenizer.special_tokens == {"[UNK]": 0, "king": 1, "##ing": 2}
    ids = tokenizer.encode("the king sings")
    assert not {0, 1, 2} & set(ids.tolist())
    assert tokenizer.decode(ids) == "the king sings"
    with pytest.raises(UserError, match="the special token 'k' is a part of the alphabet"):
        WordPieceTokenizer.train("the king", 60, special_tokens=["[UNK]", "k"])
