"""What matches a schema's automaton is JSON that is valid under the schema."""

from __future__ import annotations

import datetime
import json
import re
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from byhand.errors import UserError
from tests.generation.automata.matching import matches, of_schema, random_texts

Check = Callable[[Any], bool]


def number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def node(value: Any) -> bool:
    return value is None or (
        set(value) == {"v", "next"} and number(value["v"]) and node(value["next"])
    )


PERSON = {
    "type": "object",
    "title": "a person",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 3},
    },
    "required": ["age"],
}
LIST = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "v": {"type": "number"},
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["v", "next"],
        }
    },
    "$ref": "#/$defs/node",
}


def person(value: Any) -> bool:
    return (
        set(value) <= {"name", "age", "tags"}
        and type(value["age"]) is int
        and len(value.get("name", "")) <= 8
        and ("tags" not in value or 1 <= len(value["tags"]) <= 3)
        and set(value.get("tags", [])) <= {"a", "b"}
    )


ENUM = [1, "é\n", None, [True, {"a": 2.5}], 1e100]
# Each schema with a check written by hand.
SCHEMAS: dict[str, tuple[Any, Check]] = {
    "object": (PERSON, person),
    "recursion": (LIST, node),
    "text": (json.dumps({"type": "boolean"}), lambda v: isinstance(v, bool)),
    "anything": (True, lambda v: True),
    "string": ({"type": "string", "minLength": 2, "maxLength": 5}, lambda v: 2 <= len(v) <= 5),
    "pattern": (
        {"type": "string", "pattern": "^[a-c]\\d+$"},
        lambda v: bool(re.search(r"^[a-c][0-9]+$", v)),
    ),
    "pattern inside": (
        {"type": "string", "pattern": 'a["\\\\\n]c'},
        lambda v: bool(re.search('a["\\\\\n]c', v)),
    ),
    "both": (
        {"type": "string", "pattern": "é", "maxLength": 3},
        lambda v: "é" in v and len(v) <= 3,
    ),
    "enum": ({"enum": ENUM}, lambda v: v in ENUM),
    "enum of a type": (
        {"type": ["integer", "string"], "enum": [1, 2.5, "a", None]},
        lambda v: v in (1, "a"),
    ),
    "const": ({"const": {"b": 1, "a": ["x\u0001"]}}, lambda v: v == {"b": 1, "a": ["x\u0001"]}),
    "types": ({"type": ["integer", "null"]}, lambda v: v is None or type(v) is int),
    "mapping": (
        {"type": "object", "additionalProperties": {"type": "null"}},
        lambda v: set(v.values()) <= {None},
    ),
    "no properties": ({"type": "object", "additionalProperties": False}, lambda v: v == {}),
    "required alone": ({"type": "object", "required": ["x"]}, lambda v: set(v) == {"x"}),
    "empty array": ({"type": "array", "maxItems": 0}, lambda v: v == []),
    "arrays": (
        {
            "type": "array",
            "items": {"type": "array", "items": {"type": "null"}, "maxItems": 1},
            "minItems": 2,
        },
        lambda v: len(v) >= 2 and all(one in ([], [None]) for one in v),
    ),
    "all of": (
        {"allOf": [{"type": "string", "maxLength": 4}, {"type": "string", "pattern": "b$"}]},
        lambda v: len(v) <= 4 and v.endswith("b"),
    ),
    "optional": (
        {
            "properties": {"a": {"type": "null"}, "b": {"type": "null"}, "c": {"type": "null"}},
            "required": ["b"],
        },
        lambda v: "b" in v and set(v) <= set("abc"),
    ),
    "date": (
        {"type": "string", "format": "date"},
        lambda v: datetime.date.fromisoformat(v) is not None,
    ),
    "uuid": ({"type": "string", "format": "uuid"}, lambda v: str(uuid.UUID(v)) == v),
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_match_is_valid(name: str):
    schema, check = SCHEMAS[name]
    automaton = of_schema(schema)
    texts = random_texts(automaton, 60, seed=1)
    for text in texts:
        assert check(json.loads(text)), text
    try:
        import jsonschema
    except ImportError:
        return
    for text in texts:
        jsonschema.validate(json.loads(text), json.loads(schema) if name == "text" else schema)


VALUES = [
    {"age": 3},
    {"name": 'a"\\\n', "age": -12, "tags": ["a", "b"]},
    {"name": "\x00é日", "age": 0},
    {"age": 1, "tags": ["b"]},
]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_values_are_written_as_json_dumps_does(value: Any, separators: tuple[str, str]):
    text = json.dumps(value, ensure_ascii=False, separators=separators)
    assert matches(of_schema(PERSON), text)
    assert matches(of_schema(True), text)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"age": "3"}',
        '{"age": 3.5}',
        '{"age": 03}',
        '{"age": 3,}',
        '{,"age": 3}',
        '{"age": 3, "other": 1}',
        '{"age": 3, "tags": []}',
        '{"age": 3, "tags": ["a", "b", "a", "b"]}',
        '{"age": 3, "tags": ["c"]}',
        '{"name": "123456789", "age": 3}',
        '{"name": "\n", "age": 3}',
        '{"age": 3}}',
        '{"age": 3',
        "null",
    ],
)
def test_other_texts_do_not_match(text: str):
    assert not matches(of_schema(PERSON), text)


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_recursion_ends_at_the_depth(depth: int):
    def nested(levels: int) -> str:
        inner = "null"
        for _ in range(levels):
            inner = f'{{"v": 1, "next": {inner}}}'
        return inner

    automaton = of_schema(LIST, depth)
    assert [matches(automaton, nested(n)) for n in range(depth + 4)] == [
        1 <= n <= depth + 1 for n in range(depth + 4)
    ]


def test_the_depth_of_values_without_a_schema():
    automaton = of_schema({}, 2)
    assert matches(automaton, '{"a": [1, "x"]}')
    assert not matches(automaton, '{"a": [1, ["x"]]}')


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("{", "the JSON schema is not JSON"),
        (3, "at # must be an object or a bool, not 3"),
        ({"type": "strin"}, r"'strin', which does not exist \(did you mean string\?\)"),
        ({"type": []}, r"has the type \[\]: it is a name"),
        (
            {"type": "string", "patern": "x"},
            r"'patern', which is not supported \(did you mean pattern\?\)",
        ),
        ({"type": "integer", "minimum": 3}, "has the keyword 'minimum', which is not supported"),
        ({"properties": {"a": {"oneOf": []}}}, "at #/properties/a has the keyword 'oneOf'"),
        ({"$ref": "#/x"}, "has the \\$ref '#/x', which is not there"),
        ({"$ref": "http://x"}, "has the \\$ref 'http://x': only '#...' is supported"),
        ({"type": "array", "minItems": -1}, "has the minItems -1, which must be a whole number"),
        ({"type": "array", "minItems": 3, "maxItems": 2}, "has a maxItems below its minItems"),
        ({"type": "string", "pattern": "("}, "has a pattern that cannot be used: the regular expr"),
        ({"type": "string", "format": "dat"}, r"'dat', which is unknown \(did you mean date\?\)"),
        ({"enum": []}, "has no list with values for 'enum'"),
        ({"anyOf": {}}, "has no list with values for 'anyOf'"),
        ({"enum": [{1, 2}]}, "has the value {1, 2}, which is not JSON"),
        ({"enum": [float("nan")]}, "has the value nan, which is not JSON"),
        ({"const": "\ud800"}, "has half of a surrogate pair"),
        ({"type": "null", "minItems": 1}, "has 'minItems', which does not fit the type null"),
        ({"minItems": 1, "maxLength": 2}, 'has no "type"'),
        ({"required": "a"}, 'has a "required" that is not a list of names'),
        ({"properties": [1]}, 'has "properties" that are not an object'),
        ({"required": ["a"], "additionalProperties": False}, "requires 'a', which its properties"),
        ({"properties": {1: True}}, "has the name 1, which is not a str"),
    ],
)
def test_a_wrong_schema_gets_one_sentence(schema: Any, message: str):
    with pytest.raises(UserError, match=message) as caught:
        of_schema(schema)
    assert "\n" not in str(caught.value)


def test_a_deep_schema_gets_one_sentence():
    schema: Any = {"type": "null"}
    for _ in range(5000):
        schema = {"items": schema}
    with pytest.raises(UserError, match="nested too deeply"):
        of_schema(schema)
