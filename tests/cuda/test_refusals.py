"""What the CUDA kernels refuse before any of them runs: no GPU is needed for that."""

from __future__ import annotations

import re

import numpy as np
import pytest

from byhand import backend
from tests.cases import all_ops
from tests.cuda import half
from tests.cuda.fake import FakeCupy
from tests.ops.suite import arguments


class Foreign(FakeCupy):
    """Another library's array, whose dtype is not numpy's."""

    def __init__(self):
        super().__init__()
        self.dtype = "torch.float32"


class Half(FakeCupy):
    """An array without an address."""

    def __init__(self):
        super().__init__()
        del self.data.ptr


REFUSED = [
    (FakeCupy(dtype="float64"), "must be float32, bfloat16, int64 or bool, got a tests.cuda"),
    (FakeCupy(dtype="float16"), "of dtype float16 and shape (3, 5)"),
    (FakeCupy(dtype=">f4"), "of dtype >f4 and shape (3, 5)"),
    (FakeCupy(dtype="int32"), "of dtype int32 and shape (3, 5)"),
    (FakeCupy(dtype="complex64"), "of dtype complex64 and shape (3, 5)"),
    (FakeCupy(strides=(24, 4)), "must be C-contiguous, got strides (24, 4) for shape (3, 5)"),
    (FakeCupy(strides=(4, 12)), "must be C-contiguous, got strides (4, 12) for shape (3, 5)"),
    (FakeCupy(strides=(-20, 4)), "must be C-contiguous, got strides (-20, 4) for shape (3, 5)"),
    (FakeCupy(strides=(22, 4)), "has strides that cut its elements"),
    (FakeCupy(address=(1 << 20) + 2), "must begin at a multiple of 4 bytes, as its dtype asks"),
    (FakeCupy(device=1), "is on CUDA device 1, and the current device is 0"),
    (FakeCupy(shape=(1,) * 7), "has 7 dimensions, at most 6 are supported"),
    (Foreign(), "must be a cupy array, got a tests.cuda"),
    (Half(), "must be a cupy array, got a tests.cuda"),
    (np.ones((3, 5), np.float32), "must be a cupy array, got a numpy array of dtype float32"),
    ([1.0, 2.0], "must be a cupy array, got list"),
    (None, "must be an array, got None"),
]


@pytest.mark.parametrize(("array", "message"), REFUSED, ids=[text[:40] for _, text in REFUSED])
def test_an_array_that_a_kernel_cannot_take(array, message, cuda_module):
    """One sentence names kernel and argument, at any position."""
    for place, name in ((0, "g"), (1, "norm")):
        arguments = [FakeCupy(), FakeCupy(()), 1.0]
        arguments[place] = array
        with pytest.raises(TypeError, match=f"^clip: {name} .*{re.escape(message)}") as caught:
            cuda_module.clip(*arguments)
        assert "\n" not in str(caught.value)


def test_a_scalar_of_the_wrong_type(cuda_module):
    with pytest.raises(TypeError, match=r"^clip: max_norm must be a float, got 'long'"):
        cuda_module.clip(FakeCupy(), FakeCupy(()), "long")


PARTS = "an integer, or a pair of one and a 0-d int64 array"


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        ((1,), PARTS),
        ((1, np.array([2])), PARTS),
        ((1, np.array(2.0, np.float32)), PARTS),
        ((1, None), "an array, got None"),
        ((1, 2), "a numpy array, got int"),
    ],
)
def test_an_offset_in_the_wrong_parts(offset, expected, on_cpu):
    x = np.ones(3, np.float32)
    with pytest.raises(TypeError, match=f"^dropout_backward: offset must be {expected}$"):
        on_cpu.dropout_backward(x.copy(), x, 0.5, 1, offset)


def test_the_number_of_arguments(cuda_module):
    with pytest.raises(TypeError, match=r"^clip: takes 3 arguments, got 2"):
        cuda_module.clip(FakeCupy(), FakeCupy(()))


@pytest.mark.parametrize(
    ("name", "dtype", "message"),
    [
        *((name, "bfloat16", "must be float32, got bfloat16") for name in ("w", "m", "v", "work")),
        *((name, "bfloat16", "must be float32, got bfloat16") for name in ("norm", "lr")),
        *((name, "float32", "must be int64, got float32") for name in ("t", "bounds")),
        *((name, "int64", "must be float32 or bfloat16, got int64") for name in ("g", "copy")),
    ],
)
def test_a_refused_dtype_changes_nothing(name, dtype, message, on_cpu):
    """Master weights and moments stay float32; the step is not counted either."""
    pytest.importorskip("ml_dtypes")
    one = np.ones(3, np.float32)
    arrays = {array: one.copy() for array in ("w", "m", "v", "copy")}
    arrays |= {"t": np.zeros((), np.int64), "work": np.zeros((1, 4), np.float32), "g": one}
    arrays |= {"norm": np.ones((), np.float32), "lr": one[:1], "weight_decay": one[:1]}
    arrays |= {"bounds": np.array([3])}
    arrays[name] = arrays[name].astype(dtype)
    before = {array: value.copy() for array, value in arrays.items()}
    with pytest.raises(TypeError, match=f"^adamw_step: {name} {message}$"):
        on_cpu.adamw_step(*arrays.values(), 0.9, 0.99, 1e-8, 1.0, False)
    for array, value in arrays.items():
        assert value.tobytes() == before[array].tobytes(), array


BF16_KERNELS = [(op, kernel) for op in all_ops() if op.cuda.bf16 for kernel in op.kernels]


@pytest.mark.parametrize(("op", "kernel"), BF16_KERNELS, ids=lambda p: getattr(p, "name", p))
def test_one_array_of_another_dtype_changes_nothing(op, kernel, on_cpu):
    """Activations and parameters have one dtype, that of the first of them that the kernel looks
    at; gradients of parameters, statistics and losses are float32.
    """
    bf16 = pytest.importorskip("ml_dtypes").bfloat16
    right = arguments(op, kernel, lambda name: half.storage(kernel, name))
    decides = []
    for i, argument in enumerate(backend.arguments(kernel)):
        if not argument.floating or right[i] is None or argument.name in op.cuda.either:
            continue
        given = [a.copy() if isinstance(a, np.ndarray) else a for a in right]
        given[i] = given[i].astype(bf16 if given[i].dtype == np.float32 else np.float32)
        before = [a.tobytes() for a in given if isinstance(a, np.ndarray)]
        name, dtypes = argument.name, f"{right[i].dtype}, got {given[i].dtype}"
        refusal = None
        try:
            getattr(on_cpu, kernel)(*given)
        except TypeError as error:
            refusal = str(error)
        if refusal is not None:
            assert [a.tobytes() for a in given if isinstance(a, np.ndarray)] == before, name
        if refusal != f"{kernel}: {name} must be {dtypes}":  # then another one is refused, if any
            assert re.match(rf"None|{kernel}: \w+ must be float32, got bfloat16$", str(refusal))
            decides.append(name)
    assert len(decides) <= 1, decides


def test_a_work_array_without_rows_is_refused(on_cpu):
    x, w, none = np.ones((2, 3), np.float32), np.ones((3, 3), np.float32), np.ones((0, 3))
    none = none.astype(np.float32)
    with pytest.raises(ValueError, match=r"^h must have at least one row$"):
        on_cpu.gelu_ffn_forward(x.copy(), x.copy(), none, x, w, None, w, None, None, True, False)
