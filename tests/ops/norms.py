"""What the suites of the norms share: their samples, and what holds for each of them.

A norm is centred if it subtracts the mean of a row: then it has a bias and saves the mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import strategies as st

from byhand import backend, ops
from byhand.ops.layernorm import row_groups
from tests import oracle
from tests.cuda.rules import Rule
from tests.kernel_case import (
    Bug,
    Call,
    Cuda,
    Error,
    Op,
    Sample,
    directions,
    generator,
    normal,
)
from tests.ops.sizes import SHAPE
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
    centred: bool = True,
) -> Sample:
    """add: the norm of a residual sum. ds: the backward pass adds another gradient of the sum (with
    `add` it always does: the upstream gradient of the sum).
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
    if not centred:
        del arrays["b"]
    if add:
        del arrays["ds"]
    return Sample(
        label + (f"-frozen {frozen}" if frozen else ""),
        arrays,
        {"eps": eps},
        frozen=frozenset(frozen.split()),
        # Two values are normalised to +-1 whatever they are, so their gradient is rounding error.
        smooth=columns != 2,
    )


def shapes(s: Sample, parts: tuple[int, ...], *statistics: str) -> dict[str, tuple[int, ...]]:
    x = s.arrays["x"]
    rows = math.prod(x.shape[:-1])
    work = (row_groups(rows, x), *parts, x.shape[-1])
    found = {"y": x.shape, "work": work, **dict.fromkeys(statistics, x.shape[:-1])}
    return found if s.arrays["add"] is None else {**found, "s": x.shape}


def wide_sample(op: str, rows: int, columns: int, fused: bool, centred: bool = True) -> Sample:
    """The norm of a residual sum, or of x with another gradient of x to be added."""
    rng = generator(f"wide {op}", str(columns))
    arrays = {
        "x": 2 * normal(rng, rows, columns) + 1,
        "w": normal(rng, columns),
        "b": normal(rng, columns),
        "add": normal(rng, rows, columns) if fused else None,
        "ds": None if fused else normal(rng, rows, columns),
    }
    if not centred:
        del arrays["b"]
    return Sample(f"{rows}x{columns}", arrays, {"eps": 1e-5})


# The norms share their kernels; their forward passes load different arrays.
INSTRUCTIONS = (
    Rule("norm_backward_rows", loads=4),  # dy x w ds
    Rule("norm_backward_long", loads=4),
    Rule("norm_add_partials", loads=0, stores=0),
)


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
            f"{name}.forward: x is float64 and w is float32: all arrays of a call",
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
    wide: Callable[[], Iterable[Sample]],
    instructions: tuple[Rule, ...],
    planted: tuple[Bug, ...],
    centred: bool = True,
) -> Op:
    """torch_norm: (s, the tensors, eps) -> y. instructions: those of its forward kernel."""
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
        big=sample(name, 1023, 129, add=True, centred=centred),
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
        planted=planted,
        drawn=st.builds(
            lambda shape, add: sample(name, *shape, add=add, centred=centred), SHAPE, st.booleans()
        ),
        past_caches=True,
        cuda=Cuda(wide=wide, instructions=(*instructions, *INSTRUCTIONS)),
    )


class NormTests:
    """Beside OpSuite, for each norm."""

    op: ClassVar[Op]
    centred: ClassVar[bool] = True

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

    def test_eps_is_under_the_root_and_1e_5_by_default(self) -> None:
        module = getattr(ops, self.op.name)
        rng = generator(self.op.name, "eps")
        x, add, w = normal(rng, 5, 7), normal(rng, 5, 7), normal(rng, 7)
        for factor, settings in ((1e-3, {}), (1.0, {"eps": 0.5})):
            a, b = factor * x.astype(np.float64), factor * add.astype(np.float64)
            for s, results in (
                (a, module.forward(a, w.astype(np.float64), **settings)),
                (a + b, module.forward_add(a, b, w.astype(np.float64), **settings)),
            ):
                centred = s - s.mean(-1, keepdims=True) if self.centred else s
                variance = (centred**2).mean(-1, keepdims=True)
                expected = centred / np.sqrt(variance + settings.get("eps", 1e-5)) * w
                np.testing.assert_allclose(results[0], expected, rtol=1e-10)

    @pytest.mark.parametrize("eps", [-1e-5, float("nan"), float("inf"), "x"])
    def test_a_wrong_eps_is_named(self, eps: Any) -> None:
        x = np.ones((2, 3), np.float32)
        module = getattr(ops, self.op.name)
        for call in (
            lambda: module.forward(x, x[0], eps=eps),
            lambda: module.forward_add(x, x, x[0], eps=eps),
        ):
            message = f"^{self.op.name}.forward: eps must be a number of at least 0, got"
            with pytest.raises(ValueError, match=message):
                call()

    @pytest.mark.parametrize("missing", ["s", "add"])
    def test_a_sum_and_its_addend_go_together(self, backend_name: str, missing: str) -> None:
        dtype = np.float64 if backend_name == "reference" else np.float32
        kernel = getattr(native_kernels(backend_name), self.op.forward)
        arrays = {"x": (2, 3), "y": (2, 3), "s": (2, 3), "add": (2, 3), "w": (3,), "b": (3,)}
        arguments: list[Any] = []
        for name, direction, _ in directions(self.op.forward):
            array = np.ones(arrays.get(name, (2,)), dtype)
            arguments.append(None if name == missing else array if direction else 1e-5)
        with pytest.raises(
            ValueError, match=f"{self.op.forward}: s and add must be given together"
        ):
            kernel(*arguments)

    @pytest.mark.parametrize("groups", [1, 2, 7, 200])
    @pytest.mark.parametrize("columns", [12, 40, 1500, 8500, 17000])
    def test_cuda_backward_with_any_number_of_groups(
        self, groups: int, columns: int, device_kernels: Any
    ) -> None:
        """work[g] holds the sums of the rows of group g; groups without rows hold zeros."""
        rng = np.random.default_rng(columns + groups)
        rows, centred = 23, self.centred
        x, dy = (rng.standard_normal((rows, columns)).astype(np.float32) for _ in range(2))
        w = rng.standard_normal(columns).astype(np.float32)
        mean = x.mean(-1) if centred else np.zeros(rows, np.float32)
        rstd = (1 / np.sqrt(((x - mean[:, None]) ** 2).mean(-1))).astype(np.float32)
        dx = np.full_like(x, np.nan)
        shape = (groups, 2, columns) if centred else (groups, columns)
        work = np.full(shape, np.nan, np.float32)
        dw, db = np.zeros((2, columns), np.float32)
        given = [dw, db] if centred else [dw]
        saved = [mean, rstd] if centred else [rstd]
        kernel = getattr(device_kernels, self.op.backward or "")
        kernel(dx, *given, work, dy, x, w, *saved, None)
        each = -(-rows // groups)
        normal = (x - mean[:, None]).astype(np.float64) * rstd[:, None]
        for g in range(groups):
            mine = slice(g * each, (g + 1) * each)
            parts = [(dy[mine] * normal[mine]).sum(0), dy[mine].sum(0, dtype=np.float64)]
            expected = parts if centred else parts[0]
            np.testing.assert_allclose(work[g], expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(dw, (dy * normal).sum(0), rtol=1e-4, atol=1e-4)
        if centred:
            np.testing.assert_allclose(db, dy.sum(0, dtype=np.float64), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("columns", [40, 1000, 1500, 9000, 120000])
    @pytest.mark.parametrize("storage", ["float32", "bfloat16"])
    def test_the_cuda_norm_of_a_sum_is_that_of_the_sum_as_stored(
        self, storage: str, columns: int, device_kernels: Any
    ) -> None:
        """The fused residual gives the bits of an addition, rounded to storage, and its norm."""
        ml_dtypes = pytest.importorskip("ml_dtypes")
        dtype = np.dtype(getattr(ml_dtypes, storage, storage))
        rng = np.random.default_rng(columns)
        x, add = rng.standard_normal((2, 3, columns)).astype(dtype)
        w = rng.standard_normal(columns).astype(dtype)
        total = (x.astype(np.float32) + add.astype(np.float32)).astype(dtype)
        bias = [w] if self.centred else []

        def forward(s: Any, x: Any, add: Any) -> list[Any]:
            y = np.zeros_like(x)
            statistics = [np.zeros(3, np.float32) for _ in range(1 + len(bias))]
            kernel = getattr(device_kernels, self.op.forward)
            kernel(y, s, *statistics, x, w, *bias, add, 1e-5)
            return [y, *statistics]

        s = np.zeros_like(x)
        fused, apart = forward(s, x, add), forward(None, total, None)
        assert s.tobytes() == total.tobytes()
        for one, other in zip(fused, apart, strict=True):
            assert one.tobytes() == other.tobytes()
