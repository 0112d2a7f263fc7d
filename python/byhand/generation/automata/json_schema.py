r"""From JSON schemas to expressions of the JSON texts that are valid.

What is written is one form of each value: properties in the order of the schema, at most one space
behind "," and ":", characters as they are, and escapes only where JSON asks for them (\" \\ \n \t
\r \b \f, and \u00XX for the other control characters). Integers have at most 18 digits, so that
they fit 64 bits; other numbers at most 15 digits before and after the point and 2 in the exponent.
Dates have years of four digits from 1000 on, and days that every month has.

Only what a schema declares is written: no further properties, unless it declares none by name.
A $ref may lead back to a schema that it is in; more than `depth` levels of that are not written. A
value without a schema has `depth` levels of arrays and objects. A keyword that would restrict the
values in a way that is not supported is an error, never ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from byhand.errors import UserError, suggestion
from byhand.generation.automata import characters, regex
from byhand.generation.automata.expressions import Expressions, Node

_ANNOTATIONS = {
    *("$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default"),
    *("examples", "deprecated", "readOnly", "writeOnly"),
}
_OF_TYPE = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"pattern", "minLength", "maxLength", "format"},
    "integer": set[str](),
    "number": set[str](),
    "boolean": set[str](),
    "null": set[str](),
}
_GENERAL = {"type", "enum", "const", "anyOf", "allOf", "$ref"}
_KNOWN = _ANNOTATIONS | _GENERAL | set().union(*_OF_TYPE.values())

_INTEGER = r"-?(0|[1-9][0-9]{0,17})"
_NUMBER = r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?([eE][+-]?[0-9]{1,2})?"
_DATE = r"[1-9][0-9]{3}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])"
_TIME = (
    r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
)
_FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "uuid": "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
}

_SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_ESCAPES = {chr(code): f"\\u{code:04x}" for code in range(0x20)} | _SHORT
_PLAIN = characters.complement(characters.of("".join(_ESCAPES)))


def parse(schema: Any, make: Expressions, depth: int = 3) -> Node:
    """The expression of the JSON texts that are valid under `schema`, a dict, a bool or JSON text.

    UserError that names the place in the schema where it is wrong or not supported.
    """
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise UserError(f"the JSON schema is not JSON: {error}") from None
    try:
        return _Reader(schema, make, depth).node(schema, "#")
    except RecursionError:
        raise UserError("the JSON schema is nested too deeply") from None


class _Reader:
    def __init__(self, root: Any, make: Expressions, depth: int) -> None:
        self.root = root
        self.make = make
        self.depth = depth
        self.inside: list[str] = []  # the targets of the $refs that are being followed
        self.comma = self.pattern(", ?")
        self.colon = self.pattern(": ?")
        self.made: dict[tuple[str, tuple[str, ...]], Node] = {}

    def pattern(self, pattern: str) -> Node:
        return regex.parse(pattern, self.make, ecma=True)

    def error(self, path: str, sentence: str) -> UserError:
        return UserError(f"the JSON schema at {path} {sentence}")

    def node(self, schema: Any, path: str) -> Node:
        if schema is True:
            return self.any_value(self.depth)
        if schema is False:
            return self.make.nothing
        if not isinstance(schema, Mapping):
            raise self.error(path, f"must be an object or a bool, not {schema!r:.60}")
        for name in schema:
            if name not in _KNOWN:
                near = suggestion(name, _KNOWN)
                raise self.error(path, f"has the keyword {name!r}, which is not supported{near}")
        found = []
        types = self.types(schema, path)
        for name in {"const", "enum"} & schema.keys():
            values = [schema["const"]] if name == "const" else self.listed(schema, "enum", path)
            fitting = (value for value in values if not types or _is_one_of(types, value))
            found.append(self.make.either(self.value(value, path) for value in fitting))
        if "anyOf" in schema:
            found.append(self.make.either(self.nodes(schema, "anyOf", path)))
        if "allOf" in schema:
            found.append(self.make.both(self.nodes(schema, "allOf", path)))
        if "$ref" in schema:
            found.append(self.reference(schema["$ref"], path))
        of_type = [name for name in schema if name not in _ANNOTATIONS | _GENERAL]
        listed = {"const", "enum"} & schema.keys()
        if of_type or not found or (types and not listed):
            found.append(self.typed(schema, types, of_type, path))
        return self.make.both(found)

    def listed(self, schema: Mapping[str, Any], name: str, path: str) -> Sequence[Any]:
        values = schema[name]
        if not isinstance(values, (list, tuple)) or not values:
            raise self.error(path, f"has no list with values for {name!r}")
        return values

    def nodes(self, schema: Mapping[str, Any], name: str, path: str) -> list[Node]:
        listed = enumerate(self.listed(schema, name, path))
        return [self.node(part, f"{path}/{name}/{number}") for number, part in listed]

    def reference(self, pointer: Any, path: str) -> Node:
        if not isinstance(pointer, str) or not pointer.startswith("#"):
            raise self.error(path, f"has the $ref {pointer!r:.60}: only '#...' is supported")
        if self.inside.count(pointer) > self.depth:
            return self.make.nothing
        key = (pointer, tuple(sorted(self.inside)))
        if key not in self.made:
            target = self.root
            for part in pointer.split("/")[1:]:
                part = part.replace("~1", "/").replace("~0", "~")
                if not isinstance(target, Mapping) or part not in target:
                    raise self.error(path, f"has the $ref {pointer!r}, which is not there")
                target = target[part]
            self.inside.append(pointer)
            self.made[key] = self.node(target, pointer)
            self.inside.pop()
        return self.made[key]

    # --- Values of a type ------------------------------------------------------------------------

    def types(self, schema: Mapping[str, Any], path: str) -> Sequence[str]:
        """The types that the schema names."""
        types = schema.get("type", ())
        listed = [types] if isinstance(types, str) else types
        if not isinstance(listed, (list, tuple)) or ("type" in schema and not listed):
            raise self.error(path, f"has the type {types!r:.60}: it is a name or a list of names")
        for name in listed:
            if name not in _OF_TYPE:
                near = suggestion(name, _OF_TYPE)
                raise self.error(path, f"has the type {name!r:.60}, which does not exist{near}")
        return listed

    def typed(
        self, schema: Mapping[str, Any], listed: Sequence[str], of_type: list[str], path: str
    ) -> Node:
        if not listed and not of_type:
            return self.any_value(self.depth)
        if not listed:
            # By the standard such a schema takes all values of other types too; here its keywords
            # say the type.
            listed = [name for name, names in _OF_TYPE.items() if set(of_type) & names]
            if len(listed) > 1:
                raise self.error(path, 'has no "type"')
        wrong = set(of_type) - set().union(*(_OF_TYPE[type] for type in listed))
        if wrong:
            name = min(wrong)
            raise self.error(path, f"has {name!r}, which does not fit the type {', '.join(listed)}")
        return self.make.either(self.of_type(type, schema, path) for type in listed)

    def of_type(self, type: str, schema: Mapping[str, Any], path: str) -> Node:
        if type == "object":
            return self.object(schema, path)
        if type == "array":
            least, most = self.bounds(schema, "minItems", "maxItems", path)
            return self.array(self.node(schema.get("items", True), f"{path}/items"), least, most)
        if type == "string":
            return self.string(schema, path)
        scalars = {"integer": _INTEGER, "number": _NUMBER, "boolean": "true|false", "null": "null"}
        return self.pattern(scalars[type])

    def bounds(
        self, schema: Mapping[str, Any], least: str, most: str, path: str
    ) -> tuple[int, int | None]:
        values = [schema.get(least, 0), schema.get(most)]
        for name, value in zip((least, most), values, strict=True):
            if value is not None and (type(value) is not int or value < 0):
                wanted = "which must be a whole number of at least 0"
                raise self.error(path, f"has the {name} {value!r:.60}, {wanted}")
        low, high = values
        if high is not None and high < low:
            raise self.error(path, f"has a {most} below its {least}")
        return low, high

    def array(self, item: Node, least: int, most: int | None) -> Node:
        more = self.make.sequence([self.comma, item])
        left = None if most is None else most - 1
        some = self.make.sequence([item, self.make.repeat(more, max(least - 1, 0), left)])
        if most == 0:
            some = self.make.empty
        elif least == 0:
            some = self.make.optional(some)
        return self.make.sequence([self.make.text("["), some, self.make.text("]")])

    def object(self, schema: Mapping[str, Any], path: str) -> Node:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        if not isinstance(properties, Mapping):
            raise self.error(path, 'has "properties" that are not an object')
        if not isinstance(required, (list, tuple)) or any(type(n) is not str for n in required):
            raise self.error(path, 'has a "required" that is not a list of names')
        others = schema.get("additionalProperties", True)
        unnamed = [name for name in required if name not in properties]
        if unnamed and others is False:
            raise self.error(path, f"requires {unnamed[0]!r}, which its properties do not have")
        if not properties and not unnamed and others is not False:
            return self.mapping(self.node(others, f"{path}/additionalProperties"))
        members = [
            (
                name in required,
                self.member(name, self.node(value, f"{path}/properties/{name}"), path),
            )
            for name, value in properties.items()
        ]
        rest = self.node(others, f"{path}/additionalProperties") if unnamed else self.make.nothing
        members += [(True, self.member(name, rest, path)) for name in unnamed]
        # From the last member to the first: what may follow when none is written yet, and when some
        # are, so that a comma is due.
        first = more = self.make.empty
        for needed, member in reversed(members):
            begun = self.make.sequence([member, more])
            continued = self.make.sequence([self.comma, begun])
            first = begun if needed else self.make.either([begun, first])
            more = continued if needed else self.make.either([continued, more])
        return self.make.sequence([self.make.text("{"), first, self.make.text("}")])

    def member(self, name: Any, value: Node, path: str) -> Node:
        if not isinstance(name, str):
            raise self.error(path, f"has the name {name!r:.60}, which is not a str")
        return self.make.sequence([self.value(name, path), self.colon, value])

    def mapping(self, value: Node) -> Node:
        """An object with any names."""
        member = self.make.sequence([self.quoted(self.make.anything), self.colon, value])
        more = self.make.repeat(self.make.sequence([self.comma, member]), 0, None)
        inner = self.make.optional(self.make.sequence([member, more]))
        return self.make.sequence([self.make.text("{"), inner, self.make.text("}")])

    def any_value(self, depth: int) -> Node:
        parts = [self.pattern(f"{_NUMBER}|true|false|null"), self.quoted(self.make.anything)]
        if depth > 0:
            inner = self.any_value(depth - 1)
            parts += [self.array(inner, 0, None), self.mapping(inner)]
        return self.make.either(parts)

    # --- Strings ---------------------------------------------------------------------------------

    def string(self, schema: Mapping[str, Any], path: str) -> Node:
        least, most = self.bounds(schema, "minLength", "maxLength", path)
        any_character = self.make.character(characters.ALL)
        contents = [self.make.repeat(any_character, least, most)]
        if "pattern" in schema:
            try:
                contents.append(regex.parse(schema["pattern"], self.make, search=True, ecma=True))
            except UserError as error:
                raise self.error(path, f"has a pattern that cannot be used: {error}") from None
        if "format" in schema:
            name = schema["format"]
            if name not in _FORMATS:
                near = suggestion(name, _FORMATS)
                raise self.error(path, f"has the format {name!r:.60}, which is unknown{near}")
            contents.append(self.pattern(_FORMATS[name]))
        return self.make.both(self.quoted(content) for content in contents)

    def quoted(self, content: Node) -> Node:
        """The JSON strings whose contents match. Each content is written in one way, so that what
        matches several expressions is written as what matches each."""
        quote = self.make.text('"')
        return self.make.sequence([quote, self._escaped(content), quote])

    def _escaped(self, node: Node) -> Node:
        if node.kind == "character":
            plain = self.make.character(characters.intersection(node.parts, _PLAIN))
            escaped = [
                self.make.text(text)
                for character, text in _ESCAPES.items()
                if characters.contains(node.parts, ord(character))
            ]
            return self.make.either([plain, *escaped])
        if node.kind == "repeat":
            inner, least, most = node.parts
            return self.make.repeat(self._escaped(inner), least, most)
        if node.kind == "sequence":
            parts = []  # a loop, because a long sequence would exceed the depth of recursion
            while node.kind == "sequence":
                parts.append(self._escaped(node.parts[0]))
                node = node.parts[1]
            return self.make.sequence([*parts, self._escaped(node)])
        if node.kind in ("either", "both"):
            made = self.make.either if node.kind == "either" else self.make.both
            return made(self._escaped(part) for part in node.parts)
        return node

    def value(self, value: Any, path: str) -> Node:
        """The texts of one value."""
        if isinstance(value, str):
            try:
                value.encode("utf-8")
            except UnicodeEncodeError:
                raise self.error(path, "has half of a surrogate pair") from None
            return self.make.text('"' + "".join(_ESCAPES.get(c, c) for c in value) + '"')
        if isinstance(value, (list, tuple)):
            items = [self.value(item, path) for item in value]
            return self.enclosed("[", items, "]")
        if isinstance(value, Mapping):
            members = [self.member(n, self.value(item, path), path) for n, item in value.items()]
            return self.enclosed("{", members, "}")
        try:
            return self.make.text(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError):
            raise self.error(path, f"has the value {value!r:.60}, which is not JSON") from None

    def enclosed(self, begin: str, items: list[Node], end: str) -> Node:
        separated = [part for item in items for part in (self.comma, item)][1:]
        return self.make.sequence([self.make.text(begin), *separated, self.make.text(end)])


def _is_one_of(types: Sequence[str], value: Any) -> bool:
    """Whether a value of JSON is of one of these types."""
    if isinstance(value, bool) or value is None:
        return ("null" if value is None else "boolean") in types
    if isinstance(value, (int, float)):
        whole = isinstance(value, int) or value.is_integer()
        return "number" in types or ("integer" in types and whole)
    kinds: dict[str, Any] = {"string": str, "array": (list, tuple), "object": Mapping}
    return any(isinstance(value, kinds[name]) for name in types if name in kinds)
