"""Regular expressions match what `re.fullmatch` matches; wrong ones get one sentence."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest

from byhand.errors import UserError
from byhand.generation.automata import characters, expressions, regex, utf8
from byhand.generation.automata.expressions import Automaton
from tests.generation.automata.matching import (
    matches,
    matching_characters,
    of_regex,
    random_texts,
)

LETTERS = "ab1é€\U0001f600\n _-\u0661\u200b"
PATTERNS = [
    r"",
    r"a|",
    r"yes|no",
    r"\d{4}-\d{2}-\d{2}",
    r"-?(0|[1-9]\d*)(\.\d+)?",
    r"[^\W\d_]+",
    r"[]a]+[^]a]",
    r"[a-c\-x]{2,3}?",
    r"(?:ab|a)*b",
    r"(?P<name>.)\.",
    r"^(a|b)$|^c$",
    r"\Ax\Z",
    r"x{,2}y{2,}z{}",
    r"a{,}",
    r"a{1,b}",
    r"(a?b?){0,3}",
    r"(a*)*",
    r"\s\S\D\W",
    r"[\d_-]",
    r"\x41\u00e9\U0001F600\t\0",
    r"[\b\n]",
    r"é+|日本.{1,2}",
    r"[\u0430-\u044f]{2}",
    r"\.\*\{\\",
    r"\é",
]


def random_pattern(rng: random.Random, depth: int) -> str:
    kind = rng.random()
    if depth == 0 or kind < 0.35:
        classes = [
            r"\d",
            r"\w",
            r"\s",
            r"\W",
            r"\D",
            r"\S",
            ".",
            "[ab]",
            "[^a]",
            "[a-é]",
            r"[\d_-]",
        ]
        return rng.choice([*classes, "a", "b", "é", "€", "\U0001f600"])
    if kind < 0.6:
        return random_pattern(rng, depth - 1) + random_pattern(rng, depth - 1)
    if kind < 0.75:
        return f"({random_pattern(rng, depth - 1)}|{random_pattern(rng, depth - 1)})"
    repeat = rng.choice(["*", "+", "?", "{2}", "{1,2}", "{,2}", "{1,}", "*?", "{0}"])
    return f"(?:{random_pattern(rng, depth - 1)}){repeat}"


def candidates(rng: random.Random, count: int) -> list[str]:
    return ["".join(rng.choices(LETTERS, k=rng.randrange(5))) for _ in range(count)]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_matches_what_re_matches(pattern: str):
    rng = random.Random(pattern)
    automaton = of_regex(pattern)
    texts = random_texts(automaton, 20, seed=0, longest=20)
    for text in texts:
        assert re.fullmatch(pattern, text), text
    # Texts that are nearly matches: one of their characters is another one, or is missing.
    near = [t[:i] + c + t[i + 1 :] for t in texts for i in range(min(len(t), 8)) for c in ("", "a")]
    for text in [*near, *candidates(rng, 200)]:
        assert matches(automaton, text) == bool(re.fullmatch(pattern, text)), text


def test_random_patterns_match_what_re_matches():
    rng = random.Random(0)
    found = 0
    for _ in range(80):
        pattern = random_pattern(rng, 4)
        automaton = of_regex(pattern)
        for text in candidates(rng, 60):
            expected = re.fullmatch(pattern, text) is not None
            assert matches(automaton, text) == expected, (pattern, text)
            found += expected
    assert found > 250, "otherwise the test says little"


@pytest.mark.parametrize(
    "pattern", [r"\d", r"\w", r"\s", r"\W", ".", "[^é]", "[\U0001f600-\U0010ffff]"]
)
def test_every_character_is_in_the_classes_of_re(pattern: str):
    every = np.array([*range(0xD800), *range(0xE000, 0x110000)])
    expected = [bool(match) for match in map(re.compile(pattern).fullmatch, map(chr, every))]
    np.testing.assert_array_equal(matching_characters(of_regex(pattern), every), expected)


def test_bytes_that_are_no_utf8_match_nothing():
    automaton = of_regex(r".*")
    for wrong in (b"\x80", b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xed\xa0\x80",
                  b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xff", b"\xc3"):  # fmt: skip
        with pytest.raises(UnicodeDecodeError):
            wrong.decode("utf-8")
        assert not matches(automaton, wrong)
    for right in (
        b"\xc2\x80",
        b"\xe0\xa0\x80",
        b"\xed\x9f\xbf",
        b"\xee\x80\x80",
        b"\xf4\x8f\xbf\xbf",
    ):
        right.decode("utf-8")
        assert matches(automaton, right)


def test_ecma_has_ascii_digits_and_its_own_line_ends():
    assert not matches(of_regex(r"\d", ecma=True), "\u0661")
    assert matches(of_regex(r"\d"), "\u0661")
    assert not matches(of_regex(r"\w", ecma=True), "é")
    assert matches(of_regex(r"\s", ecma=True), "\ufeff")
    assert not matches(of_regex(".", ecma=True), "\u2028")
    assert matches(of_regex("[^]", ecma=True), "\n")
    assert not matches(of_regex("[]|a", ecma=True), "]")
    assert matches(of_regex("(?<n>a)", ecma=True), "a")


@pytest.mark.parametrize("pattern", ["a", "^a", "a$", "^a$", "^a|b$", "", "a|^$"])
def test_a_search_finds_what_re_search_finds(pattern: str):
    automaton = of_regex(pattern, search=True)
    for text in ("", "a", "ab", "ba", "bab", "b", "c", "bc", "cb"):
        assert matches(automaton, text) == bool(re.search(pattern, text)), text


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("a**", "has a repeat of a repeat at position 1"),
        ("(a", r"has a \( without its \) at position 0"),
        ("a)", r"has a \) without its \( at position 1"),
        ("[a", r"has a \[ without its \] at position 0"),
        ("a{3,2}", "least number is above its greatest at position 1"),
        ("*a", "has a repeat of nothing at position 0"),
        ("|+", "has a repeat of nothing at position 1"),
        ("(?=a)", "of a kind that is not supported, at position 0"),
        ("(?i)a", "of a kind that is not supported, at position 0"),
        (r"(a)\1", r"has a \\1, which is not supported, at position 3"),
        (r"\bword", r"has a \\b, which is not supported, at position 0"),
        (r"\q", r"has a \\q, which is not supported"),
        ("a++", "possessive repeat"),
        ("x^", r"has a \^ that is not the beginning of the text at position 1"),
        ("(a$)b", r"has a \$ that is not the end of the text at position 2"),
        ("a$b", r"has a \$ that is not the end of the text at position 1"),
        ("[z-a]", "has a wrong range of characters at position 1"),
        (r"[\d-z]", "has a wrong range of characters at position 1"),
        ("a\\", "has an end where what is escaped is missing at position 2"),
        (r"\x1", "without its 2 hexadecimal digits at position 0"),
        (r"\ud800", "that is no character at position 0"),
        (r"\U00110000", "that is no character at position 0"),
        ("a\ud800", "half of a surrogate pair at position 1"),
        ("a{99999}", "repeat of more than 20000 times"),
        ("(" * 200, "more than 100 groups inside each other at position 100"),
        (7, "a regular expression is a str, not 7"),
    ],
)
def test_a_wrong_pattern_gets_one_sentence(pattern: str, message: str):
    with pytest.raises(UserError, match=message) as caught:
        of_regex(pattern)
    assert "\n" not in str(caught.value)


def test_too_many_states_are_an_error_before_they_fill_the_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(expressions, "MOST_STATES", 1000)
    with pytest.raises(UserError, match="automaton has more than 1000 states"):
        of_regex("(a|b)*a(a|b){30}")


def test_the_automaton_has_no_state_from_which_nothing_matches():
    automaton = of_regex("a(b|c[^\\s\\S])d")
    assert matches(automaton, "abd")
    state = automaton.table[automaton.start, ord("a")]
    assert automaton.table[state, ord("c")] == 0
    nothing = of_regex("[^\\s\\S]")
    assert nothing.start == 0
    assert not nothing.accepting.any()


def test_long_sequences_and_optional_parts_are_within_pythons_stack():
    assert matches(of_regex("x" * 3000), "x" * 3000)
    make = expressions.Expressions()
    optional = regex.parse("y?" * 3000, make)
    assert optional.nullable
    assert make.derivative(optional, ord("z")) is make.nothing


def test_classes_divide_the_characters_as_the_sets_do():
    sets = [characters.of("abc"), characters.of("bcd"), characters.matching(r"\d")]
    of_code, examples = characters.classes(sets)
    for number, example in enumerate(examples):
        expected = [characters.contains(one, example) for one in sets]
        for code in np.flatnonzero(of_code == number)[:50]:
            assert [characters.contains(one, int(code)) for one in sets] == expected
    assert len(examples) == 5  # a, bc, d, digits, others


@pytest.mark.parametrize("count", [1, 5])
def test_states_inside_characters_are_shared(count: int):
    """With a row of 64 states for each beginning of a character, "." would need thousands."""
    automaton = Automaton(
        np.array([[0] * (count + 1)] + [[0] + [1] * count] * 2, np.int32),
        np.array([False, True, True]), 1,
    )  # fmt: skip
    of_code = (np.arange(0x110000) % (count + 1)).astype(np.int32)
    assert len(utf8.over_bytes(automaton, of_code).table) < 3 + 3 * 64
