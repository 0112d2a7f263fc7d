"""The frequencies of rotary positions, and the rules that stretch them for longer contexts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from byhand.errors import suggestion
from byhand.nn.protocol import require_whole_number
from byhand.ops import check

_ORIGINAL = "original_max_position_embeddings"

# The rules, under Hugging Face's names -> the fields that they need, and those that they take.
RULES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "dynamic": (("factor",), ()),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor"), (_ORIGINAL,)),
    "yarn": (
        ("factor",),
        (
            _ORIGINAL,
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
        ),
    ),
}


def checked(layer: str, scaling: Any, dim: int, context: int | None) -> dict[str, Any] | None:
    """The fields of a rule as a new dict, with "rope_type" and, where the rule needs it, the
    context that the model was trained with, which is ``context`` unless the rule gives another;
    None for no rule. TypeError or ValueError in one sentence for what is no rule.
    """
    if scaling is None:
        return None
    if not isinstance(scaling, Mapping):
        raise TypeError(
            f"{layer}: scaling must be a dict such as {{'rope_type': 'linear', 'factor': 2.0}}, "
            f"got {scaling!r}"
        )
    fields = {name: value for name, value in scaling.items() if value is not None}
    kind = fields.pop("rope_type", fields.pop("type", None))
    fields.pop("type", None)
    if not isinstance(kind, str) or kind not in RULES:
        words = ", ".join(map(repr, RULES))
        raise ValueError(
            f"{layer}: the rope_type of scaling must be one of {words}, got {kind!r}"
            f"{suggestion(kind, RULES)}"
        )
    needed, taken = RULES[kind]
    for name in fields:
        if name not in (*needed, *taken):
            raise ValueError(
                f"{layer}: {kind!r} scaling has no field {name!r}"
                f"{suggestion(name, (*needed, *taken))}"
            )
    for name in needed:
        if name not in fields:
            raise ValueError(f"{layer}: {kind!r} scaling needs the field {name!r}")
    _check_values(layer, kind, fields)
    if kind == "default":
        return None
    if kind == "dynamic" and dim < 4:
        raise ValueError(f"{layer}: 'dynamic' scaling needs a rotary_dim of at least 4, got {dim}")
    if kind == "dynamic" and context is None:
        raise ValueError(
            f"{layer}: 'dynamic' scaling needs context, the length that the model was trained with"
        )
    if kind in ("llama3", "yarn") and fields.setdefault(_ORIGINAL, context) is None:
        raise ValueError(f"{layer}: {kind!r} scaling needs the field {_ORIGINAL!r}, or context")
    return {"rope_type": kind, **fields}


def _check_values(layer: str, kind: str, fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        what = f"scaling[{name!r}]"
        if name == "factor":
            check.number(layer, what, value, lambda x: 1 <= x < np.inf, "a number of at least 1")
        elif name == "truncate":
            if not isinstance(value, bool):
                raise check.wrong_value(layer, what, "True or False", value)
        elif name == _ORIGINAL:
            if require_whole_number(layer, what, value) < 1:
                raise check.wrong_value(layer, what, "at least 1", value)
        else:
            check.positive(layer, what, value)
    if kind == "llama3" and not fields["low_freq_factor"] < fields["high_freq_factor"]:
        raise ValueError(
            f"{layer}: low_freq_factor must be less than high_freq_factor, got "
            f"{fields['low_freq_factor']!r} and {fields['high_freq_factor']!r}"
        )
    if kind == "yarn" and not fields.get("beta_slow", 1) <= fields.get("beta_fast", 32):
        raise ValueError(
            f"{layer}: beta_slow must be at most beta_fast, got {fields.get('beta_slow', 1)!r} and "
            f"{fields.get('beta_fast', 32)!r}"
        )


def frequencies(
    dim: int, base: float, scaling: dict[str, Any] | None, context: int | None, length: int
) -> tuple[np.ndarray, float]:
    """(dim / 2) angles per position in float64, and the number that cosines and sines are
    multiplied by, for sequences of so many positions.

    Without a rule base^(-2 i / dim) (Su et al., 2021, section 3.2.2). "linear": divided by the
    factor (Chen et al., 2023, "Extending context window of large language models via positional
    interpolation"). "dynamic": a larger base for sequences longer than the context. "llama3": only
    waves that are long beside the context are stretched. "yarn": the same with another transition,
    and a factor of the attention (Peng et al., 2023, "YaRN", section 3).
    """
    kind = "default" if scaling is None else scaling["rope_type"]
    if kind == "dynamic":
        assert scaling is not None
        assert context is not None
        stretched = scaling["factor"] * max(length, context) / context - (scaling["factor"] - 1)
        base = base * stretched ** (dim / (dim - 2))
    plain = 1 / base ** (np.arange(0, dim, 2) / dim)
    if scaling is None or kind == "dynamic":
        return plain, 1.0
    if kind == "linear":
        return plain / scaling["factor"], 1.0
    if kind == "llama3":
        return _llama3(plain, scaling), 1.0
    return _yarn(plain, dim, base, scaling)


def _llama3(plain: np.ndarray, scaling: dict[str, Any]) -> np.ndarray:
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    waves = scaling[_ORIGINAL] * plain / (2 * math.pi)  # in the original context
    kept = np.clip((waves - low) / (high - low), 0, 1)
    return (1 - kept) * plain / scaling["factor"] + kept * plain


def _yarn(
    plain: np.ndarray, dim: int, base: float, scaling: dict[str, Any]
) -> tuple[np.ndarray, float]:
    factor = scaling["factor"]

    def pair_with(waves: float) -> float:
        """The pair, a real number, that makes so many waves in the original context."""
        return dim * math.log(scaling[_ORIGINAL] / (waves * 2 * math.pi)) / (2 * math.log(base))

    first, last = pair_with(scaling.get("beta_fast", 32)), pair_with(scaling.get("beta_slow", 1))
    if scaling.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    steps = np.arange(len(plain)) - first
    stretched = np.clip(steps / (last - first if last != first else 0.001), 0, 1)

    def temperature(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1

    attention = scaling.get("attention_factor")
    if attention is None:
        attention = temperature(1.0)
        if "mscale" in scaling and "mscale_all_dim" in scaling:
            attention = temperature(scaling["mscale"]) / temperature(scaling["mscale_all_dim"])
    return stretched * plain / factor + (1 - stretched) * plain, float(attention)
