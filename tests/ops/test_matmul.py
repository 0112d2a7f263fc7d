"""The product of two activations, each transposed or not."""

import numpy as np

from byhand import ops
from tests.kernel_case import Call, Error, Op, Sample, generator, normal
from tests.ops.suite import OpSuite
from tests.ops.test_precision import torch_bf16_product


def sample(
    m: int, k: int, n: int, transposed: str = "", frozen: str = "", bf16: bool = False
) -> Sample:
    label = f"{m}-{k}-{n}{'-' if transposed else ''}{transposed}"
    label += (f"-frozen {frozen}" if frozen else "") + ("-bf16" if bf16 else "")
    rng = generator("matmul", label)
    a, b = "a" in transposed, "b" in transposed
    return Sample(
        label,
        {
            "a": normal(rng, *((k, m) if a else (m, k))),
            "b": normal(rng, *((n, k) if b else (k, n))),
        },
        {"transpose_a": a, "transpose_b": b, "bf16": bf16},
        frozen=frozenset(frozen.split()),
        smooth=not bf16,
    )


def shapes(s: Sample) -> dict[str, tuple[int, ...]]:
    a, b = s.arrays["a"].shape, s.arrays["b"].shape
    m = a[1] if s.options["transpose_a"] else a[0]
    return {"c": (m, b[0] if s.options["transpose_b"] else b[1])}


def torch_forward(t, o):
    a, b = t.a.T if o["transpose_a"] else t.a, t.b.T if o["transpose_b"] else t.b
    return {"c": torch_bf16_product(a, b) if o["bf16"] else a @ b}


def public(c: Call):
    y, saved = ops.matmul.forward(c.arrays["a"], c.arrays["b"], **c.options)
    da, db = ops.matmul.backward(c.upstream["dc"], saved)
    return {n: a for n, a in {"c": y, "da": da, "db": db}.items() if n not in c.into}


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape)


OP = Op(
    name="matmul",
    forward="matmul_forward",
    backward="matmul_backward",
    samples=(
        sample(2, 3, 5),
        sample(0, 3, 2),
        sample(3, 0, 2),
        sample(3, 2, 0),
        sample(1, 2, 3, "ab"),
        sample(2, 1, 3, "a"),
        sample(3, 2, 1, "b"),
        sample(15, 17, 16, "a"),
        sample(16, 33, 31, "b", frozen="da"),
        sample(33, 31, 17, "ab", frozen="db"),
        sample(127, 15, 33),
        sample(31, 127, 65, "a", frozen="da db"),
        sample(3, 1025, 17, "b"),
        sample(17, 5, 1023, "ab"),
        sample(1023, 3, 16),
        sample(2, 3, 5, bf16=True),
        sample(3, 0, 2, bf16=True),
        sample(15, 17, 16, "a", bf16=True),
        sample(16, 33, 31, "b", frozen="da", bf16=True),
        sample(33, 31, 17, "ab", frozen="db", bf16=True),
        sample(127, 15, 33, bf16=True),
        sample(17, 5, 1023, "ab", bf16=True),
        sample(257, 129, 193, "a", bf16=True),
    ),
    big=sample(257, 129, 193, "b"),
    shapes=shapes,
    upstream={"c": "dc"},
    gradients={"a": "da", "b": "db"},
    torch=torch_forward,
    public=public,
    errors=(
        Error(
            ValueError,
            "matmul.forward: a must have shape (M, K), got (3,)",
            lambda: ops.matmul.forward(ones(3), ones(3, 2)),
        ),
        Error(
            ValueError,
            "matmul.forward: b must have shape (N, K), got (2, 2, 3)",
            lambda: ops.matmul.forward(ones(2, 3), ones(2, 2, 3), transpose_b=True),
        ),
        Error(
            ValueError,
            "matmul.forward: b must have shape (3, 5), got (2, 5)",
            lambda: ops.matmul.forward(ones(2, 3), ones(2, 5)),
        ),
        Error(
            ValueError,
            "matmul.forward: b must have shape (5, 3), got (5, 2)",
            lambda: ops.matmul.forward(ones(3, 2), ones(5, 2), True, True),
        ),
        Error(
            ValueError,
            "matmul.backward: dy must have shape (2, 5), got (5, 2)",
            lambda: ops.matmul.backward(ones(5, 2), ops.matmul.forward(ones(2, 3), ones(3, 5))[1]),
        ),
        Error(
            TypeError,
            "matmul_forward: b must be C-contiguous",
            lambda: ops.matmul.forward(ones(2, 3), ones(5, 3).T),
        ),
    ),
)


class TestMatmul(OpSuite):
    op = OP
