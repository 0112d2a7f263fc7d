"""Normalisers: every character of Unicode 16.0 and mixed text, beside unicodedata, Hugging Face's
tokenizers and SentencePiece; origins of what they write; descriptions that are wrong.
"""

import base64
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from byhand import _text
from byhand.errors import UserError
from byhand.text import normalise
from tests.text.parts import huggingface, random_texts
from tests.text.unicode_versions import OLDER_TABLES, PIECES, assigned

ROOT = Path(__file__).resolve().parents[2]
FORMS = ("NFC", "NFD", "NFKC", "NFKD")
BERT = [
    {"type": "BertNormalizer", "clean_text": clean, "handle_chinese_chars": chinese}
    | {"strip_accents": accents, "lowercase": lower}
    for clean in (True, False)
    for chinese in (True, False)
    for accents in (None, True, False)
    for lower in (True, False)
]
KINDS: list[dict[str, Any]] = [
    *BERT,
    *({"type": name} for name in (*FORMS, "Lowercase", "Nmt", "StripAccents")),
    *(
        {"type": "Strip", "strip_left": left, "strip_right": right}
        for left in (True, False)
        for right in (True, False)
    ),
    {"type": "Prepend", "prepend": "▁"},
    *(
        {"type": "Replace", "pattern": pattern, "content": content}
        for pattern in ({"String": " "}, {"Regex": " {2,}"}, {"Regex": r"\s+"}, {"Regex": "hello"})
        for content in ("", "▁", "xyz")
    ),
    {
        "type": "Sequence",
        "normalizers": [
            {"type": "NFKC"},
            {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]},
            {"type": "StripAccents"},
            {"type": "Strip", "strip_left": True, "strip_right": True},
        ],
    },
]


def apply(description: Any, text: str) -> str:
    made = normalise.make(description)
    written, none = _text.normalise(made, text.encode())
    tracked, origin = _text.normalise(made, text.encode(), True)
    assert none is None
    assert origin is not None
    assert tracked == written
    assert origin.shape == (len(written), 2)
    return written.decode()


@pytest.mark.parametrize("form", FORMS)
def test_normal_forms_of_every_character_and_of_mixed_ones(form: str):
    characters = assigned()
    unicodedata = pytest.importorskip("unicodedata2")
    # No character composes with q.
    text = "q".join(characters)
    assert apply({"type": form}, text) == unicodedata.normalize(form, text)
    unstable = [c for c in characters if unicodedata.normalize("NFKD", c) != c]
    marks = [c for c in characters if unicodedata.combining(c)]
    jamo = list(map(chr, range(0x1100, 0x1200)))
    draw = random.Random(0)
    mixed = "".join(
        draw.choice(draw.choice([unstable, marks, marks, jamo, list("abc eE")]))
        for _ in range(20_000)
    )
    assert apply({"type": form}, mixed) == unicodedata.normalize(form, mixed)


@pytest.mark.parametrize(
    ("description", "older"),
    [
        ({"type": "NFC"}, []),
        ({"type": "NFKD"}, ["decompositions"]),
        ({"type": "Lowercase"}, []),
        ({"type": "StripAccents"}, ["marks"]),
        ({"type": "Nmt"}, []),
        (BERT[0], ["marks", "decompositions", "control"]),
        (BERT[5], ["control"]),
    ],
    ids=str,
)
def test_every_character_equals_huggingface_but_for_its_older_tables(description, older):
    characters = assigned()
    theirs = huggingface("normalizer", description)
    allowed = set().union(*(OLDER_TABLES[name] for name in older))
    tested = [c for c in characters if c not in allowed]
    for begin in range(0, len(tested), 2000):
        text = "q".join(tested[begin : begin + 2000])
        assert apply(description, text) == theirs.normalize_str(text)


@pytest.mark.parametrize(
    ("older", "descriptions"),
    [
        ("decompositions", [{"type": form} for form in FORMS]),
        ("marks", [{"type": "StripAccents"}, BERT[14]]),
        ("control", [BERT[5]]),
    ],
)
def test_the_older_tables_differ_for_each_character_that_is_listed(older, descriptions):
    pairs = [(description, huggingface("normalizer", description)) for description in descriptions]
    same = [
        c
        for c in OLDER_TABLES[older] & set(assigned())
        if all(apply(description, c) == theirs.normalize_str(c) for description, theirs in pairs)
    ]
    assert same == []


@pytest.mark.parametrize("description", KINDS, ids=str)
def test_texts_equal_huggingface(description):
    theirs = huggingface("normalizer", description)
    for text in random_texts(100, PIECES, 1):
        assert apply(description, text) == theirs.normalize_str(text), ascii(text)


@pytest.mark.deep
@pytest.mark.parametrize("description", KINDS, ids=str)
def test_many_texts_equal_huggingface(description):
    theirs = huggingface("normalizer", description)
    older = set().union(*OLDER_TABLES.values())
    characters = [c for c in assigned() if c not in older]
    pieces = PIECES * 50 + random.Random(0).choices(characters, k=1000)
    for text in random_texts(5000, pieces, 2):
        assert apply(description, text) == theirs.normalize_str(text), ascii(text)


def test_origins_of_what_is_composed_decomposed_replaced_and_inserted():
    def origins(description: Any, text: str) -> list[list[int]]:
        _, found = _text.normalise(normalise.make(description), text.encode(), True)
        assert found is not None
        return found.tolist()

    assert origins({"type": "NFC"}, "ae\u0301b") == [[0, 1], [1, 4], [1, 4], [4, 5]]
    assert origins({"type": "NFD"}, "é!") == [[0, 2], [0, 2], [0, 2], [2, 3]]
    # The dot below (class 220) goes before the acute accent (class 230).
    assert origins({"type": "NFD"}, "q\u0301\u0323") == [[0, 1], [3, 5], [3, 5], [1, 3], [1, 3]]
    assert origins({"type": "Lowercase"}, "İA") == [[0, 2], [0, 2], [0, 2], [2, 3]]
    assert origins({"type": "Prepend", "prepend": "▁"}, "é") == [[0, 2]] * 5
    bert = {"type": "BertNormalizer"}
    assert origins(bert, "\0É漢") == [[1, 3], [3, 6], [3, 6], [3, 6], [3, 6], [3, 6]]
    strip = {"type": "Strip", "strip_left": True, "strip_right": True}
    assert origins(strip, " \u3000a b ") == [[4, 5], [5, 6], [6, 7]]
    replace = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "xy"}
    assert origins(replace, "a   b") == [[0, 1], [1, 4], [1, 4], [4, 5]]


@pytest.mark.parametrize("description", KINDS, ids=str)
def test_origins_lie_in_the_text_at_the_bounds_of_characters(description):
    for text in random_texts(60, PIECES, 3):
        original = text.encode()
        _, origin = _text.normalise(normalise.make(description), original, True)
        assert origin is not None
        bounds = {0}
        for character in text:
            bounds.add(max(bounds) + len(character.encode()))
        assert set(np.unique(origin).tolist()) <= bounds
        assert (origin[:, 0] <= origin[:, 1]).all()


def sentencepiece_normalizer(rule: str) -> Any:
    sentencepiece = pytest.importorskip("sentencepiece")
    return sentencepiece.SentencePieceNormalizer(
        rule_name=rule,
        escape_whitespaces=False,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
    )


def charsmap_of(normalizer: Any) -> bytes:
    """Field 2 of the message NormalizerSpec, after field 1, the name."""
    spec = normalizer.serialized_normalizer_spec()
    at = 2 + spec[1]
    assert (spec[0], spec[at]) == (0x0A, 0x12)
    size = shift = 0
    more = True
    while more:
        at += 1
        size |= (spec[at] & 127) << shift
        shift += 7
        more = spec[at] > 127
    return spec[at + 1 : at + 1 + size]


@pytest.mark.parametrize("rule", ["nmt_nfkc", "nfkc", "nmt_nfkc_cf"])
def test_a_charsmap_of_sentencepiece_gives_its_normalisation(rule: str):
    theirs = sentencepiece_normalizer(rule)
    charsmap = base64.b64encode(charsmap_of(theirs)).decode()
    description = {
        "type": "Precompiled",
        "precompiled_charsmap": charsmap,
        "longest_match": True,
    }
    unicodedata = pytest.importorskip("unicodedata2")
    characters = assigned()[1:]  # a C string ends at NUL
    assert apply(description, "q".join(characters)) == theirs.normalize("q".join(characters))
    unstable = [c for c in characters if unicodedata.normalize("NFKD", c) != c]
    marks = [c for c in characters if unicodedata.combining(c)]
    draw = random.Random(4)
    text = "".join(draw.choice(draw.choice([unstable, marks, PIECES[:40]])) for _ in range(20_000))
    assert apply(description, text) == theirs.normalize(text)


def test_a_charsmap_in_a_tokenizer_json_gives_what_huggingface_makes_of_it():
    charsmap = base64.b64encode(charsmap_of(sentencepiece_normalizer("nmt_nfkc"))).decode()
    description = {"type": "Precompiled", "precompiled_charsmap": charsmap}
    theirs = huggingface("normalizer", description)
    # The second accent is lost there, and sequences of 6 bytes do not compose.
    assert apply(description, "e\u0302\u0301") == "ê"
    assert apply(description, "か\u3099") == "か\u3099"
    unicodedata = pytest.importorskip("unicodedata2")
    characters = assigned()
    for before, after in (("", ""), ("²", ""), ("e\u0301", ""), ("\u0600", ""), ("", "\u0301")):
        tested = [c for c in characters if unicodedata.category(c) != "Lo"]
        for begin in range(0, len(tested), 2000):
            some = tested[begin : begin + 2000]
            text = "".join(f"q{before}{character}{after}q" for character in some)
            assert apply(description, text) == theirs.normalize_str(text)
    unstable = [c for c in characters if unicodedata.normalize("NFKD", c) != c]
    marks = [c for c in characters if unicodedata.combining(c)]
    draw = random.Random(7)
    for _ in range(300):
        text = "".join(draw.choice(draw.choice([unstable, marks, PIECES])) for _ in range(30))
        assert apply(description, text) == theirs.normalize_str(text), ascii(text)


def test_our_own_charsmap_equals_nmt_nfkc_on_every_character():
    theirs = sentencepiece_normalizer("nmt_nfkc")
    text = "q".join(assigned()[1:])
    assert apply(normalise.nmt_nfkc(), text) == theirs.normalize(text)


def test_our_own_charsmap_composes_every_canonical_sequence():
    unicodedata = pytest.importorskip("unicodedata2")
    kept = {"\u200d", "\uff5e"}  # SentencePiece's exceptions
    composed = [c for c in assigned() if unicodedata.decomposition(c) and c not in kept]
    composed += list(map(chr, range(0xAC00, 0xD7A4)))
    for form in ("NFC", "NFD"):
        text = "q".join(unicodedata.normalize(form, c) for c in composed)
        expected = apply(
            {"type": "Sequence", "normalizers": [{"type": "Nmt"}, {"type": "NFKC"}]}, text
        )
        assert apply(normalise.nmt_nfkc(), text) == expected


def test_a_damaged_charsmap_is_refused_or_harmless():
    whole = _text.nmt_nfkc_charsmap()
    text = "".join(assigned()[1::50]).encode()
    draw = random.Random(5)
    for size in [0, 1, 3, 4, 5, 7, 8, 100, len(whole) // 2, len(whole) - 1]:
        with pytest.raises(ValueError, match="precompiled_charsmap"):
            _text.Precompiled(whole[:size], longest=True)
    for _ in range(30):
        damaged = bytearray(whole)
        for _ in range(2000):
            damaged[draw.randrange(4, len(whole) - 1)] = draw.randrange(256)
        for longest in (True, False):
            _text.normalise([_text.Precompiled(bytes(damaged), longest=longest)], text, True)


@pytest.mark.parametrize(
    ("description", "sentence"),
    [
        (3, "a normalizer must be an object with a type, not 3"),
        ({"type": 5}, "a normalizer must be an object with a type"),
        ({"type": "Lower"}, "the normalizer 'Lower' is not supported .did you mean Lowercase"),
        ({"type": "Sequence"}, "Sequence: normalizers must be a list, which it lacks"),
        ({"type": "Sequence", "normalizers": [None]}, "not null"),
        ({"type": "Prepend"}, "Prepend: prepend must be a string, which it lacks"),
        ({"type": "Prepend", "prepend": "\ud800"}, "half of a surrogate pair"),
        ({"type": "Strip", "strip_left": 1}, "Strip: strip_left must be true or false, not 1"),
        ({"type": "Replace", "content": ""}, "Replace: pattern must be an object with either"),
        ({"type": "Replace", "content": "", "pattern": {"String": ""}}, "Replace: .* is empty"),
        ({"type": "Replace", "content": "", "pattern": {"Regex": "(a"}}, "does not compile"),
        ({"type": "Precompiled", "precompiled_charsmap": "%"}, "is not base64"),
        ({"type": "Precompiled", "precompiled_charsmap": "AAAA"}, "is cut short"),
    ],
    ids=str,
)
def test_a_wrong_description_is_one_sentence(description: Any, sentence: str):
    if "compile" in sentence:
        pytest.importorskip("regex")
    with pytest.raises(UserError, match=sentence):
        normalise.make(description)


def test_sequences_that_nest_too_deep_are_refused():
    description: dict[str, Any] = {"type": "NFC"}
    for _ in range(500):
        description = {"type": "Sequence", "normalizers": [description]}
    with pytest.raises(UserError, match="more than 64 deep"):
        normalise.make(description)


def test_the_tables_are_what_the_script_writes():
    unicodedata = pytest.importorskip("unicodedata2")
    if unicodedata.unidata_version != "16.0.0":
        pytest.skip("unicodedata2 is not of Unicode 16.0")
    code = "import make_unicode; print(make_unicode.source(), end='')"
    folder = ROOT / "csrc" / "text"
    written = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    assert written.stdout == (folder / "unicode_data.h").read_text("ascii")
