"""SentencePiece's .model: the wire format, models read and written, equality with its library."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pytest

from byhand import text
from byhand.errors import UserError
from byhand.text.formats import protobuf, sentencepiece, sentencepiece_write
from byhand.text.formats.sentencepiece import BPE, CONTROL, NORMAL, UNIGRAM, UNKNOWN, UNUSED, Pieces
from byhand.text.formats.sentencepiece_write import serialise
from tests.text.made_files import model_file, pieces

LETTERS = "  \t\n▁abchelowrdé中文日本🌞👩\u200d½①ﬁ\uff12.,<sep></s><0x0A>\u3000\u00a0\u0301"


def sentences(number: int = 1500) -> list[str]:
    rng = random.Random(0)
    made = ["".join(rng.choices(LETTERS, k=rng.randrange(25))) for _ in range(number)]
    return ["hello world", "  hello   world  ", "▁", "▁▁ a ▁", "", " ", "<sep>hello<sep>", *made]


def test_fields_are_read_as_they_were_written():
    data = protobuf.varint_field(1, 300) + protobuf.bytes_field(2, b"abc")
    data += protobuf.float_field(3, 1.5) + protobuf.varint_field(4, -1)
    found = [(n, w, bytes(v) if w == 2 else v) for n, w, v in protobuf.fields(memoryview(data))]  # type: ignore[arg-type]
    assert found == [(1, 0, 300), (2, 2, b"abc"), (3, 5, 1.5), (4, 0, 2**64 - 1)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x0a", "cut off"),
        (b"\x0a\xff\xff\xff\xff\x0f", "cut off after 0"),
        (b"\x0a\x05abc", "a field of 5 bytes is cut off after 3"),
        (b"\x0d\x00", "cut off"),
        (b"\x0b", "the wire type 3"),
        (b"\x08" + b"\xff" * 11, "more than ten bytes"),
        (b"\x00\x00", "the number 0"),
    ],
)
def test_damaged_messages(data: bytes, message: str):
    with pytest.raises(UserError, match=message):
        list(protobuf.fields(memoryview(data)))


@pytest.mark.parametrize("model_type", [UNIGRAM, BPE])
@pytest.mark.parametrize("byte_fallback", [True, False])
@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("remove", [True, False])
def test_ids_equal_the_library(
    model_type: int, byte_fallback: bool, prefix: bool, remove: bool, tmp_path: Path
):
    library = pytest.importorskip("sentencepiece")
    made = pieces(model_type, byte_fallback)
    made.add_dummy_prefix, made.remove_extra_whitespaces = prefix, remove
    (tmp_path / "made.model").write_bytes(serialise(made))
    theirs = library.SentencePieceProcessor(model_file=str(tmp_path / "made.model"))
    ours: Any = text.load(tmp_path / "made.model")
    text.save(ours, tmp_path / "again.model")
    again = library.SentencePieceProcessor(model_file=str(tmp_path / "again.model"))
    for sentence in sentences():
        ids = theirs.encode(sentence)
        assert ours.encode(sentence).tolist() == ids, repr(sentence)
        assert again.encode(sentence) == ids, repr(sentence)
        # The library takes away all spaces at the beginning, also those that were "▁" in the text.
        if 0 not in ids and not (remove and "▁" in sentence):
            assert ours.decode(ids) == theirs.decode(ids)


def test_a_trained_model_of_the_library(tmp_path: Path):
    library = pytest.importorskip("sentencepiece")
    rng = random.Random(1)
    words = ["hello", "world", "help", "held", "word", "lower", "low", "héllo", "世界", "½"]
    lines = [" ".join(rng.choices(words, k=8)) for _ in range(300)]
    for kind in ("unigram", "bpe"):
        written = io.BytesIO()
        library.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=written,
            vocab_size=40,
            model_type=kind,
            user_defined_symbols=["<sep>"],
            pad_id=3,
            minloglevel=2,
            hard_vocab_limit=False,
        )
        path = tmp_path / f"{kind}.model"
        path.write_bytes(written.getvalue())
        theirs = library.SentencePieceProcessor(model_file=str(path))
        ours = text.load(path)
        for sentence in [*lines[:50], *sentences(300)]:
            assert ours.encode(sentence).tolist() == theirs.encode(sentence), repr(sentence)


def test_control_symbols_are_not_read_from_text(tmp_path: Path):
    ours: Any = text.load(model_file(tmp_path))
    assert not {1, 2} & set(ours.encode("hello</s><s>").tolist())
    assert ours.encode("</s>", allowed_special="all").tolist()[-1] == 2
    assert 3 in ours.encode("a<sep>b").tolist()


def test_scores_are_added_in_float32(tmp_path: Path):
    """a + bc and ab + c differ by less than float32 can hold, so that the longer last token wins;
    float64 takes the greater sum.
    """
    library = pytest.importorskip("sentencepiece")
    made = Pieces(
        ["<unk>", "a", "b", "c", "ab", "bc"],
        [0.0, -65536.0, -70000.0, -0.0005, -65536.0, -0.001],
        [UNKNOWN, *[NORMAL] * 5],
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
    )
    path = tmp_path / "small.model"
    path.write_bytes(serialise(made))
    theirs = library.SentencePieceProcessor(model_file=str(path))
    ours: Any = text.load(path)
    assert ours.encode("abc").tolist() == theirs.encode("abc") == [1, 5]
    for name in ("tokenizer.json", "again.model"):
        text.save(ours, tmp_path / name)
        assert text.load(tmp_path / name).encode("abc").tolist() == [1, 5], name
    model = {**ours.description["model"], "float32": False}
    in_float64 = type(ours)({**ours.description, "model": model})
    assert in_float64.encode("abc").tolist() == [4, 3]


def changed(**changes: Any) -> Pieces:
    made = pieces()
    for name, value in changes.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (changed(model_type=3), "model type WORD is not supported yet"),
        (changed(space_at_end=True), "treat_whitespace_as_suffix is not supported yet"),
        (changed(escape_whitespaces=False), "escape_whitespaces=false is not supported yet"),
        (Pieces(), "0 pieces for the unknown"),
        (Pieces(["a", "a"], [0.0, 0.0], [NORMAL, NORMAL]), "pieces 0 and 1 are both 'a'"),
        (Pieces(["a", "b"], [0.0, 0.0], [2, 2]), "2 pieces for the unknown"),
        (Pieces(["a"], [0.0], [2]), "no normal pieces"),
        (Pieces(["a", "b", "c"], [0.0] * 3, [2, NORMAL, UNUSED]), "piece 2 is unused"),
    ],
)
def test_models_that_are_not_supported(found: Pieces, message: str):
    with pytest.raises(UserError, match=message):
        sentencepiece.describe(found)


@pytest.mark.parametrize(
    ("piece", "message"),
    [
        (b"", "piece 0 is empty"),
        (protobuf.bytes_field(1, b"\xff"), "piece 0 is not UTF-8"),
        (protobuf.bytes_field(1, b"a") + protobuf.float_field(2, float("nan")), "is nan"),
        (protobuf.bytes_field(1, b"a") + protobuf.varint_field(3, 9), "unknown type 9"),
        (protobuf.varint_field(1, 5), "field 1 has the wire type 0, not 2"),
    ],
)
def test_damaged_pieces(piece: bytes, message: str):
    with pytest.raises(UserError, match=message):
        sentencepiece.parse(protobuf.bytes_field(1, piece))


def test_a_file_that_is_no_model(tmp_path: Path):
    path = tmp_path / "x.model"
    path.write_bytes(b"\x0a\xff\xff\xff\xff\x0f")
    with pytest.raises(UserError, match=r"x\.model is not a SentencePiece model: .*cut off"):
        text.load(path)


def test_what_a_model_cannot_hold():
    description = sentencepiece.describe(pieces())
    for change, message in (
        ({"normalizer": {"type": "NFC"}}, "the normaliser"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, r"the pre-tokenizer .*Whitespace"),
        ({"decoder": None}, "the decoder"),
        ({"model": {"type": "WordLevel"}}, "not for WordLevel"),
    ):
        with pytest.raises(UserError, match=message):
            sentencepiece_write.write({**description, **change})
    assert CONTROL in sentencepiece.parse(sentencepiece_write.write(description)).types
