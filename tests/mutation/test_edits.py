"""The edits that are listed are valid, change the code, and leave out what is only shown."""

import ast
import functools
from collections import Counter

import pytest

from tests.mutation.__main__ import PACKAGE
from tests.mutation.edits import Edit, all_edits, choose, sources_of
from tests.mutation.lines import names_of


@functools.cache
def of_the_package() -> tuple[dict[str, bytes], dict[str, list[list[Edit]]]]:
    """The sources and their edits."""
    sources = sources_of(PACKAGE)
    return sources, all_edits(sources)


def edits_of(text: str) -> dict[tuple[str, str], list[str]]:
    """{(kind, old): [new, ...]} of a file with this text."""
    found: dict[tuple[str, str], list[str]] = {}
    for statement in all_edits({"a.py": text.encode()})["a.py"]:
        for edit in statement:
            found.setdefault((edit.kind, edit.old), []).append(edit.new)
    return found


@pytest.mark.parametrize(
    ("text", "kind", "old", "new"),
    [
        ("a = b < c", "comparison", "b < c", ["(b <= c)"]),
        ("a = b + c", "operator", "b + c", ["(b - c)"]),
        ("a *= b", "operator", "a *= b", ["a /= b"]),
        ("a = b and c", "and, or", "b and c", ["(b or c)"]),
        ("if not b: f()", "remove not or minus", "not b", ["b"]),
        ("if b: f()", "negate condition", "b", ["(not b)"]),
        ("a = 3", "constant", "3", ["4", "2"]),
        ("a = 0.5", "constant", "0.5", ["1.0"]),
        ("def f(a=True): return a", "constant", "True", ["False"]),
        ("f(a, b=1)", "drop keyword", "f(a, b=1)", ["f(a)"]),
        ("f(a, b)", "swap arguments", "f(a, b)", ["f(b, a)"]),
        ("def g(a, b=None): f()\ng(1, c)", "argument to default", "c", ["None"]),
        ("a = b[1:c]", "slice bound", "b[1:c]", ["b[:c]", "b[1:]"]),
        ("def f(a):\n    a.b = 1", "remove statement", "a.b = 1", ["pass"]),
        ("def f(a):\n    a()\n", "remove call", "a()", ["pass"]),
        ("def f(a):\n    g()\n    a()\n", "return early", "a()", ["return\n    a()"]),
        ("def f(a):\n    raise a", "remove raise", "raise a", ["pass"]),
        ("with a(): b()", "remove with", "with a()", ["if True"]),
        ("a = b if c else d", "swap arms", "b if c else d", ["(d if c else b)"]),
    ],
)
def test_an_edit_of_each_kind(text: str, kind: str, old: str, new: list[str]):
    assert edits_of(text)[kind, old] == new


@pytest.mark.parametrize(
    "text",
    [
        '"""A docstring."""',
        "__all__ = ['a', 'b']",
        "a: list[int]",
        "import a",
        "assert a < 3",
        "def __repr__(self): return 'x' * 3",
        "if TYPE_CHECKING:\n    f(3)",
        "class A(Protocol):\n    def f(self, n=3): g()",
        "a = f'{b + 1}'",
        "def f(): raise NotImplementedError",
        "print(a + 1)",
        "a = f(help=b + 1)",
        "def g(a, b=None): f()\ng(c, b=None)",
    ],
)
def test_what_is_only_shown_or_declared_is_not_edited(text: str):
    kinds = {kind for kind, _ in edits_of(text)}
    assert kinds <= {"remove call"}


def test_every_edit_of_the_package_is_valid_and_another_program():
    sources, of_files = of_the_package()
    edits = [e for found in of_files.values() for statement in found for e in statement]
    assert len(edits) > 3000
    keys = Counter(edit.key(sources[edit.file]) for edit in edits)
    trees = {name: ast.dump(ast.parse(source)) for name, source in sources.items()}
    for edit in edits[::100]:
        changed = ast.dump(ast.parse(edit.apply(sources[edit.file])))
        assert changed != trees[edit.file], edit
    assert len(keys) == len(edits)


def test_the_choice_is_seeded_and_in_proportion_to_the_statements():
    _, edits = of_the_package()
    one, same, other = (choose(edits, 60, seed) for seed in (0, 0, 1))
    assert one == same != other
    assert len(one) == len(set(one)) == 60
    of_file = Counter(edit.file for edit in one)
    total = sum(len(found) for found in edits.values())
    for name, found in edits.items():
        assert abs(of_file[name] - 60 * len(found) / total) < 1


def test_a_line_is_named_by_its_function():
    source = b"a = 1\nclass B:\n    @c\n    def d(self):\n        return 1\n"
    assert names_of("x.py", source)[4] == "x.py|B.d|return 1"
    assert names_of("x.py", source)[0] == "x.py||a = 1"


def test_applying_an_edit_changes_its_bytes_only():
    source = "é = 1 + 1\n".encode()
    (statement,) = all_edits({"a.py": source})["a.py"]
    texts = {edit.apply(source).decode() for edit in statement}
    assert texts == {f"é = {new}\n" for new in ("(1 - 1)", "2 + 1", "0 + 1", "1 + 2", "1 + 0")}
