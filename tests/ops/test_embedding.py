"""Embedding: the cases; repeated ids, residual, ids outside the table."""

import numpy as np
import pytest

from byhand import backend, ops
from tests.kernel_case import Call, Error, Op, Sample, generator, normal
from tests.ops.suite import OpSuite


def sample(rows: tuple[int, ...], v: int, c: int, add: bool = False, frozen: str = "") -> Sample:
    label = f"{'x'.join(map(str, rows))}-{v}-{c}{'-add' if add else ''}"
    label += f"-frozen {frozen}" if frozen else ""
    rng = generator("embedding", label)
    return Sample(
        label,
        {
            "ids": rng.integers(0, v, rows),
            "w": normal(rng, v, c),
            "add": normal(rng, *rows, c) if add else None,
        },
        frozen=frozenset(frozen.split()),
    )


def shapes(s: Sample) -> dict[str, tuple[int, ...]]:
    rows, columns = s.arrays["ids"].size, s.arrays["w"].shape[1]
    return {
        "y": (*s.arrays["ids"].shape, columns),
        "work": (ops.embedding.room(rows, columns),),
    }


def torch_forward(t, o):
    import torch.nn.functional as f

    y = f.embedding(t.ids, t.w)
    return {"y": y if t.add is None else y + t.add}


def public(c: Call):
    y, saved = ops.embedding.forward(c.arrays["ids"], c.arrays["w"], c.arrays["add"])
    ops.embedding.backward(c.upstream["dy"], saved, c.into["dw"])
    return {"y": y}


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape)


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


OP = Op(
    name="embedding",
    forward="embedding_forward",
    backward="embedding_backward",
    samples=(
        sample((2, 5), 7, 17, add=True),
        sample((), 3, 2),
        sample((0,), 3, 2),
        sample((3,), 2, 0),
        sample((1,), 2, 3, frozen="dw"),
        sample((2,), 1, 3),
        sample((3,), 2, 1, add=True),
        sample((16,), 31, 15),
        sample((33,), 2, 16, add=True),
        sample((127,), 1025, 3),
        sample((31,), 17, 127),
        sample((3,), 16, 1023, add=True),
        sample((1023,), 5, 33),
    ),
    big=sample((1023,), 65, 257, add=True),
    shapes=shapes,
    scratch=frozenset({"work"}),
    upstream={"y": "dy"},
    gradients={"w": "dw", "add": "dy"},
    torch=torch_forward,
    public=public,
    in_place=(("embedding_forward", "y", "add"),),
    rows={"embedding_forward": ("add", ("y",))},
    errors=(
        Error(
            TypeError,
            "embedding.forward: ids must have dtype int64, got float64",
            lambda: ops.embedding.forward(ones(2), ones(5, 3)),
        ),
        Error(
            IndexError,
            "embedding.forward: ids[3] = 512 is outside the vocabulary 0..64",
            lambda: ops.embedding.forward(ids(0, 1, 2, 512), ones(65, 3)),
        ),
        Error(
            IndexError,
            "embedding.forward: ids[1, 0] = -1 is outside the vocabulary 0..4",
            lambda: ops.embedding.forward(ids(4, -1)[:, None], ones(5, 3)),
        ),
    ),
)


class TestEmbedding(OpSuite):
    op = OP

    @pytest.mark.parametrize("bad", [-1, 5, 1 << 40])
    def test_a_native_kernel_refuses_an_id_outside(self, native: str, bad: int) -> None:
        kernels = backend.cpu_modules()[native]
        w, y = np.ones((5, 3), np.float32), np.ones((2, 3), np.float32)
        with pytest.raises(IndexError):
            kernels.embedding_forward(y, w, ids(0, bad), None)
        with pytest.raises(IndexError):
            kernels.embedding_backward(w, y, y, ids(0, bad))
        assert np.all(w == 1)
        assert np.all(y == 1)

    def test_repeated_ids_add_in_row_order(self, native: str) -> None:
        """1e8 + 1 - 1e8 is 0 in this order in float32, and 1 in another."""
        dy = np.array([[1e8], [1.0], [-1e8]], np.float32)
        dw = np.zeros((2, 1), np.float32)
        backend.cpu_modules()[native].embedding_backward(dw, dy.copy(), dy, ids(1, 1, 1))
        assert dw.tolist() == [[0.0], [0.0]]
