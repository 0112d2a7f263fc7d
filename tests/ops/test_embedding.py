"""Embedding: the cases; repeated ids, residual, ids outside the table."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import strategies as st

from byhand import backend, ops
from tests.cuda.rules import Rule
from tests.kernel_case import Bug, Call, Cuda, Error, Op, Sample, generator, normal
from tests.ops.sizes import SMALL, SOME
from tests.ops.suite import OpSuite


def sample(
    rows: tuple[int, ...],
    v: int,
    c: int,
    add: bool = False,
    frozen: str = "",
    scale: float = 1.0,
) -> Sample:
    label = f"{'x'.join(map(str, rows))}-{v}-{c}{'-add' if add else ''}"
    label += f"-scale {scale}" if scale != 1 else ""
    label += f"-frozen {frozen}" if frozen else ""
    rng = generator("embedding", label)
    return Sample(
        label,
        {
            "ids": rng.integers(0, v, rows),
            "w": normal(rng, v, c),
            "add": normal(rng, *rows, c) if add else None,
        },
        {"scale": scale},
        frozen=frozenset(frozen.split()),
    )


def shapes(s: Sample) -> dict[str, tuple[int, ...]]:
    rows, columns = s.arrays["ids"].size, s.arrays["w"].shape[1]
    return {
        "y": (*s.arrays["ids"].shape, columns),
        "work": (ops.embedding.work_size(rows, columns),),
    }


def torch_forward(t, o):
    import torch.nn.functional as f

    y = o["scale"] * f.embedding(t.ids, t.w)
    return {"y": y if t.add is None else y + t.add}


def public(c: Call):
    y, saved = ops.embedding.forward(c.arrays["ids"], c.arrays["w"], c.arrays["add"], **c.options)
    ops.embedding.backward(c.upstream["dy"], saved, c.into["dw"])
    return {"y": y}


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape)


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def wide() -> Iterator[Sample]:
    yield _of_size(5000, 65, 40)  # several blocks sort, runs of several pieces
    yield _of_size(3000, 1, 24)  # one run of all pieces
    yield _of_size(2100, 600, 17, often=0.5)  # two passes of the sort
    yield _of_size(70, 300_000, 4)  # three passes
    yield _of_size(20, 7, 2100)  # several blocks of columns


def _of_size(rows: int, classes: int, columns: int, often: float = 0.0) -> Sample:
    """often: the share of the rows that have one and the same id."""
    rng = generator("wide embedding", str(rows), str(classes), str(columns))
    numbers = rng.integers(0, classes, rows)
    numbers[rng.random(rows) < often] = classes // 3
    w, add = normal(rng, classes, columns), normal(rng, rows, columns)
    return Sample(
        f"{rows}x{classes}x{columns}", {"ids": numbers, "w": w, "add": add}, {"scale": 0.75}
    )


CUDA = Cuda(
    wide=wide,
    instructions=(
        Rule("embedding_gather", loads=2),  # w add
        Rule("embedding_add_pieces", loads=2, stores=1),  # dy dw
    ),
)

BUGS = (
    Bug("residual forgotten", "embedding_forward", "rows + add", "rows"),
    Bug("residual scaled", "embedding_forward", "rows + add", "rows + scale * add"),
    Bug("not scaled", "embedding_backward", "dy.dtype.type(scale) * as_rows(dy)", "as_rows(dy)"),
    Bug("overwritten", "embedding_backward", "np.add.at(dw, ids.reshape(-1), ",
        "dw.__setitem__(ids.reshape(-1), "),
    Bug("repeats lost", "embedding_backward", "np.add.at(dw, ids.reshape(-1), ",
        "dw.__setitem__(ids.reshape(-1), dw[ids.reshape(-1)] + "),
)  # fmt: skip

OP = Op(
    name="embedding",
    forward="embedding_forward",
    backward="embedding_backward",
    samples=(
        sample((2, 5), 7, 17, add=True, scale=-2.5),
        sample((), 3, 2),
        sample((0,), 3, 2),
        sample((3,), 2, 0),
        sample((1,), 2, 3, frozen="dw"),
        sample((2,), 1, 3),
        sample((3,), 2, 1, add=True),
        sample((16,), 31, 15),
        sample((33,), 2, 16, add=True),
        sample((33,), 2, 16, scale=8.0),
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
    planted=BUGS,
    drawn=st.builds(
        lambda rows, v, c, add: sample((rows,), v, c, add), SMALL, SOME, SMALL, st.booleans()
    ),
    past_caches=True,
    cuda=CUDA,
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
            kernels.embedding_forward(y, w, ids(0, bad), None, 1.0)
        with pytest.raises(IndexError):
            kernels.embedding_backward(w, y, y, ids(0, bad), 1.0)
        assert np.all(w == 1)
        assert np.all(y == 1)

    def test_repeated_ids_add_in_row_order(self, native: str) -> None:
        """1e8 + 1 - 1e8 is 0 in this order in float32, and 1 in another."""
        dy = np.array([[1e8], [1.0], [-1e8]], np.float32)
        dw = np.zeros((2, 1), np.float32)
        backend.cpu_modules()[native].embedding_backward(dw, dy.copy(), dy, ids(1, 1, 1), 1.0)
        assert dw.tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize("bad", [-1, 5, 2**40, -(2**40)])
@pytest.mark.parametrize("cols", [3, 8])
def test_cuda_gives_nan_for_an_invalid_id_and_no_gradient_to_it(bad, cols, device_kernels):
    rng = np.random.default_rng(cols)
    w, dy = (rng.standard_normal((n, cols)).astype(np.float32) for n in (5, 70))
    ids = rng.integers(0, 5, 70)
    ids[[0, 13, 64, 69]] = bad
    valid = ids != bad
    y, dw = np.zeros_like(dy), np.zeros_like(w)
    device_kernels.embedding_forward(y, w, ids, None, 1.0)
    assert np.isnan(y[~valid]).all()
    assert y[valid].tobytes() == w[ids[valid]].tobytes()
    work = np.zeros(ops.embedding.work_size(70, cols), np.float32)
    device_kernels.embedding_backward(dw, work, dy, ids, 1.0)
    expected = np.zeros(w.shape)
    np.add.at(expected, ids[valid], dy[valid])
    np.testing.assert_allclose(dw, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("classes", [8, 600])
def test_cuda_adds_the_gradients_of_an_id_in_ascending_order(classes, device_kernels):
    """The same bits, for rows that fit in one piece; one pass of the sort, and two passes in which
    some ids share a digit.
    """
    rng = np.random.default_rng(9)
    ids = rng.choice([5, classes - 83 if classes > 83 else 7, 6], 31)
    dy = rng.standard_normal((31, 3)).astype(np.float32)
    dw = rng.standard_normal((classes, 3)).astype(np.float32)
    sums, expected = np.zeros_like(dw), dw.copy()
    for row, i in enumerate(ids):
        sums[i] += dy[row]
    expected += sums
    work = np.zeros(ops.embedding.work_size(31, 3), np.float32)
    device_kernels.embedding_backward(dw, work, dy, ids, 1.0)
    assert dw.tobytes() == expected.tobytes()


def test_the_cuda_scatter_refuses_too_small_a_work_array(device_kernels):
    dw, dy, ids = np.zeros((5, 3), np.float32), np.zeros((70, 3), np.float32), np.zeros(70, int)
    work = np.zeros(ops.embedding.work_size(70, 3) - 1, np.float32)
    with pytest.raises(ValueError, match="embedding_backward: work is too small"):
        device_kernels.embedding_backward(dw, work, dy, ids, 1.0)
