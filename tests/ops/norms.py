"""What the suites of layernorm and rmsnorm share: their samples, and what holds for both."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest

from byhand import backend, ops
from byhand.ops.layernorm import row_groups
from tests import oracle
from tests.kernel_case import Call, Error, Op, Sample, directions, generator, normal
from tests.ops.suite import native_kernels


def sample(
    op: str,
    *shape: int,
    b: bool = True,
    add: bool = False,
    ds: bool = False,
    frozen: str = "",
    eps: float = 1e-5,
    mean: float = 1.0,
) -> Sample:
    """add: a residual is added on the way in. ds: one gradient passes the norm (with `add` it does
    so anyway, as the upstream gradient of the sum).
    """
    marks = {"no-b": not b, "add": add, "ds": ds, f"mean {mean:g}": mean != 1}
    label = "-".join(["x".join(map(str, shape)), *(m for m, marked in marks.items() if marked)])
    rng = generator(op, label)
    columns = shape[-1]
    arrays = {
        "x": 3 * normal(rng, *shape) + np.float32(mean),
        "w": normal(rng, columns),
        "b": normal(rng, columns) if b else None,
        "add": normal(rng, *shape) if add else None,
        "ds": normal(rng, *shape) if ds else None,
    }
    if op == "rmsnorm":
        del arrays["b"]
    if add:
        del arrays["ds"]
    return Sample(
        label + (f"-frozen {frozen}" if frozen else ""),
        arrays,
        {"eps": eps},
        frozen=frozenset(frozen.split()),
        # Two values normalise to +-1 whatever they are: their gradient is a difference of nothing.
        smooth=columns != 2,
    )


def shapes(s: Sample, parts: tuple[int, ...], *statistics: str) -> dict[str, tuple[int, ...]]:
    x = s.arrays["x"]
    rows = math.prod(x.shape[:-1])
    work = (row_groups(rows, x), *parts, x.shape[-1])
    found = {"y": x.shape, "work": work, **dict.fromkeys(statistics, x.shape[:-1])}
    return found if s.arrays["add"] is None else {**found, "s": x.shape}


def public(module: Any, c: Call) -> dict[str, Any]:
    a, parameters = c.arrays, [c.arrays[n] for n in ("w", "b") if n in c.arrays]
    into = [c.into[n] for n in ("dw", "db") if n in c.into]
    found = {}
    if a["add"] is None:
        found["y"], saved = module.forward(a["x"], *parameters, **c.options)
    else:
        found["y"], found["s"], saved = module.forward_add(
            a["x"], a["add"], *parameters, **c.options
        )
    past = c.upstream.get("ds", a.get("ds"))
    return {**found, "dx": module.backward(c.upstream["dy"], saved, *into, add=past)}


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape)


def errors(name: str) -> tuple[Error, ...]:
    module = getattr(ops, name)
    return (
        Error(
            TypeError,
            "(fast kernels) or float64 (check mode), got int64",
            lambda: module.forward(np.ones((2, 3), np.int64), ones(3)),
        ),
        Error(
            TypeError,
            f"{name}_forward: w must be float64",
            lambda: module.forward(ones(2, 3), np.ones(3, np.float32)),
        ),
        Error(
            TypeError,
            f"{name}_forward: x must be C-contiguous",
            lambda: module.forward(ones(3, 2).T, ones(3)),
        ),
    )


def norm(
    name: str,
    samples: tuple[Sample, ...],
    torch_norm: Callable[[Any, Any, float], Any],
) -> Op:
    """torch_norm: (s, the tensors, eps) -> y."""
    centred = name == "layernorm"
    statistics = ("mean", "rstd") if centred else ("rstd",)

    def torch_forward(t: Any, o: dict[str, Any]) -> dict[str, Any]:
        s = t.x if t.add is None else t.x + t.add
        found = {"y": torch_norm(s, t, o["eps"])}
        return found if t.add is None else {**found, "s": s}

    gradients = {"x": "dx", "w": "dw", "add": "dx", **({"b": "db"} if centred else {})}
    return Op(
        name=name,
        forward=f"{name}_forward",
        backward=f"{name}_backward",
        samples=samples,
        big=sample(name, 1023, 129, add=True),
        shapes=lambda s: shapes(s, (2,) if centred else (), *statistics),
        upstream={"y": "dy", "s": "ds"},
        gradients=gradients,
        plus={"dx": "ds"},
        stands_for={"x": "s"},
        scratch=frozenset({"work"}),
        torch=torch_forward,
        public=partial(public, getattr(ops, name)),
        in_place=(
            (f"{name}_forward", "s", "x"),
            (f"{name}_forward", "s", "add"),
            (f"{name}_backward", "dx", "dy"),
            (f"{name}_backward", "dx", "ds"),
        ),
        rows={
            f"{name}_forward": ("x", ("y", "s", *statistics)),
            f"{name}_backward": ("dy", ("dx",)),
        },
        errors=errors(name),
    )


class NormTests:
    """Beside OpSuite, for the two norms."""

    op: ClassVar[Op]

    @pytest.mark.parametrize("groups", [1, 2, 7, 40])
    def test_any_number_of_groups(self, native: str, groups: int) -> None:
        """work may have more groups than there are rows; the result is the same sum."""
        case = next(s for s in self.op.samples if s.arrays["x"].shape == (17, 33))
        kernels = native_kernels(native)
        for stage in oracle.stages(self.op, case, backend.reference):
            stage.shapes["work"] = (groups, *stage.shapes["work"][1:])
            got = oracle.run(kernels, stage.kernel, stage.env, stage.shapes, np.float32)
            exact = oracle.run(backend.reference, stage.kernel, stage.env, stage.shapes, np.float64)
            for name in exact.keys() - {"work"}:
                np.testing.assert_allclose(got[name], exact[name], rtol=0, atol=1e-4)

    def test_the_fused_sum_gives_the_bits_of_two_steps(self, native: str) -> None:
        module = getattr(ops, self.op.name)
        rng = generator(self.op.name, "two steps")
        x, add, w = normal(rng, 5, 77), normal(rng, 5, 77), normal(rng, 77)
        with backend.use_cpu(native):
            y, s, saved = module.forward_add(x, add, w)
            expected, expected_saved = module.forward(x + add, w)
        np.testing.assert_array_equal(s, x + add)
        np.testing.assert_array_equal(y, expected)
        for ours, theirs in zip(saved, expected_saved, strict=True):
            np.testing.assert_array_equal(ours, theirs)

    @pytest.mark.parametrize("missing", ["s", "add"])
    def test_a_sum_and_its_addend_go_together(self, home: str, missing: str) -> None:
        dtype = np.float64 if home == "reference" else np.float32
        kernel = getattr(native_kernels(home), self.op.forward)
        arrays = {"x": (2, 3), "y": (2, 3), "s": (2, 3), "add": (2, 3), "w": (3,), "b": (3,)}
        arguments: list[Any] = []
        for name, direction, _ in directions(self.op.forward):
            array = np.ones(arrays.get(name, (2,)), dtype)
            arguments.append(None if name == missing else array if direction else 1e-5)
        with pytest.raises(
            ValueError, match=f"{self.op.forward}: s and add must be given together"
        ):
            kernel(*arguments)
