"""Training BPE: the vocabulary that counting every pair again after each merge gives."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from byhand import _text
from byhand.errors import UserError
from byhand.text import make_tokenizer, tokenizer_of
from byhand.text.bpe import BPETokenizer

Learned = tuple[list[bytes], list[tuple[bytes, bytes]]]
# Without what stands for a space, and without special tokens, which Hugging Face finds in any text.
TEXT = Path(__file__).read_text(encoding="utf-8") + "".join(map(chr, range(160, 800)))
TEXT = TEXT.replace("\u2581", "").replace("<unk>", "").replace("<|", "")


def trained_slowly(
    counts: Counter[bytes],
    size: int,
    byte_level: bool,
    min_frequency: int,
    max_length: int | None,
    special: list[bytes],
) -> Learned:
    """The rule itself: all pairs are counted before each merge."""
    if byte_level:
        words = [([bytes([b]) for b in word], n) for word, n in counts.items()]
        alphabet = [bytes([b]) for b in range(256)]
    else:
        words = [([c.encode() for c in word.decode()], n) for word, n in counts.items()]
        alphabet = sorted({unit for units, _ in words for unit in units})
    ids = {token: id for id, token in enumerate(alphabet)}
    lengths = dict.fromkeys(alphabet, 1)
    merges = []
    while len(ids) < size - len(special):
        pairs: Counter[tuple[bytes, bytes]] = Counter()
        for units, n in words:
            for left, right in itertools.pairwise(units):
                too_long = max_length is not None and lengths[left] + lengths[right] > max_length
                if left + right not in special and not too_long:
                    pairs[left, right] += n
        best = min(pairs, key=lambda p: (-pairs[p], ids[p[0]], ids[p[1]]), default=None)
        if best is None or pairs[best] < min_frequency:
            break
        left, right = best
        merges.append(best)
        ids[left + right] = len(ids)
        lengths[left + right] = lengths[left] + lengths[right]
        for units, _ in words:
            i = 0
            while i + 1 < len(units):
                if (units[i], units[i + 1]) == best:
                    units[i : i + 2] = [left + right]
                i += 1
    return ([*ids, *special] if byte_level else [*special, *ids]), merges


def counted(words: Counter[bytes], rng: random.Random) -> _text.WordCounts:
    """The counts of words, added in any order and in several parts."""
    counts, later = _text.WordCounts(), _text.WordCounts()
    for word, n in rng.sample(sorted(words.items()), len(words)):
        first = rng.randrange(n + 1)
        counts.add(word, first)
        later.add(word, n - first)
    counts.merge(later)
    return counts


@pytest.mark.parametrize("seed", range(200))
def test_the_vocabulary_is_that_of_the_rule(seed: int):
    rng = random.Random(seed)
    letters = rng.choice(["ab", "abc", "a", "abcdefgh", "aé中"])
    words: Counter[bytes] = Counter()
    for _ in range(rng.choice([1, 3, 20, 60])):
        length = rng.choice([1, 2, 3, 6, 12, 40])
        words["".join(rng.choice(letters) for _ in range(length)).encode()] += rng.choice(
            [1, 2, 3, 10, 1000]
        )
    byte_level = rng.random() < 0.5
    special = rng.choice([[], [b"<s>"], [b"ab", b"<s>"]])
    max_length = rng.choice([None, None, 3, 5])
    min_frequency = rng.choice([0, 0, 2, 5])
    alphabet = 256 if byte_level else len({c for word in words for c in word.decode()})
    size = alphabet + len(special) + rng.choice([0, 1, 5, 50])
    found = _text.train_bpe(
        counted(words, rng),
        size,
        byte_level=byte_level,
        min_frequency=min_frequency,
        max_token_length=max_length,
        special_tokens=special,
    )
    wanted = trained_slowly(words, size, byte_level, max(min_frequency, 1), max_length, special)
    assert found == wanted


def test_the_example_of_the_guide():
    """Guide C03: aa, then ab (of two pairs with equal counts the one with lower ids), then aaab."""
    tokenizer = BPETokenizer.train("aaabdaaabac", 259)
    assert tokenizer.encode("aaabdaaabac").tolist() == [258, 100, 258, 97, 99]
    assert tokenizer.description["model"]["merges"] == ["a a", "a b", "aa ab"]


def test_the_vocabulary_equals_that_of_rustbpe():
    rustbpe = pytest.importorskip("rustbpe")
    pattern = r"\w+|[^\w\s]+|\s+"
    pytest.importorskip("regex")
    theirs = rustbpe.Tokenizer()
    theirs.train_from_iterator(iter([TEXT]), 1200, pattern=pattern)
    ranks = sorted((id, bytes(token)) for token, id in theirs.get_mergeable_ranks())
    ours = BPETokenizer.train(TEXT, 1200, pattern=pattern)
    assert [ours._model.token(id) for id in range(1200)] == [token for _, token in ranks]


@pytest.mark.parametrize("limit", [None, 30])
def test_the_vocabulary_of_characters_equals_hugging_faces(limit: int | None):
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    # Words of letters that are kept: Hugging Face joins what stands beside a character left out.
    text = " ".join(word for word in TEXT.split() if word.isascii() and word.isalpha())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<unk>"],
        end_of_word_suffix="</w>",
        show_progress=False,
        **({} if limit is None else {"limit_alphabet": limit}),
    )
    theirs.train_from_iterator([text.lower()], trainer)
    ours = BPETokenizer.train(
        text.lower(), 700, byte_level=False, end_of_word_suffix="</w>", limit_alphabet=limit
    )
    model = json.loads(theirs.to_str())["model"]
    # It numbers the characters that end words in the order of its hash table.
    assert set(ours.description["model"]["vocab"]) == set(model["vocab"])
    assert len(ours.description["model"]["merges"]) == len(model["merges"])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pattern": "gpt4"},
        {"pattern": "o200k"},
        {"pattern": None},
        {"byte_level": False},
        {"byte_level": False, "end_of_word_suffix": "</w>"},
        {"special_tokens": ["<|endoftext|>", "<|pad|>"]},
    ],
    ids=str,
)
def test_what_is_trained_gives_hugging_faces_ids_and_the_text_back(options: dict[str, Any]):
    tokenizer = BPETokenizer.train(TEXT, 900, **options)
    assert len(tokenizer) == 900
    ids = tokenizer.encode(TEXT)
    if not options.get("end_of_word_suffix"):
        assert tokenizer.decode(ids) == TEXT
    assert tokenizer_of(json.loads(json.dumps(tokenizer.to_dict()))) == tokenizer
    tokenizers = pytest.importorskip("tokenizers")
    description = {k: v for k, v in tokenizer.to_dict().items() if k != "kind"}
    theirs = tokenizers.Tokenizer.from_str(json.dumps(description))
    if options.get("pattern", "") is not None:  # one long word takes it too long
        assert theirs.encode(TEXT).ids == ids.tolist()


def test_special_tokens_come_last_and_text_never_becomes_one():
    special = ["<|end|>", "the", "→"]
    tokenizer = BPETokenizer.train("the <|end|> the the → → " * 50, 300, special_tokens=special)
    size = len(tokenizer)
    assert [tokenizer.token_to_id(token) for token in special] == [size - 3, size - 2, size - 1]
    assert tokenizer.encode("the <|end|> →").max() < size - 3
    allowed = tokenizer.encode("the<|end|>→", allowed_special="all")
    assert allowed.tolist() == [size - 2, size - 3, size - 1]
    assert tokenizer.decode(allowed, skip_special_tokens=False) == "the<|end|>→"


def test_characters_that_are_left_out_are_unknown_and_divide_words():
    text = "ab#ab ab#ab ab " * 20 + "# #"
    tokenizer = BPETokenizer.train(text, 50, byte_level=False, limit_alphabet=3)
    assert tokenizer.token_to_id("#") is None
    assert tokenizer.tokenize("ab#ab") == ["▁ab", "<unk>", "ab"]
    assert all("#" not in token for token in tokenizer.description["model"]["vocab"])
    more = BPETokenizer.train(text, 50, byte_level=False, limit_alphabet=3, initial_alphabet=["ß"])
    assert more.token_to_id("ß") is not None


def test_max_token_length_counts_bytes_or_characters():
    text = "ééééé ééééé abcdefgh abcdefgh"
    by_bytes = BPETokenizer.train(text, 300, max_token_length=4)
    assert max(len(by_bytes._model.token(id)) for id in range(len(by_bytes))) == 4
    tokenizer = BPETokenizer.train(text, 300, byte_level=False, max_token_length=4)
    lengths = [len(token) for token in tokenizer.description["model"]["vocab"] if token != "<unk>"]
    assert max(lengths) == 4


# --- The same result for any way the text comes ---------------------------------------------------


def test_the_vocabulary_is_the_same_for_files_blocks_and_any_number_of_threads(tmp_path: Path):
    text = TEXT * 40
    path = tmp_path / "text ü.txt"
    path.write_text(text, encoding="utf-8", newline="")
    wanted = BPETokenizer.train(text, 700).sha256()
    rng = random.Random(0)
    cuts = [0, *sorted(rng.randrange(len(text)) for _ in range(50)), len(text)]
    blocks = [text[a:b] for a, b in itertools.pairwise(cuts)]
    assert BPETokenizer.from_blocks(blocks, 700).sha256() == wanted
    for threads in [1, 2, 7]:
        assert BPETokenizer.train(path, 700, threads=threads).sha256() == wanted
        assert BPETokenizer.train([path], 700, threads=threads).sha256() == wanted
    assert make_tokenizer("bpe:700", text).sha256() == wanted  # type: ignore[union-attr]


def test_memory_is_bounded_by_the_distinct_words(tmp_path: Path):
    """At most 4 times the bytes of the distinct words and 64 MB more than at the start."""
    pytest.importorskip("resource")
    path = tmp_path / "words.txt"
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        for _ in range(60):
            words = rng.integers(97, 123, (20_000, 9), dtype=np.uint8)
            words[:, 0] = ord(" ")
            file.write(words.tobytes() * 2)
    code = f"""
import resource, pathlib
from byhand.text.bpe import BPETokenizer
BPETokenizer.train("a warm up " * 100, 260)
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
BPETokenizer.train(pathlib.Path({str(path)!r}), 2000, threads=2)
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit < 4 * 60 * 20_000 * 9 + 64 * 2**20


# --- Wrong input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"texts": ""}, "the text has no words to learn from"),
        ({"texts": []}, "the text has no words to learn from"),
        ({"texts": 7}, "a tokenizer is trained on texts or paths, not int"),
        ({"texts": "\ud800"}, "surrogate"),
        ({"vocabulary_size": 255}, "a vocabulary of 255 is too small for 256 bytes and 0 special"),
        (
            {"vocabulary_size": 3, "byte_level": False},
            "a vocabulary of 3 is too small for 4 characters and 1 special tokens",
        ),
        ({"vocabulary_size": "many"}, "a whole number of at least 1"),
        ({"special_tokens": ["<s>", "<s>"]}, "the special token '<s>' is listed twice"),
        ({"special_tokens": ["a"]}, "'a' is given twice or is a part of the alphabet"),
        ({"special_tokens": [""]}, "a special token is a text of at least one character"),
        ({"special_tokens": ["Ġabc"]}, "'Ġabc' cannot be told from the token that"),
        ({"pattern": "("}, "does not compile"),
        ({"pattern": 7}, "pattern is a name, a regular expression or None, not 7"),
        ({"byte_level": False, "pattern": "gpt4"}, "pattern is for byte_level=True"),
        ({"byte_level": False, "special_tokens": []}, "special_tokens needs one, the first"),
        ({"end_of_word_suffix": "</w>"}, "end_of_word_suffix is for byte_level=False"),
        ({"limit_alphabet": 5}, "limit_alphabet and initial_alphabet are about characters"),
        ({"byte_level": False, "initial_alphabet": ["ab"]}, "has single characters, not 'ab'"),
        ({"threads": 0}, "threads is a whole number of at least 1, not 0"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_arguments_are_one_sentence(options: dict[str, Any], message: str):
    if "pattern" in options:
        pytest.importorskip("regex")
    given = {"texts": "abc abc abc", "vocabulary_size": 300, **options}
    with pytest.raises(UserError) as caught:
        BPETokenizer.train(given.pop("texts"), **given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_text_is_refused_with_the_position(tmp_path: Path):
    path = tmp_path / "binary"
    path.write_bytes(b"abc " * 300_000 + b"\xff\xfe")
    with pytest.raises(UserError, match=r"is not UTF-8 text: byte 1200000 does not fit"):
        BPETokenizer.train(path, 300)
    with pytest.raises(UserError, match="cannot be read"):
        BPETokenizer.train(tmp_path / "missing", 300)


def test_progress_is_reported_and_can_stop_the_training():
    seen = []
    BPETokenizer.train(TEXT, 600, progress=lambda done, all: seen.append((done, all)))
    assert seen[-1] == (344, 344)

    def stop(done: int, all: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        BPETokenizer.train(TEXT, 600, progress=stop)


def test_counts_that_are_too_large_are_refused():
    counts = _text.WordCounts()
    counts.add(b"ab", 2**63 - 1)
    with pytest.raises(ValueError, match="counts of the words are too large"):
        _text.train_bpe(counts, 300)


# --- The counts of words --------------------------------------------------------------------------


def test_counts_are_those_of_a_counter():
    rng = random.Random(0)
    words = [rng.randbytes(rng.choice([1, 2, 3, 12])) for _ in range(30_000)]
    words += [b"long" * 300_000, b"long" * 300_001, b"long" * 300_000, *words[:5000]]
    counts = _text.WordCounts()
    for word in words:
        counts.add(word)
    assert counts.items() == sorted(Counter(words).items())
    assert len(counts) == len(set(words))


def test_counts_stay_at_their_largest_value():
    counts = _text.WordCounts()
    counts.add(b"a", 2**64 - 2)
    counts.add(b"a", 5)
    counts.add(b"b", 0)
    assert counts.items() == [(b"a", 2**64 - 1)]
    with pytest.raises(ValueError, match="cannot be merged with themselves"):
        counts.merge(counts)


def test_counts_of_more_than_32_bits():
    """Trainers keep them apart from the others."""
    words = {b"ab": 2**32 - 1, b"bc": 2**40, b"cd": 2**32 - 2, b"de": 2**40 + 1, b"e": 3}
    counts = _text.WordCounts()
    for word, count in words.items():
        counts.add(word, count - 2)
        counts.add(word, 2)
    twice = _text.WordCounts()
    for _ in range(2):
        twice.merge(counts)
    assert twice.items() == [(word, 2 * count) for word, count in words.items()]
    assert counts.items() == list(words.items())
    merges = _text.train_bpe(twice, 300)[1]
    assert merges == [(b"d", b"e"), (b"b", b"c"), (b"a", b"b"), (b"c", b"d")]
    counts.merge(twice)  # left empty
    assert counts.take_most_frequent(3, 1) == [b"de", b"bc", b"ab"]
    assert len(counts) == 0
    for word, count in words.items():
        counts.add(word, count)
    learned = _text.train_wordpiece(counts, 20, score="frequency")
    assert learned[-4:] == [b"de", b"bc", b"ab", b"cd"]
    for word, count in words.items():
        counts.add(word, count)
    scores = dict(_text.train_unigram(counts, 13, em_steps=1))
    assert scores[b"de"] > scores[b"bc"] > scores[b"ab"] > scores[b"cd"]
    assert counts.take_most_frequent(3, 1) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocabulary_size": "300"}, "vocabulary_size is a whole number of at least 1, not '300'"),
        ({"vocabulary_size": 0}, "vocabulary_size is a whole number of at least 1, not 0"),
        ({"special_tokens": 3}, "special_tokens is a list of texts, not 3"),
        ({"special_tokens": ["a\ud800"]}, "has half of a surrogate pair"),
        ({"threads": 0}, "threads is a whole number of at least 1, not 0"),
    ],
)
def test_arguments_of_a_wrong_type_are_named(options: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        BPETokenizer.train("a text", **options)


def test_a_vocabulary_larger_than_any_stops_when_no_pair_is_left():
    assert len(BPETokenizer.train("ab ab", 2**80)) < 300


@pytest.mark.parametrize("name", ["bpe:" + "9" * 20, "bpe:" + "9" * 5000])
def test_the_name_of_a_size_without_end_is_refused_shortly(name: str):
    with pytest.raises(UserError, match="no text has a vocabulary of 9") as raised:
        make_tokenizer(name, "a text")
    assert len(str(raised.value)) < 120
    with pytest.raises(UserError, match="a tokenizer is named by a str"):
        make_tokenizer(None, "a text")  # type: ignore[arg-type]
