"""The possible single edits of a Python file, and a random choice among those of all files.

An edit changes what is computed: an operator, a constant, an argument, a statement. Not edited are
messages (what is raised, strings, f-strings, help texts), docstrings, annotations, ``__all__``,
``__repr__``, protocols, assertions, and code for type checkers: no result depends on them.
"""

from __future__ import annotations

import ast
import copy
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
# Keywords and functions whose arguments are only shown.
SHOWN = {"help", "metavar", "description", "epilog", "default_text", "about", "name", "strict"}
SHOWING = {"print", "say", "error", "wrong_value", "wrong_shape", "wrong_type", "UserError"}
SYMMETRIC = {"max", "min", "maximum", "minimum", "isinstance", "getattr", "hasattr", "setattr"}

# Code that only runs on a GPU, or compares speeds with another library.
EXCLUDED = ("_build.py", "__main__.py", "backend/cuda.py", "cublaslt.py", "cli/bench_torch.py")


@dataclass(frozen=True)
class Edit:
    """Replaces `old`, which begins at byte `start` of the file, by `new`.

    Attributes:
        function: the qualified name of the function around it; "" for the module.
        lines: the first and last line of the statement, whose tests are run; None for code that
            runs at import, whose tests are those of the whole function or file.
    """

    file: str
    function: str
    kind: str
    line: int
    start: int
    old: str
    new: str
    lines: tuple[int, int] | None

    def apply(self, source: bytes) -> bytes:
        old = self.old.encode()
        assert source[self.start : self.start + len(old)] == old
        return source[: self.start] + self.new.encode() + source[self.start + len(old) :]

    def key(self, source: bytes) -> str:
        """What stays the same when other parts of the file change."""
        before = source[: self.start].count(self.old.encode())
        return f"{self.file}|{self.function}|{self.kind}|{self.old}|{self.new}|{before}"


class Lister:
    """Lists the edits of one file, for each statement."""

    def __init__(self, file: str, source: bytes, defaults: Defaults):
        self.file = file
        self.source = source
        self.defaults = defaults
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.function: list[str] = []
        self.lines: tuple[int, int] | None = None
        self.found: list[list[Edit]] = []

    def list(self) -> list[list[Edit]]:
        self.body(ast.parse(self.source).body, False)
        return [edits for edits in self.found if edits]

    # --- Statements ----------------------------------------------------------------------------

    def body(self, statements: list[ast.stmt], in_function: bool) -> None:
        for i, statement in enumerate(statements):
            self.statement(statement, in_function, i)

    def statement(self, node: ast.stmt, in_function: bool, position: int) -> None:
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.Assert, ast.Pass, ast.Global)):
            return
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            self.definition(node)
            return
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Raise) and "NotImplementedError" in ast.unparse(node):
            return
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return
        parts = [
            (name, value)
            for name, value in ast.iter_fields(node)
            if name not in ("body", "orelse", "finalbody", "handlers", "annotation")
        ]
        head = [node.lineno, node.lineno]
        for _, value in parts:
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, ast.AST) and hasattr(part, "end_lineno"):
                    head[1] = max(head[1], part.end_lineno)
                elif isinstance(part, ast.withitem):
                    head[1] = max(head[1], part.context_expr.end_lineno or 0)
        self.lines = (head[0], head[1]) if in_function else None
        self.found.append([])
        self.whole(node, in_function, position)
        if not isinstance(node, ast.Raise):
            for name, value in parts:
                if name == "targets":
                    continue
                for part in value if isinstance(value, list) else [value]:
                    if isinstance(part, ast.withitem):
                        self.expression(part.context_expr)
                    elif isinstance(part, ast.expr):
                        self.expression(part, condition=name == "test")
        for name in ("body", "orelse", "finalbody"):
            self.body(getattr(node, name, []), in_function)
        for handler in getattr(node, "handlers", []):
            self.body(handler.body, in_function)

    def definition(self, node: Any) -> None:
        bases = [ast.unparse(base) for base in getattr(node, "bases", [])]
        if node.name == "__repr__" or "Protocol" in bases:
            return
        if any(ast.unparse(d) == "overload" for d in node.decorator_list):
            return
        self.function.append(node.name)
        if isinstance(node, ast.FunctionDef):
            self.lines = None
            self.found.append([])
            for default in (*node.args.defaults, *node.args.kw_defaults):
                if default is not None:
                    self.expression(default)
        self.body(node.body, isinstance(node, ast.FunctionDef))
        self.function.pop()

    def whole(self, node: ast.stmt, in_function: bool, position: int) -> None:
        """Edits of a statement as a whole."""
        if isinstance(node, ast.AugAssign):
            self.operator(node, node)
            self.replace(node, "pass", "remove statement")
        elif isinstance(node, ast.Assign):
            if all(isinstance(t, (ast.Attribute, ast.Subscript)) for t in node.targets):
                self.replace(node, "pass", "remove statement")
        elif isinstance(node, ast.Expr):
            if isinstance(node.value, ast.Call) and in_function:
                self.replace(node, "pass", "remove call")
                if position:
                    indent = " " * node.col_offset
                    old = self.text(node)
                    self.replace(node, f"return\n{indent}{old}", "return early")
        elif isinstance(node, ast.Raise):
            self.replace(node, "pass", "remove raise")
        elif isinstance(node, ast.Delete):
            self.replace(node, "pass", "remove statement")
        elif isinstance(node, (ast.Break, ast.Continue)):
            other = "continue" if isinstance(node, ast.Break) else "break"
            self.replace(node, other, "break and continue")
        elif isinstance(node, ast.With):
            if all(item.optional_vars is None for item in node.items):
                first, last = node.items[0].context_expr, node.items[-1].context_expr
                start = self.offset(first.lineno, first.col_offset)
                assert last.end_lineno is not None
                assert last.end_col_offset is not None
                end = self.offset(last.end_lineno, last.end_col_offset)
                if (
                    self.source[start - 5 : start] == b"with "
                    and self.source[end : end + 1] == b":"
                ):
                    self.add(start - 5, end, "if True", "remove with", node.lineno)

    # --- Expressions ---------------------------------------------------------------------------

    def expression(self, node: ast.expr, condition: bool = False) -> None:
        if isinstance(node, ast.JoinedStr):
            return
        if condition and isinstance(node, (ast.Name, ast.Attribute, ast.Call)):
            self.replace(node, f"not {ast.unparse(node)}", "negate condition")
        if isinstance(node, ast.Compare):
            for i, op in enumerate(node.ops):
                if type(op) in COMPARISONS:
                    new = copy.deepcopy(node)
                    new.ops[i] = COMPARISONS[type(op)]()
                    self.replace(node, new, "comparison")
        elif isinstance(node, ast.BinOp):
            if any(isinstance(part, ast.JoinedStr) for part in ast.walk(node)):
                return
            self.operator(node, node)
        elif isinstance(node, ast.BoolOp):
            new = copy.deepcopy(node)
            new.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            self.replace(node, new, "and, or")
        elif isinstance(node, ast.UnaryOp):
            if isinstance(node.op, (ast.Not, ast.USub)):
                self.replace(node, node.operand, "remove not or minus")
        elif isinstance(node, ast.IfExp):
            new = copy.deepcopy(node)
            new.body, new.orelse = new.orelse, new.body
            self.replace(node, new, "swap arms")
        elif isinstance(node, ast.Constant):
            self.constant(node)
        elif isinstance(node, ast.Subscript):
            self.bounds(node)
        elif isinstance(node, ast.Call):
            if not self.call(node):
                return
        for part in ast.iter_child_nodes(node):
            if isinstance(part, ast.expr):
                self.expression(part)
            elif isinstance(part, ast.keyword) and part.arg not in SHOWN:
                self.expression(part.value)
            elif isinstance(part, ast.comprehension):
                self.expression(part.iter)
                for test in part.ifs:
                    self.expression(test, condition=True)

    def operator(self, node: Any, whole: ast.AST) -> None:
        if type(node.op) in OPERATORS:
            new = copy.deepcopy(node)
            new.op = OPERATORS[type(node.op)]()
            self.replace(whole, new, "operator")

    def constant(self, node: ast.Constant) -> None:
        value = node.value
        if value is True or value is False:
            self.replace(node, str(not value), "constant")
        elif isinstance(value, int):
            self.replace(node, str(value + 1), "constant")
            self.replace(node, str(value - 1), "constant")
        elif isinstance(value, float):
            self.replace(node, repr(2 * value if value else 1.0), "constant")

    def bounds(self, node: ast.Subscript) -> None:
        dims = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        for i, dim in enumerate(dims):
            if not isinstance(dim, ast.Slice):
                continue
            for bound in ("lower", "upper", "step"):
                if getattr(dim, bound) is not None:
                    new = copy.deepcopy(node)
                    target = new.slice.elts[i] if isinstance(new.slice, ast.Tuple) else new.slice
                    setattr(target, bound, None)
                    self.replace(node, new, "slice bound")

    def call(self, node: ast.Call) -> bool:
        """Edits of a call's arguments; False if they are only shown."""
        name = ast.unparse(node.func).rpartition(".")[2]
        if name in SHOWING or "typing" in name:
            return False
        known = self.defaults.get(name, {})
        for i, keyword in enumerate(node.keywords):
            if keyword.arg is None or keyword.arg in SHOWN:
                continue
            if ast.unparse(keyword.value) != known.get(keyword.arg):
                new = copy.deepcopy(node)
                del new.keywords[i]
                self.replace(node, new, "drop keyword")
        plain = not any(isinstance(a, ast.Starred) for a in node.args)
        defaults = list(known.values()) if plain else []
        for argument, default in zip(node.args, defaults, strict=False):
            if default is not None and ast.unparse(argument) != default:
                self.replace(argument, default, "argument to default")
        if name not in SYMMETRIC and plain:
            for i in range(len(node.args) - 1):
                one, other = node.args[i], node.args[i + 1]
                if ast.dump(one) != ast.dump(other):
                    new = copy.deepcopy(node)
                    new.args[i], new.args[i + 1] = new.args[i + 1], new.args[i]
                    self.replace(node, new, "swap arguments")
        return True

    # --- Text ----------------------------------------------------------------------------------

    def offset(self, line: int, column: int) -> int:
        return self.starts[line - 1] + column

    def text(self, node: Any) -> str:
        start = self.offset(node.lineno, node.col_offset)
        return self.source[start : self.offset(node.end_lineno, node.end_col_offset)].decode()

    def replace(self, node: Any, new: ast.AST | str, kind: str) -> None:
        if not isinstance(new, str):
            text = ast.unparse(new)
            simple = (ast.Call, ast.Constant, ast.Name, ast.Attribute, ast.Subscript, ast.stmt)
            new = text if isinstance(new, simple) else f"({text})"
        elif isinstance(node, ast.expr) and new.startswith(("not ", "-")):
            new = f"({new})"
        start = self.offset(node.lineno, node.col_offset)
        end = self.offset(node.end_lineno, node.end_col_offset)
        self.add(start, end, new, kind, node.lineno)

    def add(self, start: int, end: int, new: str, kind: str, line: int) -> None:
        old = self.source[start:end].decode()
        function = ".".join(self.function)
        self.found[-1].append(Edit(self.file, function, kind, line, start, old, new, self.lines))


Defaults = dict[str, dict[str, str | None]]


def defaults_of(sources: dict[str, bytes]) -> Defaults:
    """{name of a function, method or class: {argument: its default, or None}}, of the arguments
    that may be positional; names that are defined twice are left out.
    """
    found: dict[str, list[dict[str, str | None]]] = defaultdict(list)
    for source in sources.values():
        for node, owner in _functions(ast.parse(source)):
            arguments = [*node.args.posonlyargs, *node.args.args]
            values: list[str | None] = [None] * (len(arguments) - len(node.args.defaults))
            for value in node.args.defaults:
                constant = isinstance(value, ast.Constant)
                values.append(ast.unparse(value) if constant else None)
            by_name = {a.arg: v for a, v in zip(arguments, values, strict=True)}
            static = any(ast.unparse(d) == "staticmethod" for d in node.decorator_list)
            if owner is not None and not static and arguments:
                del by_name[arguments[0].arg]
            name = owner if node.name == "__init__" and owner is not None else node.name
            found[name].append(by_name)
    return {name: values[0] for name, values in found.items() if len(values) == 1}


def _functions(
    node: ast.AST, owner: str | None = None
) -> Iterator[tuple[ast.FunctionDef, str | None]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            yield child, owner
            yield from _functions(child)
        else:
            name = child.name if isinstance(child, ast.ClassDef) else owner
            yield from _functions(child, name)


def sources_of(package: Path) -> dict[str, bytes]:
    """The files that are edited, by their path in the package."""
    paths = sorted(package.rglob("*.py"))
    named = {path.relative_to(package).as_posix(): path for path in paths}
    return {name: path.read_bytes() for name, path in named.items() if name not in EXCLUDED}


def all_edits(sources: dict[str, bytes]) -> dict[str, list[list[Edit]]]:
    """{file: for each statement that can be edited, its edits}."""
    defaults = defaults_of(sources)
    return {name: Lister(name, source, defaults).list() for name, source in sources.items()}


def choose(edits: dict[str, list[list[Edit]]], count: int, seed: int) -> list[Edit]:
    """`count` edits, spread over the files in proportion to their statements: first statements are
    drawn, then a kind of edit and an edit of each. Fewer if there are not so many statements.
    """
    rng = random.Random(seed)
    total = sum(len(statements) for statements in edits.values())
    exact = {name: count * len(found) / max(total, 1) for name, found in edits.items()}
    share = {name: int(value) for name, value in exact.items()}
    by_rest = sorted(exact, key=lambda name: (share[name] - exact[name], name))
    for name in by_rest[: count - sum(share.values())]:
        share[name] += 1
    chosen = []
    for name, found in edits.items():
        for statement in rng.sample(found, min(share[name], len(found))):
            kind = rng.choice(sorted({edit.kind for edit in statement}))
            chosen.append(rng.choice([edit for edit in statement if edit.kind == kind]))
    rng.shuffle(chosen)
    return chosen
