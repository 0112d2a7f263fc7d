"""The checkpoint file: everything is read back exactly, and a wrong file is refused."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from byhand.errors import UserError
from byhand.files import write_atomically
from byhand.runs.checkpoint import FORMAT, Checkpoint, pack, read, require_like

TENSORS = {
    "model.w": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32),
    "model.b": np.array([0.0, -0.0, np.inf, np.nan, 1e-45], np.float32),
    "model.empty": np.empty((0, 5), np.float32),
    "optimizer.m.b": np.array(1.5, np.float64),
}
STATE = {"step": 3, "random": 2**127 + 1, "loss": 1 / 3, "name": "ü", "none": None}


WHOLE = pack(TENSORS, STATE)


def saved(path: Path, state: dict[str, Any] | None = None) -> Path:
    path.write_bytes(pack(TENSORS, STATE if state is None else state))
    return path


def test_every_bit_is_read_back(tmp_path: Path):
    found = read(saved(tmp_path / "c"))
    assert found.state == STATE
    assert found.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert found.tensors[name].shape == tensor.shape
        assert found.tensors[name].tobytes() == tensor.tobytes()
    assert found.group("model").keys() == {"w", "b", "empty"}
    assert found.group("optimizer.m").keys() == {"b"}


def test_strided_tensors_are_saved_in_the_order_of_their_indices(tmp_path: Path):
    matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
    (tmp_path / "c").write_bytes(pack({"t": matrix.T, "s": matrix[::2, ::-1]}, {}))
    found = read(tmp_path / "c").tensors
    assert found["t"].tolist() == matrix.T.tolist()
    assert found["s"].tolist() == matrix[::2, ::-1].tolist()


def test_the_file_is_plain_safetensors(tmp_path: Path):
    tensors = safetensors.numpy.load_file(saved(tmp_path / "c"))
    assert tensors["model.w"].tobytes() == TENSORS["model.w"].tobytes()


def test_any_changed_byte_is_noticed(tmp_path: Path):
    path = saved(tmp_path / "c")
    data = path.read_bytes()
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 0x04
        path.write_bytes(changed)
        with pytest.raises(UserError, match=r"damaged|truncated|not a checkpoint|other version"):
            read(path)


def test_any_truncation_is_noticed(tmp_path: Path):
    path = saved(tmp_path / "c")
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match="truncated or in another format"):
            read(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(UserError):
        read(path)


def header(fields: dict[str, Any], body: bytes = b"") -> bytes:
    text = json.dumps(fields).encode()
    return struct.pack("<Q", len(text)) + text + body


OTHER_FILES = {
    "text": b"Shall I compare thee to a summer's day?",
    "pickle": b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01w\x94K\x01s.",
    "zip": b"PK\x03\x04" + bytes(100),
    "huge header": struct.pack("<Q", 2**62) + b"{}",
    "header of 99 MB that is not there": struct.pack("<Q", 99_000_000) + b"{}",
    "not JSON": struct.pack("<Q", 4) + b"{{{{",
    "not UTF-8": struct.pack("<Q", 4) + b"\xff\xfe\xff\xfe",
    "deep JSON": struct.pack("<Q", 100_000) + b"[" * 100_000,
    "a hole": header({"t": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8)),
    "a negative offset": header({"t": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}),
    "a size that overflows": header(
        {"t": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, bytes(4)
    ),
    "a type numpy lacks": header(
        {
            "__metadata__": {"format": FORMAT, "version": "1"},
            "t": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]},
        },
        bytes(1),
    ),
}


@pytest.mark.parametrize("name", OTHER_FILES)
def test_other_files_are_refused(tmp_path: Path, name: str):
    path = tmp_path / "c"
    path.write_bytes(OTHER_FILES[name])
    with pytest.raises(UserError, match=f"{path}.*(truncated or in another format|damaged)"):
        read(path)


@given(
    st.binary(max_size=300)
    | st.binary(max_size=60).map(lambda b: pack(TENSORS, STATE)[: 40 + len(b)] + b)
)
def test_arbitrary_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes):
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(data)
    with pytest.raises(UserError):
        read(path)


def test_other_safetensors_files_are_refused(tmp_path: Path):
    path = tmp_path / "c"
    for metadata in (None, {"format": "pt"}):
        safetensors.numpy.save_file(TENSORS, path, metadata)
        with pytest.raises(
            UserError, match="is a safetensors file, but not a checkpoint of byhand"
        ):
            read(path)
    safetensors.numpy.save_file(TENSORS, path, {"format": FORMAT, "version": "3"})
    with pytest.raises(UserError, match="format 3, and this byhand reads the formats 1 and 2"):
        read(path)
    safetensors.numpy.save_file(TENSORS, path, {"format": FORMAT, "version": "2"})
    with pytest.raises(UserError, match="damaged"):
        read(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path):
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(UserError, match=f"there is no checkpoint at {path}"):
            read(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model.b": None}, "lacks the tensor model.b"),
        ({"model.c": np.zeros(1)}, "has the tensor model.c, which is unknown"),
        ({"model.w": np.zeros((4, 3), np.float32)}, r"\(4, 3\) and type float32, where \(3, 4\)"),
        ({"model.w": np.zeros((3, 4))}, "float64, where .* float32"),
    ],
)
def test_tensors_of_another_model_are_refused(change: dict[str, Any], words: str):
    other = {name: t for name, t in {**TENSORS, **change}.items() if t is not None}
    with pytest.raises(UserError, match=f"here is of another model: .*{words}"):
        require_like("here", other, TENSORS)
    require_like("here", dict(TENSORS), TENSORS)


MOMENTS = {f"optimizer.{slot}.{name}": np.zeros(2) for slot in "mv" for name in ("a.w", "b.w")}


@pytest.mark.parametrize(
    ("dropped", "words"),
    [
        (["optimizer.m.b.w", "optimizer.v.b.w"], "when b.w was {}, and now it is {}: freeze the"),
        (["optimizer.v.a.w", "optimizer.v.b.w"], "of another optimizer: it has the state {}, "),
        ([*MOMENTS], "of another optimizer: it has the state {}, where {} is expected"),
    ],
)
def test_what_differs_in_the_optimizers_state_is_named(dropped: list[str], words: str):
    fewer = {name: value for name, value in MOMENTS.items() if name not in dropped}
    for saved, expected, states in (
        (MOMENTS, fewer, ("trained", "frozen")),
        (fewer, MOMENTS, ("frozen", "trained")),
    ):
        with pytest.raises(UserError) as error:
            require_like("here", saved, expected)
        if "optimizer" in words:
            listed = [
                " and ".join(sorted({name.split(".")[1] for name in names})) or "nothing"
                for names in (saved, expected)
            ]
            assert words.format(*listed) in str(error.value)
        else:
            assert words.format(*states) in str(error.value)


def test_saving_over_a_file_that_is_being_read(tmp_path: Path):
    path = saved(tmp_path / "c")
    with safetensors.safe_open(path, framework="numpy") as file:
        write_atomically(path, pack({"model.w": np.zeros((500, 500))}, {}))
        assert file.get_tensor("model.w").tobytes() == TENSORS["model.w"].tobytes()
    kept: Checkpoint = read(path)
    write_atomically(path, pack(kept.tensors, kept.state))
    assert not kept.tensors["model.w"].any()
    assert read(path).tensors["model.w"].shape == (500, 500)
