"""Unigram: the best division, sampled ones, training; equality with other libraries."""

from __future__ import annotations

import io
import json
import math
import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from byhand import _text
from byhand.errors import UserError
from byhand.text.unigram import UnigramTokenizer
from tests.text.parts import counted


def made_up_text(lines: int) -> str:
    """Sentences of made-up words, the first of which are frequent."""
    rng = random.Random(0)
    syllables = ["ka", "lo", "mi", "nu", "sé", "ra", "ting", "ed", "er", "日", "un", "pre", "s"]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(400)]
    weights = [1 / (rank + 1) for rank in range(len(words))]
    return "\n".join(
        " ".join(rng.choices(words, weights, k=rng.randint(3, 9))) + rng.choice(".!?")
        for _ in range(lines)
    )


TEXT = made_up_text(400)


def model(vocabulary: list[tuple[str, float]], **options) -> _text.Unigram:
    settings = {"unk_id": 0, "byte_fallback": False, **options}
    return _text.Unigram([(token.encode(), score) for token, score in vocabulary], **settings)


def divisions(word: str, scores: dict[str, float]) -> list[tuple[float, tuple[str, ...]]]:
    """All divisions into tokens and single unknown characters, the best first."""
    unknown = min(scores.values()) - 10
    found: list[tuple[float, tuple[str, ...]]] = []

    def divide(left: str, score: float, parts: tuple[str, ...]) -> None:
        if not left:
            found.append((score, parts))
        for n in range(1, len(left) + 1):
            if left[:n] in scores:
                divide(left[n:], score + scores[left[:n]], (*parts, left[:n]))
            elif n == 1:
                divide(left[n:], score + unknown, (*parts, left[:n]))

    divide(word, 0.0, ())
    return sorted(found, reverse=True)


def random_vocabulary(rng: random.Random, letters: str) -> list[tuple[str, float]]:
    tokens = {"".join(rng.choices(letters, k=rng.randint(1, 4))) for _ in range(25)}
    return [("<unk>", 0.0), *((token, -rng.uniform(1, 9)) for token in sorted(tokens))]


def ids_of(parts: tuple[str, ...], vocabulary: list[tuple[str, float]]) -> list[int]:
    """The ids of tokens; neighbouring unknown characters are one."""
    of = {token: id for id, (token, _) in enumerate(vocabulary) if id}
    ids = [of.get(part, 0) for part in parts]
    return [id for i, id in enumerate(ids) if id or i == 0 or ids[i - 1]]


@pytest.mark.parametrize("float32", [False, True])
def test_the_best_division_is_that_of_all(float32):
    rng = random.Random(0)
    for _ in range(60):
        vocabulary = random_vocabulary(rng, "abé日x"[: rng.randint(2, 5)])
        scores = {token: score for token, score in vocabulary if token != "<unk>"}
        scores_for_least = {**scores, "\0": 0.0}
        made = model(vocabulary, float32=float32)
        for _ in range(40):
            word = "".join(rng.choices("abé日x", k=rng.randint(1, 9)))
            every = divisions(word, scores_for_least)
            # Sums of the same scores in another order may differ in their last bits.
            best = [parts for score, parts in every if score > every[0][0] - 1e-5]
            encoded = made.encode_word(word.encode())
            found = [id for id, _, _ in encoded]
            assert found in [ids_of(parts, vocabulary) for parts in best], word
            assert encoded[0][1] == 0
            assert encoded[-1][2] == len(word.encode())
            assert all(a[2] == b[1] for a, b in pairwise(encoded))


def test_nbest_are_the_best_of_all():
    rng = random.Random(1)
    for _ in range(40):
        vocabulary = random_vocabulary(rng, "abc")
        scores = {token: score for token, score in vocabulary if token != "<unk>"}
        word = "".join(rng.choices("abcd", k=rng.randint(1, 8)))
        wanted = divisions(word, scores)
        found = model(vocabulary).nbest(word.encode(), 12)
        assert len(found) == min(12, len(wanted))
        np.testing.assert_allclose([s for _, s in found], [s for s, _ in wanted[:12]], rtol=1e-12)
        distinct = [ids for (ids, s), (t, _) in zip(found, wanted, strict=False) if s != t]
        assert all(ids in [ids_of(p, vocabulary) for _, p in wanted] for ids in distinct)
        assert found[0][0] == [id for id, _, _ in model(vocabulary).encode_word(word.encode())]


@pytest.mark.parametrize("nbest", [-1, 3])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_samples_have_their_probabilities(nbest, alpha):
    vocabulary = [("<unk>", 0.0), ("a", -1.0), ("b", -2.0), ("ab", -2.5), ("ba", -3.5), ("aba", -5)]
    scores = {token: score for token, score in vocabulary if token != "<unk>"}
    every = divisions("ababa", scores)
    kept = every if nbest < 0 else every[:nbest]
    weights = np.exp([alpha * score for score, _ in kept])
    expected = {tuple(ids_of(p, vocabulary)): w for (_, p), w in zip(kept, weights, strict=True)}
    made = model(vocabulary)
    draws = 4000
    drawn = Counter(tuple(made.sample(b"ababa", alpha, nbest, seed)) for seed in range(draws))
    assert set(drawn) <= set(expected)
    chi2 = sum(
        (drawn[ids] - draws * w / weights.sum()) ** 2 / (draws * w / weights.sum())
        for ids, w in expected.items()
    )
    # Six standard deviations above the mean of the chi-squared distribution.
    degrees = len(expected) - 1
    assert chi2 < degrees + 6 * math.sqrt(2 * degrees)


def test_a_sample_depends_on_the_seed_and_the_place():
    made = model([("<unk>", 0.0), ("a", -1.0), ("aa", -1.5), ("aaa", -2.0)])
    word = b"a" * 39
    assert made.sample(word, 0.5, -1, 7) == made.sample(word, 0.5, -1, 7)
    assert len({tuple(made.sample(word, 0.5, -1, seed)) for seed in range(20)}) == 20
    best = [id for id, _, _ in made.encode_word(word)]
    assert made.sample(word, 100.0, -1, 1) == best
    assert made.sample(word, 0.1, 1, 1) == best
    sampler = made.sampling(0.5, -1, 7)
    assert [id for id, _, _ in sampler.encode_word(word)] == made.sample(word, 0.5, -1, 7)
    with pytest.raises(ValueError, match="alpha must be a number of at least 0"):
        made.sample(word, math.nan, -1, 1)
    with pytest.raises(ValueError, match="nbest must be at least 1, not 0"):
        made.nbest(word, 0)
    with pytest.raises(ValueError, match="too long for its 100000 best divisions"):
        made.nbest(b"a" * 100000, 100000)


def test_unknown_characters():
    vocabulary = [("<unk>", 0.0), ("a", -1.0), ("<0x62>", 0.0), ("<0xC3>", 0.0), ("<0xA9>", 0.0)]
    plain, bytes_too = model(vocabulary), model(vocabulary, byte_fallback=True)
    assert plain.encode_word("aébéa".encode()) == [(1, 0, 1), (0, 1, 6), (1, 6, 7)]
    assert [i for i, _, _ in bytes_too.encode_word("aéba".encode())] == [1, 3, 4, 2, 1]
    assert [i for i, _, _ in bytes_too.encode_word(b"az")] == [1, 0]  # <0x7A> is missing
    # The text of a byte's token, and of the unknown token, is text.
    assert [i for i, _, _ in bytes_too.encode_word(b"a<0x62>")] == [1, 0]
    assert [i for i, _, _ in model([("<unk>", 0.0), ("<", -1.0)]).encode_word(b"<unk>")] == [1, 0]
    with pytest.raises(ValueError, match=r"no token for 'b\\xc3\\xa9', and there is no token for"):
        model([("a", -1.0)], unk_id=None).encode_word("abé".encode())


@pytest.mark.parametrize(
    ("vocabulary", "options", "message"),
    [
        ([("a", 0.0), ("a", 0.0)], {}, "token 'a' has two ids, 0 and 1"),
        ([("a", math.nan)], {}, "score of the token 'a' is not a finite number"),
        ([("a", math.inf)], {}, "score of the token 'a' is not a finite number"),
        ([("a", 0.0)], {"unk_id": 1}, "special id 1 is outside the vocabulary of 1 tokens"),
    ],
)
def test_wrong_vocabularies_are_named(vocabulary, options, message):
    with pytest.raises(ValueError, match=message):
        model(vocabulary, **options)


def test_a_long_text_takes_time_in_proportion():
    """All of a megabyte in one word. A time would not be reliable, but quadratic time would not
    end.
    """
    for float32 in (False, True):
        made = model(
            [("<unk>", 0.0), *(("a" * n, -(float(n) ** 0.5)) for n in range(1, 17))],
            float32=float32,
        )
        assert {id for id, _, _ in made.encode_word(b"a" * 2**20)} == {16}
        assert made.encode_word(b"b" * 2**20) == [(0, 0, 2**20)]


def test_ids_are_those_of_hugging_face():
    hf = pytest.importorskip("tokenizers")
    for byte_fallback in (False, True):
        made = UnigramTokenizer.train(TEXT, 400, byte_fallback=byte_fallback)
        theirs = hf.Tokenizer.from_str(json.dumps(made.description))
        rng = random.Random(1)
        texts = [TEXT, "", " ", "  two  spaces ", "☃☃ a☃", "\n\n", "<unk>"]
        texts += ["".join(rng.choices(TEXT + "zÉ☃ ", k=40)) for _ in range(300)]
        for text in texts:
            encoded = theirs.encode(text)
            ours = made.encode(text, allowed_special="all")
            assert ours.tolist() == encoded.ids, text
            offsets = made.offsets(text, allowed_special="all")
            # Of a prefix that is no part of the text, theirs are those of the first character.
            begin = int(ours[:1].tolist() == [made.token_to_id("▁")])
            assert [tuple(pair) for pair in offsets.tolist()][begin:] == encoded.offsets[begin:]
            assert made.decode(ours) == theirs.decode(encoded.ids), text


def test_ids_are_those_of_sentencepiece():
    sentencepiece = pytest.importorskip("sentencepiece")
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.split("\n")),
        model_writer=trained,
        vocab_size=90,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    theirs = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    vocabulary = [(theirs.id_to_piece(i), theirs.get_score(i)) for i in range(len(theirs))]
    special = [i for i in range(len(theirs)) if theirs.is_control(i)]
    made = model(vocabulary, unk_id=theirs.unk_id(), special=special, float32=True)
    rng = random.Random(2)
    texts = [*TEXT.split("\n"), "a" * 3000, " ".join(TEXT.split()) * 60]
    texts += ["".join(rng.choices(TEXT + "zÉ☃ ", k=40)) for _ in range(500)]
    for text in texts:
        line = " ".join(text.split())
        word = ("▁" + line.replace(" ", "▁")).encode() if line else b""
        assert [id for id, _, _ in made.encode_word(word)] == theirs.encode(line), text


# --- Training ------------------------------------------------------------------------------------


def digamma(x: float) -> float:
    total = 0.0
    while x < 30:
        total -= 1 / x
        x += 1
    return total + math.log(x) - 1 / (2 * x) - 1 / (12 * x**2) + 1 / (120 * x**4)


def test_the_scores_of_an_alphabet():
    """In a vocabulary of characters alone, a score follows from the count of the character."""
    found = _text.train_unigram(counted({"aab": 7, "bé": 5}), 3)
    assert [token.decode() for token, _ in found] == ["a", "b", "é"]
    counts = {"a": 14, "b": 12, "é": 5}
    for token, score in found:
        wanted = digamma(counts[token.decode()]) - digamma(31)
        assert score == pytest.approx(wanted, abs=1e-9)


def test_expected_counts_are_those_of_all_divisions():
    """One step of EM on a vocabulary that keeps every seed, computed from all divisions."""
    words = {"abab": 5, "aba": 3, "bb": 4}
    found = _text.train_unigram(counted(words), 1000, em_steps=1)
    seeds = {"a": 5 * 2 + 3 * 2, "b": 5 * 2 + 3 + 4 * 2}
    # Strings that occur twice, where they cannot be longer, and whole words.
    for word in words:
        for i in range(len(word)):
            for j in range(i + 2, len(word) + 1):
                seeds[word[i:j]] = sum(
                    count * sum(other.startswith(word[i:j], k) for k in range(len(other)))
                    for other, count in words.items()
                )
    # No longer string occurs as often: an "a" is before every "ba".
    seeds = {s: n for s, n in seeds.items() if s in ("a", "b", "ab", "aba", "abab", "bb")}
    for step in range(2):
        total = sum(seeds.values())
        scores = {
            token: math.log(n / total) if step == 0 else digamma(n) - digamma(total)
            for token, n in seeds.items()
        }
        expected = dict.fromkeys(seeds, 0.0)
        for word, count in words.items():
            every = divisions(word, {**scores})
            weight = sum(math.exp(score) for score, _ in every)
            for score, parts in every:
                for part in parts:
                    expected[part] += count * math.exp(score) / weight
        seeds = {token: n for token, n in expected.items() if len(token) == 1 or n >= 0.5 or step}
    total = sum(max(n, 0.5) for n in seeds.values())
    wanted = {t: digamma(max(n, 0.5)) - digamma(total) for t, n in seeds.items()}
    assert {token.decode() for token, _ in found} == set(wanted)
    for token, score in found:
        assert score == pytest.approx(wanted[token.decode()], abs=1e-6)


def test_the_vocabulary_depends_on_nothing_but_the_counts():
    rng = random.Random(3)
    words = {
        "".join(rng.choices("abcdef", k=rng.randint(1, 9))): rng.randint(1, 9) for _ in "x" * 900
    }
    first = _text.train_unigram(counted(words), 150)
    for threads in (1, 2, 7):
        shuffled = list(words.items())
        rng.shuffle(shuffled)
        assert _text.train_unigram(counted(dict(shuffled)), 150, threads=threads) == first
    tokenizers = [UnigramTokenizer.train(TEXT, 100, threads=n) for n in (1, 2, 7)]
    assert len({tokenizer.sha256() for tokenizer in tokenizers}) == 1


def test_words_of_any_length_and_probability():
    """Products of thousands of probabilities are far below the least double."""
    rng = random.Random(4)
    long = "".join(rng.choices([chr(c) for c in range(0x4E00, 0x5200)], k=6000))
    words = counted({long: 3, "ab" * 3000: 2, long[::-1]: 1})
    found = _text.train_unigram(words, 1500, character_coverage=1.0)
    assert all(math.isfinite(score) for _, score in found)
    assert {token.decode() for token, _ in found} >= set(long) | {"a", "b"}
    made = _text.Unigram(found, unk_id=None, byte_fallback=False)
    assert made.encode_word(long.encode())


def test_a_vocabulary_has_what_was_asked_for():
    made = UnigramTokenizer.train(TEXT, 100)
    assert len(made) == 100
    assert [made.id_to_token(i) for i in range(3)] == ["<unk>", "<s>", "</s>"]
    scores = [score for _, score in made.description["model"]["vocab"][3:]]
    assert scores == sorted(scores, reverse=True)
    assert sum(map(math.exp, scores)) == pytest.approx(1, abs=0.05)
    assert made.decode(made.encode(TEXT)) == TEXT
    with_bytes = UnigramTokenizer.train(TEXT, 400, byte_fallback=True)
    assert with_bytes.token_to_id("<0x00>") == 3
    assert with_bytes.decode(with_bytes.encode("☃ snow ☃")) == "☃ snow ☃"
    rare = UnigramTokenizer.train(TEXT + "☃", 100, initial_alphabet=["Ж"], character_coverage=0.99)
    assert rare.token_to_id("☃") is None
    assert rare.token_to_id("Ж") is not None


def test_fewer_strings_than_tokens_give_fewer_tokens():
    found = _text.train_unigram(counted({"ab": 2}), 1000)
    assert {token for token, _ in found} <= {b"ab", b"a", b"b"}
    assert 2 <= len(found) <= 3


def test_the_likelihood_is_no_less_than_that_of_sentencepiece():
    sentencepiece = pytest.importorskip("sentencepiece")
    lines = TEXT.split("\n")
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=trained,
        vocab_size=90,
        normalization_rule_name="identity",
        character_coverage=1.0,
        minloglevel=2,
    )
    theirs = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    words = Counter("▁" + word for line in lines for word in line.split(" "))
    ours = _text.train_unigram(counted(words), 90, special_tokens=["<unk>", "<s>", "</s>"])
    vocabulary = [(theirs.id_to_piece(i).encode(), theirs.get_score(i)) for i in range(90)]

    def log_likelihood(vocabulary: list[tuple[bytes, float]]) -> float:
        made = _text.Unigram(vocabulary, unk_id=0, byte_fallback=False, special=[1, 2])
        return sum(n * made.nbest(word.encode(), 1)[0][1] for word, n in words.items())

    assert log_likelihood(ours) >= log_likelihood(vocabulary)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocabulary_size": 5}, "vocabulary of 5 tokens is too small for 3 special tokens and"),
        ({"vocabulary_size": 0}, "vocabulary_size is a whole number of at least 1, not 0"),
        ({"special_tokens": ["<s>"]}, "the special tokens need '<unk>'"),
        ({"normalizer": "nfc"}, "normalizer is identity, nfkc or nmt_nfkc, not 'nfc'"),
        ({"character_coverage": 0.0}, "character_coverage must be above 0 and at most 1"),
        ({"shrinking": 1.0}, "shrinking must be above 0 and below 1"),
        ({"max_token_length": 0}, "max_token_length must be at least 1, not 0"),
        ({"initial_alphabet": [""]}, "an alphabet has single characters, not ''"),
        ({"texts": ""}, "nothing to train on: the text has no words"),
    ],
)
def test_wrong_training_is_one_sentence(options, message):
    with pytest.raises(UserError, match=message):
        UnigramTokenizer.train(**{"texts": TEXT, "vocabulary_size": 100, **options})


def test_progress_may_stop_the_training():
    calls = []
    UnigramTokenizer.train(TEXT, 100, progress=lambda done, whole: calls.append((done, whole)))
    assert calls == sorted(calls)
    assert calls[-1] == (1000, 1000)

    def stop(done: int, whole: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        UnigramTokenizer.train(TEXT, 100, progress=stop)


def test_a_text_that_spells_a_special_token_can_be_learned():
    text = "the <s> king </s> of <unk> and the <s> king </s> of <unk> \n" * 20
    tokenizer = UnigramTokenizer.train(text, 60)
    assert tokenizer.special_tokens == {"<unk>": 0, "<s>": 1, "</s>": 2}
    ids = tokenizer.encode(text)
    assert not {0, 1, 2} & set(ids.tolist())
    assert tokenizer.decode(ids) == text
    with pytest.raises(UserError, match="the special token 'k' is a part of the alphabet"):
        UnigramTokenizer.train(text, 60, special_tokens=["<unk>", "k"])
