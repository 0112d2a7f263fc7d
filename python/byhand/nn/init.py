"""How parameters start: each initialiser is called with a random generator and a shape, and returns
float32 values of that shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Init = Callable[[np.random.Generator, tuple[int, ...]], Any]


@dataclass(frozen=True)
class Normal:
    """Values from a normal distribution around 0 with this standard deviation."""

    std: float

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(self.std)


@dataclass(frozen=True)
class Uniform:
    """Values spread evenly over [-bound, bound)."""

    bound: float

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        bound = np.float32(self.bound)
        return (2 * rng.random(shape, dtype=np.float32) - 1) * bound


@dataclass(frozen=True)
class Constant:
    """The same value everywhere."""

    value: float

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, self.value, np.float32)


zeros = Constant(0.0)
ones = Constant(1.0)


def fan_in_uniform(fan_in: int) -> Uniform:
    """Uniform over ±1/sqrt(fan_in), PyTorch's default for the weight and bias of a linear layer:
    He et al., 2015, with the gain of a leaky ReLU of slope sqrt(5).
    """
    return Uniform(1.0 / math.sqrt(max(fan_in, 1)))
