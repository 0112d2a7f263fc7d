"""What the CUDA kernels refuse before any of them runs: no GPU is needed for that."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.cuda import half
from tests.cuda.fake import FakeCupy


class Foreign(FakeCupy):
    """Another library's array, whose dtype is not numpy's."""

    def __init__(self):
        super().__init__()
        self.dtype = "torch.float32"


class Half(FakeCupy):
    """And one that has no address to give."""

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
    """In one sentence that names kernel and argument, wherever the argument stands."""
    for place, name in ((0, "g"), (1, "norm")):
        arguments = [FakeCupy(), FakeCupy(()), 1.0]
        arguments[place] = array
        with pytest.raises(TypeError, match=f"^clip: {name} .*{re.escape(message)}") as caught:
            cuda_module.clip(*arguments)
        assert "\n" not in str(caught.value)


def test_a_scalar_that_is_none(cuda_module):
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
def test_a_dtype_that_has_no_meaning_changes_nothing(name, dtype, message, on_cpu):
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
        on_cpu.adamw_step(*arrays.values(), 0.9, 0.99, 1e-8, 1.0)
    for array, value in arrays.items():
        assert value.tobytes() == before[array].tobytes(), array


BF16_CALLS = {
    "linear_forward": {"y": (2, 3), "x": (2, 4), "w": (3, 4), "b": (3,), "add": (2, 3)},
    "linear_backward": {"dx": (2, 4), "dw": (3, 4), "db": (3,), "dy": (2, 3), "x": (2, 4),
                        "w": (3, 4)},
    "matmul_backward": {"da": (2, 4), "db": (4, 3), "dc": (2, 3), "a": (2, 4), "b": (4, 3)},
    "bias_gelu_backward": {"dx": (2, 3), "db": (3,), "dy": (2, 3), "x": (2, 3), "b": (3,)},
    "gelu_ffn_forward": {"y": (2, 3), "pre": (2, 5), "h": (2, 5), "x": (2, 3), "w1": (5, 3),
                         "b1": (5,), "w2": (3, 5), "b2": (3,), "add": (2, 3)},
    "gelu_ffn_backward": {"dx": (2, 3), "h": (2, 5), "dpre": (2, 5), "dw1": (5, 3), "db1": (5,),
                          "dw2": (3, 5), "db2": (3,), "dy": (2, 3), "x": (2, 3), "pre": (2, 5),
                          "w1": (5, 3), "w2": (3, 5)},
    "linear_cross_entropy_forward": {"loss": (), "count": (), "dx": (2, 4), "dw": (3, 4),
                                     "work": (2, 3), "x": (2, 4), "w": (3, 4)},
}  # fmt: skip
OPTIONS = {"linear_forward": (False,), "linear_backward": (False,),
           "matmul_backward": (False, False, False), "bias_gelu_backward": (True,),
           "gelu_ffn_forward": (True, False), "gelu_ffn_backward": (True, False),
           "linear_cross_entropy_forward": (np.ones((), np.float32), np.zeros(2, np.int64), -100,
                                            0.0, True, False)}  # fmt: skip
FIRST = {"matmul_backward": "a"}  # whose dtype decides; elsewhere it is x


@pytest.mark.parametrize(
    ("kernel", "name"),
    [(k, n) for k, shapes in BF16_CALLS.items() for n in shapes if n != FIRST.get(k, "x")],
)
def test_one_array_of_another_dtype_changes_nothing(kernel, name, on_cpu):
    """Activations and parameters have one dtype, gradients of parameters and losses are float32."""
    pytest.importorskip("ml_dtypes")
    arrays = {n: np.ones(s, half.storage(kernel, n)) for n, s in BF16_CALLS[kernel].items()}
    right = arrays[name].dtype
    wrong = "bfloat16" if right == np.float32 else "float32"
    arrays[name] = arrays[name].astype(wrong)
    before = {n: a.copy() for n, a in arrays.items()}
    with pytest.raises(TypeError, match=f"^{kernel}: {name} must be {right}, got {wrong}$"):
        getattr(on_cpu, kernel)(*arrays.values(), *OPTIONS[kernel])
    for n, a in arrays.items():
        assert a.tobytes() == before[n].tobytes(), n


def test_room_for_no_row_is_refused(on_cpu):
    x, w, none = np.ones((2, 3), np.float32), np.ones((3, 3), np.float32), np.ones((0, 3))
    none = none.astype(np.float32)
    with pytest.raises(ValueError, match=r"^h must have at least one row$"):
        on_cpu.gelu_ffn_forward(x.copy(), x.copy(), none, x, w, None, w, None, None, True, False)
