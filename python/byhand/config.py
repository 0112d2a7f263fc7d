"""Configurations: frozen dataclasses whose fields declare what values they take.

    @config
    class GPTConfig(Config):
        num_layers: int = positive_int(help="transformer blocks", aliases=("n_layer",),
                                       flag="--layers")
        dropout: float = probability(0.0, help="part of the activations zeroed in training")

        def check(self) -> None:          # conditions on several fields
            self.require(self.a % self.b == 0, "a", f"a multiple of b = {self.b}")

The declarations give the checks, the constructor's aliases, `to_dict` and `from_dict`, and the
command-line flags (`add_flags`, `given`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from byhand.errors import UserError, suggestion
from byhand.values import (
    Choice,
    Flag,
    JsonObject,
    Number,
    Text,
    Texts,
    Values,
    WholeNumber,
    WholeNumbers,
)

if TYPE_CHECKING:
    import argparse

    from typing_extensions import Self

C = TypeVar("C", bound="type[Config]")
T = TypeVar("T")
_REQUIRED: Any = dataclasses.MISSING


# --- declaring fields ----------------------------------------------------------------------------


def field(
    values: Values,
    default: Any = _REQUIRED,
    *,
    help: str = "",
    aliases: Iterable[str] = (),
    flag: str | None = None,
    default_text: str | None = None,
    absent: Any = _REQUIRED,
) -> Any:
    """A field that takes `values`; the functions below name the usual kinds.

    Args:
        default: the value if none is given; without a default the field is required. A field whose
            default is None may be None.
        help: a phrase for `--help`.
        aliases: other names that the constructor and `from_dict` accept. One that several fields
            have sets all of them.
        flag: a shorter flag than the one made of the name, such as "--layers".
        default_text: what `--help` says in brackets instead of the default; "" for nothing.
        absent: the value that `from_dict` uses when the field is missing, for a field that was
            added after dicts without it had been saved.
    """
    metadata = {
        "values": values,
        "help": help,
        "aliases": tuple(aliases),
        "flag": flag,
        "default_text": default_text,
        "absent": absent,
    }
    if default is _REQUIRED:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def positive_int(default: Any = _REQUIRED, **options: Any) -> Any:
    """An integer of at least 1."""
    return field(WholeNumber(1), default, **options)


def non_negative_int(default: Any = _REQUIRED, **options: Any) -> Any:
    """An integer of at least 0."""
    return field(WholeNumber(0), default, **options)


def positive_ints(default: Any = _REQUIRED, **options: Any) -> Any:
    """A tuple of integers of at least 1, such as the widths of hidden layers."""
    return field(WholeNumbers(1), default, **options)


def positive(default: Any = _REQUIRED, **options: Any) -> Any:
    """A finite number greater than 0."""
    return field(Number("greater than 0", lambda x: x > 0), default, **options)


def non_negative(default: Any = _REQUIRED, **options: Any) -> Any:
    """A finite number of at least 0."""
    return field(Number("at least 0", lambda x: x >= 0), default, **options)


def number(default: Any = _REQUIRED, **options: Any) -> Any:
    """A finite number."""
    return field(Number(), default, **options)


def probability(default: Any = _REQUIRED, **options: Any) -> Any:
    """A number p with 0 <= p < 1."""
    return field(Number("at least 0 and less than 1", lambda x: 0 <= x < 1), default, **options)


def fraction(default: Any = _REQUIRED, **options: Any) -> Any:
    """A number p with 0 < p < 1."""
    return field(Number("greater than 0 and less than 1", lambda x: 0 < x < 1), default, **options)


def fraction_or_1(default: Any = _REQUIRED, **options: Any) -> Any:
    """A number p with 0 < p <= 1."""
    return field(Number("greater than 0 and at most 1", lambda x: 0 < x <= 1), default, **options)


def json_object(default: Any = _REQUIRED, **options: Any) -> Any:
    """A dict of names and JSON data."""
    return field(JsonObject(), default, **options)


def choice(options: Sequence[str], default: Any = _REQUIRED, **more: Any) -> Any:
    """One of the strings `options`."""
    return field(Choice(options), default, **more)


def flag(default: Any = _REQUIRED, **options: Any) -> Any:
    """True or False."""
    return field(Flag(), default, **options)


def strings(default: Any = _REQUIRED, **options: Any) -> Any:
    """A tuple of different strings, such as the names of labels."""
    return field(Texts(), default, **options)


def string(default: Any = _REQUIRED, **options: Any) -> Any:
    """Any string."""
    return field(Text(), default, **options)


# --- the classes ---------------------------------------------------------------------------------


class Config:
    """The base of configurations. Mistakes are TypeError (a value of the wrong kind, a wrong name)
    or ValueError (a value out of range), with the class's name before the sentence.
    """

    if TYPE_CHECKING:  # `config` makes the constructor, which takes aliases too

        def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __post_init__(self) -> None:
        for entry in _fields(type(self)):
            value = getattr(self, entry.name)
            if value is None and entry.default is None:
                continue
            try:
                plain = entry.metadata["values"].accept(value)
            except (TypeError, ValueError) as error:
                raise self._refusal(entry.name, str(error), value, type(error)) from None
            object.__setattr__(self, entry.name, plain)
        self.check()

    def check(self) -> None:
        """What a subclass requires of several fields together; calls `require`."""

    def require(self, good: bool, name: str, wanted: str) -> None:
        """Unless `good`, raises the error that says that the field `name` must be `wanted`."""
        if not good:
            raise self._refusal(name, wanted, getattr(self, name), ValueError)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON data; `from_dict` reads it back."""
        values = {entry.name: getattr(self, entry.name) for entry in _fields(type(self))}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """The configuration that `to_dict` described, or one with aliases for names.

        Every field must be there: the default of another version would change its meaning.
        """
        if not isinstance(data, Mapping):
            raise cls.error(f"its description must be a dict, got {_show(data)}", TypeError)
        values = _by_field(cls, data)
        for entry in _fields(cls):
            if entry.metadata["absent"] is not _REQUIRED:
                values.setdefault(entry.name, entry.metadata["absent"])
        missing = [entry.name for entry in _fields(cls) if entry.name not in values]
        _require_names(cls, missing, [name for name in values if name not in _names(cls)])
        return cls(**values)

    def replace(self, **changes: Any) -> Self:
        """A copy in which these fields have other values."""
        values = _by_field(type(self), changes)
        _require_names(type(self), [], [name for name in values if name not in _names(type(self))])
        return dataclasses.replace(cast(Any, self), **values)

    @classmethod
    def error(cls, sentence: str, kind: type[Exception] = ValueError) -> Exception:
        """The exception for a mistake in a configuration of this class."""
        return kind(f"{cls.__name__}: {sentence}")

    @classmethod
    def _refusal(cls, name: str, wanted: str, value: Any, kind: type[Exception]) -> Exception:
        return cls.error(f"{name} must be {wanted}, got {_show(value)}", kind)


class Settings(Config):
    """A configuration made from user input: every mistake is a UserError, and the sentence
    does not begin with the class's name.
    """

    @classmethod
    def error(cls, sentence: str, kind: type[Exception] = ValueError) -> Exception:
        return UserError(sentence)

    @classmethod
    def _refusal(cls, name: str, wanted: str, value: Any, kind: type[Exception]) -> Exception:
        shown = value if isinstance(value, str) else _show(value)
        return cls.error(f"{name} must be {wanted}, not {shown}", kind)


def config(cls: C) -> C:
    """Makes a subclass of Config a frozen dataclass whose constructor takes aliases too."""
    made = cast(Any, dataclasses.dataclass(frozen=True)(cls))
    for entry in _fields(made):
        if "values" not in entry.metadata:
            raise TypeError(f"{cls.__name__}: the field {entry.name} does not declare its values")
        if taken := [name for name in entry.metadata["aliases"] if name in _names(made)]:
            raise TypeError(f"{cls.__name__}: two fields are called {taken[0]}")
    construct = made.__init__

    @functools.wraps(construct)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        own = type(self)
        names = list(_names(own))
        if len(args) > len(names):
            raise own.error(f"it has {len(names)} fields, got {len(args)} values", TypeError)
        values = _by_field(own, kwargs, dict.fromkeys(names[: len(args)], "a positional argument"))
        values.update(zip(names, args, strict=False))
        missing = [
            entry.name
            for entry in _fields(own)
            if entry.name not in values and entry.default is _REQUIRED
        ]
        _require_names(own, missing, [name for name in values if name not in names])
        construct(self, **values)

    made.__init__ = __init__
    return cast(C, made)


def require_config(model: str, value: object, cls: type[T]) -> T:
    """`value`, if it is a configuration of this class; else the TypeError of a model's constructor,
    which shows how to make one.
    """
    if isinstance(value, cls):
        return value
    names = ", ".join(f"{e.name}=..." for e in _fields(cls) if e.default is _REQUIRED)
    raise TypeError(
        f"{model} takes a {cls.__name__}, got {_show(value)}: {model}({cls.__name__}({names}))"
    )


def _fields(cls: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(cls)


def _names(cls: type[Config]) -> dict[str, str]:
    """The fields in order, each with its flag."""
    return {
        entry.name: entry.metadata["flag"] or "--" + entry.name.replace("_", "-")
        for entry in _fields(cls)
    }


def _by_field(
    cls: type[Config], given: Mapping[str, Any], before: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """`given` with the fields' own names for aliases; unknown names stay.

    TypeError if a field is given under two names, one of which may be in `before`.
    """
    own: dict[str, list[str]] = {}
    for entry in _fields(cls):
        for alias in entry.metadata["aliases"]:
            own.setdefault(alias, []).append(entry.name)
    came_from = dict(before or {})
    values: dict[str, Any] = {}
    for name, value in given.items():
        for canonical in own.get(name, [name]):
            if canonical in came_from:
                first = came_from[canonical]
                raise cls.error(f"{canonical} is given twice, as {first} and as {name}", TypeError)
            came_from[canonical] = name
            values[canonical] = value
    return values


def _require_names(cls: type[Config], missing: Sequence[str], unknown: Sequence[str]) -> None:
    """One sentence, a TypeError, if there are missing or unknown names."""
    faults = []
    if missing:
        faults.append(f"{_listed(missing)} {'is' if len(missing) == 1 else 'are'} missing")
    if unknown:
        faults.append(f"{_listed(unknown)} {'is' if len(unknown) == 1 else 'are'} unknown")
    if not faults:
        return
    sentence = " and ".join(faults)
    if unknown:
        sentence += suggestion(unknown[0], _names(cls))
    raise cls.error(sentence, TypeError)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _show(value: Any) -> str:
    """A value in one short line."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python writes no integer of more than 4300 digits
        return f"a value too long to show ({type(value).__name__})"
    return text if len(text) <= 80 else f"{text[:77]}..."


# --- command-line flags --------------------------------------------------------------------------


def flag_of(cls: type[Config], name: str) -> str:
    """The flag that sets the field `name`, such as "--layers"."""
    return _names(cls)[name]


def add_flags(
    group: argparse._ActionsContainer,
    cls: type[Config],
    *names: str,
    defaults: Mapping[str, str] | None = None,
) -> None:
    """Adds a flag for each of these fields (default: all) to a parser or a group of it.

    Its names are the declared flag and the one made of the field's name (`--num-layers`), its
    default is None, so that `given` can tell, and its help is the field's, with the default;
    ``defaults`` are other words for it.
    """
    for entry in _fields(cls):
        if names and entry.name not in names:
            continue
        metadata = entry.metadata
        values: Values = metadata["values"]
        options = dict.fromkeys([_names(cls)[entry.name], "--" + entry.name.replace("_", "-")])
        shown = (defaults or {}).get(entry.name, metadata["default_text"])
        if shown is None and entry.default not in (_REQUIRED, None):
            shown = str(entry.default)
        keywords: dict[str, Any] = {
            "dest": entry.name,
            "default": None,
            "help": (metadata["help"] + (f" ({shown})" if shown else "")).replace("%", "%%"),
        }
        if isinstance(values, Flag):
            from argparse import BooleanOptionalAction

            keywords["action"] = BooleanOptionalAction
        elif isinstance(values, Choice):
            keywords["choices"] = values.options
        else:
            keywords |= {"type": argument(values), "metavar": values.metavar}
        group.add_argument(*options, **keywords)


def given(args: argparse.Namespace, cls: type[Config]) -> dict[str, Any]:
    """The fields of `cls` that the command line set, as {name: value}."""
    values = {name: getattr(args, name, None) for name in _names(cls)}
    return {name: value for name, value in values.items() if value is not None}


def argument(values: Values) -> Callable[[str], Any]:
    """The `type=` of an argument that takes `values`: its errors say "must be ..., not ..."."""

    def parse(text: str) -> Any:
        from argparse import ArgumentTypeError

        try:
            return values.parse(text)
        except TypeError as error:
            raise ArgumentTypeError(f"must be {error}, not {text!r}") from None
        except ValueError as error:
            raise ArgumentTypeError(f"must be {error}, not {text}") from None

    return parse
