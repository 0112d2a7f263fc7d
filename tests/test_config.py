"""Configurations: bounds, aliases, dicts and command-line flags, all from the declared fields."""

import argparse
import ast
import copy
import inspect
import json
import math
import pickle
import sys
from typing import Any

import numpy as np
import pytest

import byhand.config
import byhand.values
from byhand.config import (
    Config,
    Settings,
    add_flags,
    choice,
    config,
    flag,
    flag_of,
    fraction,
    given,
    non_negative,
    non_negative_int,
    number,
    positive,
    positive_int,
    positive_ints,
    probability,
    string,
)
from byhand.errors import UserError


@config
class Model(Config):
    size: int = positive_int(help="how many", aliases=("n_size", "d"), flag="--width")
    heads: int = positive_int(2, help="how many heads", aliases=("num_heads",))
    skip: int = non_negative_int(0)
    rate: float = positive(0.5)
    decay: float = non_negative(0.0)
    offset: float = number(-1.0)
    dropout: float = probability(0.1, help="part that is zeroed, in 100%")
    part: float = fraction(0.25)
    kind: str = choice(("a", "b", "c"), "a", help="which kind")
    bias: bool = flag(True, help="biases in the layers")
    name: str = string("x")
    widths: tuple[int, ...] = positive_ints((3, 4))
    groups: int | None = positive_int(None)
    newer: int = positive_int(7, absent=5)

    def check(self) -> None:
        self.require(self.size % self.heads == 0, "size", f"a multiple of heads = {self.heads}")


@config
class Typed(Settings):
    steps: int = positive_int(10, help="updates", default_text="the preset's")
    lr: float = positive(1e-3)
    mode: str = choice(("float32", "bf16"), "float32")


class TestValues:
    @pytest.mark.parametrize(
        ("name", "value", "error", "words"),
        [
            ("size", 0, ValueError, "size must be at least 1, got 0"),
            ("size", 4.0, TypeError, "size must be a whole number, got 4.0"),
            ("size", True, TypeError, "size must be a whole number, got True"),
            ("size", "4", TypeError, "size must be a whole number, got '4'"),
            ("size", None, TypeError, "size must be a whole number, got None"),
            ("size", np.zeros(40), TypeError, "size must be a whole number, got array"),
            ("size", 5, ValueError, "size must be a multiple of heads = 2, got 5"),
            ("skip", -1, ValueError, "skip must be at least 0, got -1"),
            ("rate", 0, ValueError, "rate must be greater than 0, got 0"),
            ("rate", math.nan, ValueError, "rate must be a finite number, got nan"),
            ("rate", 10**400, ValueError, "rate must be a finite number, got 1000"),
            ("rate", "1", TypeError, "rate must be a finite number, got '1'"),
            ("rate", False, TypeError, "rate must be a finite number, got False"),
            ("decay", -1e-9, ValueError, "decay must be at least 0, got -1e-09"),
            ("offset", -math.inf, ValueError, "offset must be a finite number, got -inf"),
            ("dropout", 1.0, ValueError, "dropout must be at least 0 and less than 1, got 1.0"),
            ("dropout", -0.1, ValueError, "dropout must be at least 0 and less than 1, got -0.1"),
            ("part", 0.0, ValueError, "part must be greater than 0 and less than 1, got 0.0"),
            ("part", 1.0, ValueError, "part must be greater than 0 and less than 1, got 1.0"),
            ("kind", "d", ValueError, "kind must be a, b or c, got 'd'"),
            ("kind", 1, TypeError, "kind must be a, b or c, got 1"),
            ("bias", 1, TypeError, "bias must be a bool, got 1"),
            ("bias", np.ones(2, bool), TypeError, "bias must be a bool, got array"),
            ("name", b"x", TypeError, "name must be a string, got b'x'"),
            ("widths", 3, TypeError, "widths must be a sequence of whole numbers, got 3"),
            ("widths", (3, "4"), TypeError, "widths must be a sequence of whole numbers, got (3"),
            ("widths", [3, 0], ValueError, "a sequence of whole numbers of at least 1, got [3, 0]"),
            ("groups", 0, ValueError, "groups must be at least 1, got 0"),
        ],
    )
    def test_a_wrong_value_is_named_in_one_sentence(
        self, name: str, value: Any, error: type[Exception], words: str
    ):
        with pytest.raises(error) as caught:
            Model(**{"size": 4, name: value})
        assert type(caught.value) is error
        assert str(caught.value).startswith("Model: ")
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 200

    def test_bounds_themselves_are_accepted(self):
        made = Model(size=1, heads=1, skip=0, rate=5e-324, decay=0, dropout=0, groups=1)
        assert (made.skip, made.decay, made.dropout) == (0, 0.0, 0.0)
        assert Model(4, groups=None).groups is None

    def test_numpy_values_become_python_values(self):
        made = Model(
            size=np.int64(4), rate=np.float32(0.5), bias=np.bool_(False), widths=[np.int8(3)]
        )
        assert type(made.size) is int
        assert type(made.rate) is float
        assert made.bias is False
        assert made.widths == (3,)
        assert json.loads(json.dumps(made.to_dict())) == made.to_dict()

    def test_settings_raise_user_errors_without_the_class_name(self):
        for bad, words in (
            ({"steps": 0}, "steps must be at least 1, not 0"),
            ({"steps": 2.0}, "steps must be a whole number, not 2.0"),
            ({"lr": None}, "lr must be a finite number, not None"),
            ({"mode": "float16"}, "mode must be float32 or bf16, not float16"),
            ({"mode": None}, "mode must be float32 or bf16, not None"),
            ({"stepz": 3}, "'stepz' is unknown (did you mean steps?)"),
        ):
            with pytest.raises(UserError) as caught:
                Typed(**bad)
            assert str(caught.value) == words


class TestNames:
    def test_aliases_are_accepted_everywhere(self):
        made = Model(n_size=4, num_heads=1)
        assert made == Model(4, 1) == Model(d=4, heads=1)
        assert made.replace(d=6).size == 6
        data = made.to_dict()
        data["d"] = data.pop("size")
        assert Model.from_dict(data) == made

    @pytest.mark.parametrize(
        ("call", "words"),
        [
            (lambda: Model(4, size=4), "size is given twice, as a positional argument and as size"),
            (lambda: Model(4, d=4), "size is given twice, as a positional argument and as d"),
            (lambda: Model(size=4, d=4), "size is given twice, as size and as d"),
            (lambda: Model(n_size=4, d=4), "size is given twice, as n_size and as d"),
            (lambda: Model(), "'size' is missing"),
            (lambda: Model(4, depth=1, hight=2), "'depth', 'hight' are unknown"),
            (lambda: Model(4, skp=2), "'skp' is unknown (did you mean skip?)"),
            (lambda: Model(skp=2), "'size' is missing and 'skp' is unknown (did you mean skip?)"),
            (lambda: Model(*range(15)), "it has 14 fields, got 15 values"),
            (lambda: Model(4).replace(skp=1), "'skp' is unknown"),
            (lambda: Model.from_dict(Model(4).to_dict() | {"d": 4}), "twice, as size and as d"),
            (lambda: Model.from_dict({"size": 4, "skp": 1}), "'heads', 'skip', 'rate', 'decay',"),
            (lambda: Model.from_dict([]), "its description must be a dict, got []"),
        ],
    )
    def test_wrong_names_are_one_sentence(self, call: Any, words: str):
        with pytest.raises(TypeError) as caught:
            call()
        assert str(caught.value).startswith("Model: ")
        assert words in str(caught.value)

    def test_the_signature_is_that_of_the_fields(self):
        assert list(inspect.signature(Model).parameters)[:3] == ["size", "heads", "skip"]

    def test_a_class_that_declares_nonsense_is_refused(self):
        with pytest.raises(TypeError, match="the field size does not declare its values"):

            @config
            class Plain(Config):
                size: int = 3

        with pytest.raises(TypeError, match="two fields are called width"):

            @config
            class Clash(Config):
                size: int = positive_int(1, aliases=("width",))
                width: int = positive_int(1)

    def test_an_alias_of_two_fields_sets_both(self):
        @config
        class Two(Config):
            first: int = positive_int(1, aliases=("both",))
            second: int = positive_int(2, aliases=("both",))

        assert Two(both=5) == Two(5, 5) == Two.from_dict({"both": 5}) == Two().replace(both=5)
        with pytest.raises(TypeError, match="Two: second is given twice, as second and as both"):
            Two(second=3, both=5)

    def test_a_subclass_adds_fields(self):
        @config
        class Wider(Model):
            depth: int = positive_int(2, aliases=("n_layer",))

        made = Wider(4, n_layer=3)
        assert (made.size, made.depth) == (4, 3)
        with pytest.raises(ValueError, match="Wider: size must be a multiple of heads = 2, got 5"):
            made.replace(d=5)


class TestDicts:
    def test_json_keeps_every_field(self):
        made = Model(8, 4, rate=1 / 3, kind="c", bias=False, widths=(1, 2), groups=3, newer=9)
        assert Model.from_dict(json.loads(json.dumps(made.to_dict()))) == made
        assert list(made.to_dict()) == list(inspect.signature(Model).parameters)

    def test_a_field_added_later_has_a_meaning_where_it_is_absent(self):
        data = Model(4).to_dict()
        del data["newer"]
        assert Model.from_dict(data).newer == 5
        assert Model(4).newer == 7

    def test_from_dict_leaves_its_argument_alone(self):
        data = Model(4).to_dict()
        del data["newer"]
        before = dict(data)
        Model.from_dict(data)
        assert data == before

    def test_it_is_frozen_hashable_and_copied(self):
        made = Model(4)
        with pytest.raises(AttributeError):
            made.size = 5  # type: ignore[misc]
        assert {made, Model(4)} == {made}
        assert copy.deepcopy(made) == pickle.loads(pickle.dumps(made)) == made
        assert made != Model(6)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    add_flags(top.add_argument_group("model"), Model)
    add_flags(top, Typed, "steps", "mode")
    return top


class TestFlags:
    def test_what_is_given_comes_back_and_nothing_else(self):
        args = parser().parse_args(
            "--width 8 --num-x 3 --no-bias --kind b --widths 5,6 --dropout 0.5 --steps 4".replace(
                "--num-x", "--heads"
            ).split()
        )
        assert given(args, Model) == {
            "size": 8,
            "heads": 3,
            "bias": False,
            "kind": "b",
            "widths": (5, 6),
            "dropout": 0.5,
        }
        assert given(args, Typed) == {"steps": 4}
        assert given(parser().parse_args([]), Model) == {}

    def test_declared_flags_and_those_of_the_names_mean_the_same(self):
        for text in ("--width 6", "--size 6"):
            assert given(parser().parse_args(text.split()), Model) == {"size": 6}
        assert flag_of(Model, "size") == "--width"
        assert flag_of(Model, "heads") == "--heads"

    def test_fields_that_were_not_asked_for_have_no_flag(self):
        assert parser().parse_known_args(["--lr", "3"])[1] == ["--lr", "3"]

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("--width 0", "must be at least 1, not 0"),
            ("--width two", "must be a whole number, not 'two'"),
            ("--width 1.5", "must be a whole number, not '1.5'"),
            ("--skip=-1", "must be at least 0, not -1"),
            ("--rate fast", "must be a number, not 'fast'"),
            ("--rate nan", "must be a number, not 'nan'"),
            ("--rate 0", "must be greater than 0, not 0"),
            ("--dropout 1", "must be at least 0 and less than 1, not 1"),
            ("--part 1", "must be greater than 0 and less than 1, not 1"),
            ("--kind d", "invalid choice: 'd'"),
            ("--widths 3,x", "must be whole numbers with commas between them, not '3,x'"),
            ("--widths 3,0", "must be a sequence of whole numbers of at least 1, not 3,0"),
        ],
    )
    def test_a_wrong_value_is_reported_at_once(self, text: str, words: str):
        with pytest.raises(argparse.ArgumentError) as caught:
            parser().parse_args(text.split())
        assert words in str(caught.value)
        assert text.split()[0].split("=")[0] in str(caught.value)

    def test_help_says_what_the_field_is_and_its_default(self):
        text = " ".join(parser().format_help().split())
        assert "--width N, --size N how many" in text
        assert "how many heads (2)" in text
        assert "part that is zeroed, in 100% (0.1)" in text
        assert "updates (the preset's)" in text


def test_it_imports_nothing_heavy():
    names = {
        node.module if isinstance(node, ast.ImportFrom) else alias.name
        for module in (byhand.config, byhand.values)
        for node in ast.parse(inspect.getsource(module)).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    assert "byhand.errors" in names
    own = {"byhand.errors", "byhand.values"}
    assert names - own <= sys.stdlib_module_names | {"collections.abc"}


@pytest.mark.parametrize("field", ["size", "decay"])
def test_an_integer_too_long_to_print_is_refused_in_a_sentence(field):
    # Python prints no integer of more than 4300 digits: repr() of it is a ValueError of its own.
    with pytest.raises(ValueError, match=rf"Model: {field} must be .*, got a value too long"):
        Model(**{"size": 4, field: -(10**5000)})
