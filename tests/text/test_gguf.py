"""GGUF: its metadata, and the tokenizers of llama.cpp's kinds."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from byhand import text
from byhand.errors import UserError
from byhand.hub.gguf import read_metadata
from byhand.text.formats import gguf
from byhand.text.formats.gguf_patterns import words_named
from tests.text.made_files import GGUF_KINDS, gguf_bytes, gguf_file, gguf_metadata

VALUES: dict[str, Any] = {
    "a.number": 7,
    "a.float": 1.5,
    "a.flag": True,
    "a.text": "héllo",
    "bytes": "\udcff",
    "numbers": np.arange(5, dtype="i4"),
    "small": np.array([1, 2, 255], "u1"),
    "big": np.array([2**63], "u8"),
    "texts": ["a", "", "世"],
    "nested": [[1, 2], [3]],
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("version", [2, 3])
def test_metadata_come_back(order: str, version: int, tmp_path: Path):
    path = tmp_path / "made.gguf"
    path.write_bytes(gguf_bytes(VALUES, order, version))
    found = read_metadata(path)
    assert list(found) == list(VALUES)
    for name, value in VALUES.items():
        if isinstance(value, np.ndarray):
            assert found[name].dtype == value.dtype
            assert np.array_equal(found[name], value)
        elif name == "nested":
            assert [part.tolist() for part in found[name]] == value
        else:
            assert found[name] == value
            assert type(found[name]) is type(value)


def header(version: int = 3, tensors: int = 0, count: int = 1) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, count)


def entry(kind: int, data: bytes) -> bytes:
    return header() + struct.pack("<Q1sI", 1, b"k", kind) + data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a GGUF file"),
        (b"GGUF", "not a GGUF file"),
        (b"ggml" + bytes(40), "not a GGUF file"),
        (header(version=1), "in version 1"),
        (header(count=2**40), "claims 1099511627776 entries in 0 bytes"),
        (entry(8, struct.pack("<Q", 2**62)), "4611686018427387904 bytes were expected, 0 are left"),
        (entry(9, struct.pack("<IQ", 8, 2**61)), "an array claims 2305843009213693952 items"),
        (entry(9, struct.pack("<IQ", 4, 2**61)), "bytes were expected"),
        (entry(9, struct.pack("<IQQ", 8, 1, 99)), "cut off within an array of strings"),
        (entry(99, b""), "the unknown type 99"),
        (entry(9, struct.pack("<IQ", 9, 1) * 6 + bytes(99)), "nested more than 4 deep"),
        (header() + struct.pack("<Q", 2**20) + bytes(2**20), "a key claims to have 1048576"),
        (gguf_bytes({"ab": 1, "cd": 2}).replace(b"cd", b"ab"), "the key 'ab' is there twice"),
    ],
)
def test_damaged_files(data: bytes, message: str, tmp_path: Path):
    path = tmp_path / "made.gguf"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_metadata(path)


@pytest.mark.parametrize("kind", GGUF_KINDS)
def test_tokenizers_of_each_kind(kind: str, tmp_path: Path):
    tokenizer: Any = text.load(gguf_file(tmp_path, kind))
    tokens = tokenizer.tokenize("hello world")
    wanted = {
        "llama": ["▁hello", "▁world"],
        "t5": ["▁hello", "▁world"],
        "gpt2": ["hello", "Ġworld"],
        "bert": ["hello", "world"],
    }
    assert tokens == wanted[kind]
    assert tokenizer.decode(tokenizer.encode("hello world")) == "hello world"


def test_the_tokens_around_a_text_are_as_the_file_says(tmp_path: Path):
    def ids(kind: str, **changes: Any) -> list[int]:
        found = {**gguf_metadata(kind), **{f"tokenizer.ggml.{k}": v for k, v in changes.items()}}
        (tmp_path / "made.gguf").write_bytes(gguf_bytes(found))
        listed: list[int] = text.load(tmp_path / "made.gguf").encode("a").tolist()
        return listed

    assert ids("llama")[0] == 1
    assert ids("llama", add_bos_token=False)[0] != 1
    assert ids("llama", add_eos_token=True)[-1] == 2
    assert ids("t5")[-1] == 2
    assert len(ids("gpt2")) == 1
    assert ids("gpt2", add_bos_token=True)[0] == 268
    assert ids("bert")[:: len(ids("bert")) - 1] == [2, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "it has no tokenizer"),
        ({"model": "rwkv"}, "of the kind 'rwkv', which is not supported yet"),
        ({"model": 3}, "model is not a text"),
        ({"pre": "gpt-22"}, r"the pre-tokenizer 'gpt-22' .* not supported yet \(did you mean"),
        ({"tokens": []}, "no tokens"),
        ({"tokens": ["a", "a"], "token_type": None}, "tokens 0 and 1 are both 'a'"),
        ({"token_type": np.ones(3, "i4")}, "has 3 items for"),
        ({"token_type": np.ones(269, "f4")}, "not an array of numbers of the right kind"),
        ({"merges": ["h"]}, "merge 0, 'h', is not two tokens"),
        ({"merges": ["h z"]}, "merge 0, 'h z', is not two tokens"),
        ({"merges": 5}, "no merges"),
        ({"bos_token_id": 9999, "add_bos_token": True}, "bos_token_id is 9999, beyond the 269"),
        ({"add_bos_token": 1}, "add_bos_token is not true or false"),
    ],
)
def test_wrong_metadata(changes: dict[str, Any], message: str):
    found = gguf_metadata("gpt2")
    for name, value in changes.items():
        found[f"tokenizer.ggml.{name}"] = value
    with pytest.raises(UserError, match=message):
        gguf.describe({name: value for name, value in found.items() if value is not None})


def test_every_named_pattern_divides_text():
    pytest.importorskip("regex")
    from byhand.text import pretokenise
    from byhand.text.formats.gguf_patterns import _KINDS
    from byhand.text.formats.parts import byte_level_words

    for name in _KINDS:
        assert pretokenise.make(byte_level_words(words_named(name).patterns))
