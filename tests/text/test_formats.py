"""vocab.json with merges.txt, tiktoken's ranks and vocab.txt: read, written, and refused."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from byhand import text
from byhand.errors import UserError
from byhand.text.bytes_alphabet import ALPHABET, is_alphabet, to_alphabet, to_bytes
from byhand.text.formats import tiktoken, vocab_merges, vocab_txt
from byhand.text.load import read_description, require_writable_name
from tests.text.made_files import END, MERGES, WORDS, gpt2_files, tiktoken_file, vocab_txt_file

SENTENCES = (
    "hello world",
    " hello  world\n\nhello",
    "abababa héllo, wörld! 世界 👩‍👩‍👧",
    "\0\x01\x7f\x80",
    f"hello{END} world",
    "",
)


def test_every_byte_has_a_character():
    data = bytes(range(256))
    assert to_bytes(to_alphabet(data)) == data
    assert len(set(ALPHABET)) == 256
    assert to_alphabet(b"\n a") == "ĊĠa"
    assert not is_alphabet("世")
    with pytest.raises(UserError, match=r"'世'.*stands for no byte"):
        to_bytes("a世")


# --- vocab.json and merges.txt -------------------------------------------------------------------


def test_gpt2_files_give_merges_and_a_special_token(tmp_path: Path):
    vocab, merges = gpt2_files(tmp_path)
    found = read_description(vocab)
    assert found["kind"] == "bpe"
    assert found == read_description(merges)
    assert [token["content"] for token in found["added_tokens"]] == [END]
    assert found["model"]["merges"][0] == ["h", "e"]
    tokenizer: Any = text.load(vocab)
    assert tokenizer.tokenize("hello world") == ["hello", "Ġworld"]
    assert len(tokenizer.encode(f"a{END}")) > 5
    assert tokenizer.encode(f"a{END}", allowed_special="all").tolist()[1:] == [256 + len(WORDS)]


def test_gpt2_files_come_back(tmp_path: Path):
    vocab, _ = gpt2_files(tmp_path)
    (tmp_path / "again").mkdir()
    before = text.load(vocab)
    text.save(before, tmp_path / "again" / "vocab.json")
    after = text.load(tmp_path / "again")
    assert after.to_dict() == before.to_dict()
    assert after.sha256() == before.sha256()


def test_gpt2_files_equal_hugging_face(tmp_path: Path):
    tokenizers = pytest.importorskip("tokenizers")
    vocab, merges = gpt2_files(tmp_path)
    theirs = tokenizers.ByteLevelBPETokenizer(str(vocab), str(merges))
    ours = text.load(vocab)
    for sentence in SENTENCES:
        assert ours.encode(sentence).tolist() == theirs.encode(sentence).ids


def test_the_other_names_of_the_two_files(tmp_path: Path):
    vocab, merges = gpt2_files(tmp_path)
    vocab.rename(tmp_path / "encoder.json")
    merges.rename(tmp_path / "vocab.bpe")
    found = read_description(tmp_path / "encoder.json")
    assert found == read_description(tmp_path / "vocab.bpe") == read_description(tmp_path)


def test_words_that_end_with_a_mark(tmp_path: Path):
    tokens = ["<unk>", *"ab", "a</w>", "b</w>", "ab</w>"]
    (tmp_path / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (tmp_path / "merges.txt").write_text("a b</w>\n")
    found = read_description(tmp_path)
    assert found["model"]["end_of_word_suffix"] == "</w>"
    assert found["model"]["unk_token"] == "<unk>"
    tokenizer = text.load(tmp_path)
    assert tokenizer.encode("ab b").tolist() == [5, 4]
    assert tokenizer.decode([5, 4]).strip() == "ab b"


@pytest.mark.parametrize(
    ("vocab", "merges", "message"),
    [
        ('{"a": 0, "a": 1}', "", "the key 'a' twice"),
        ('{"a": 0, "b": 0}', "", "'a' and 'b' the same id 0"),
        ('{"a": 99999}', "", "the id 99999"),
        ('{"a": -1}', "", "the id -1"),
        ('{"a": true}', "", "the id True|does not describe a tokenizer"),
        ('{"a": 0', "", "is not JSON"),
        ("[" * 100_000, "", "nested too deeply|is not JSON"),
        ('{"a": 0, "b": 1, "ab": 2}', "a b c", "line 1: a merge is two tokens"),
        ('{"a": 0, "b": 1}', "#version: 0.2\na b", "line 2: the token 'ab' is not in"),
        ('{"a": 0, "b": 1, "ab": 2}', "\xff", "a merge is two tokens"),
    ],
)
def test_damaged_vocab_and_merges(tmp_path: Path, vocab: str, merges: str, message: str):
    (tmp_path / "vocab.json").write_text(vocab)
    (tmp_path / "merges.txt").write_text(merges, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        vocab_merges.read(tmp_path / "vocab.json", tmp_path / "merges.txt")


def test_one_of_the_two_files_is_missing(tmp_path: Path):
    vocab, merges = gpt2_files(tmp_path)
    merges.unlink()
    with pytest.raises(UserError, match=r"belong together: there is no .*merges\.txt"):
        text.load(vocab)


# --- tiktoken ------------------------------------------------------------------------------------


def test_ranks_give_tokens_and_settings(tmp_path: Path):
    path = tiktoken_file(tmp_path)
    tokenizer: Any = text.load(path)
    assert tokenizer.encode("hello world").tolist() == [256 + 3, 256 + 9]
    assert tokenizer.encode(f"{END}", allowed_special={END}).tolist() == [256 + len(WORDS)]
    assert tokenizer.decode(tokenizer.encode("hé")) == "hé"


def test_ranks_equal_tiktoken(tmp_path: Path):
    tiktoken_package = pytest.importorskip("tiktoken")
    path = tiktoken_file(tmp_path)
    ours: Any = text.load(path)
    again = tmp_path / "again.tiktoken"
    text.save(ours, again)
    assert again.read_bytes() == path.read_bytes()
    settings = json.loads(tiktoken.settings_path(again).read_text())
    lines = (line.split() for line in again.read_bytes().splitlines())
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    theirs = tiktoken_package.Encoding("made", mergeable_ranks=ranks, **settings)
    for sentence in SENTENCES:
        assert ours.encode(sentence).tolist() == theirs.encode(sentence, disallowed_special=())
        assert ours.encode(sentence, allowed_special="all").tolist() == theirs.encode(
            sentence, allowed_special="all"
        )


def test_ranks_and_merges_convert_into_each_other(tmp_path: Path):
    vocab, _ = gpt2_files(tmp_path)
    merged = text.load(vocab)
    text.save(merged, tmp_path / "made.tiktoken")
    ranked = text.load(tmp_path / "made.tiktoken")
    text.save(ranked, tmp_path / "tokenizer.json")
    again = text.load(tmp_path / "tokenizer.json")
    for sentence in SENTENCES:
        ids = merged.encode(sentence).tolist()
        assert ranked.encode(sentence).tolist() == ids
        assert again.encode(sentence).tolist() == ids


def test_a_file_without_a_pattern_needs_one(tmp_path: Path):
    path = tiktoken_file(tmp_path)
    tiktoken.settings_path(path).unlink()
    with pytest.raises(UserError, match=r"does not say by which pattern.*--pattern gpt4"):
        text.load(path)
    tokenizer = text.load(path, pattern="gpt4", special_tokens={END: 300})
    assert tokenizer.encode("hello world").tolist() == [259, 265]
    with pytest.raises(UserError, match="has the id of b'h'"):
        text.load(path, pattern="gpt4", special_tokens={END: 104})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"aGU= 1 2", "line 269: not a token"),
        (b"aGU=", "line 269: not a token"),
        (b"a 300", "line 269: not a token"),
        (b"aGU= -1", "line 269: not a token"),
        (b"aGU= 300", "b'he' is there twice"),
        (b"enp6 256", "the same id 256"),
        (b"enp6 99999999", "the id 99999999"),
    ],
)
def test_damaged_ranks(tmp_path: Path, line: bytes, message: str):
    path = tiktoken_file(tmp_path)
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(UserError, match=message):
        text.load(path)


def test_ranks_without_every_byte(tmp_path: Path):
    path = tiktoken_file(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:7] + lines[8:]))
    with pytest.raises(UserError, match="no token for the byte 7"):
        text.load(path)


def test_a_pattern_is_for_ranks_only(tmp_path: Path):
    vocab, _ = gpt2_files(tmp_path)
    with pytest.raises(UserError, match="the pattern may be given for a file of tiktoken's ranks"):
        text.load(vocab, pattern="gpt2")


def test_what_ranks_cannot_hold(tmp_path: Path):
    vocab, _ = gpt2_files(tmp_path)
    description = read_description(vocab)
    for change, message in (
        ({"normalizer": {"type": "NFC"}}, r"the normaliser of this tokenizer \(NFC\)"),
        ({"pre_tokenizer": None}, "divided by one pattern"),
        ({"decoder": None}, "the decoder"),
    ):
        with pytest.raises(UserError, match=message):
            tiktoken.write({**description, **change})
    model = {**description["model"], "merges": description["model"]["merges"][::-1]}
    with pytest.raises(UserError, match="not in the order of its merges"):
        tiktoken.write({**description, "model": model})


# --- vocab.txt -----------------------------------------------------------------------------------


def test_vocab_txt_equals_hugging_face(tmp_path: Path):
    tokenizers = pytest.importorskip("tokenizers")
    path = vocab_txt_file(tmp_path)
    ours = text.load(path)
    theirs = tokenizers.BertWordPieceTokenizer(str(path))
    for sentence in ("Hello world", "hélo, aborld!", "世 hello [MASK]x"):
        plain = sentence.replace("[MASK]", "")
        assert ours.encode(plain).tolist() == theirs.encode(plain).ids
    text.save(ours, tmp_path / "again.txt")
    assert (tmp_path / "again.txt").read_bytes() == path.read_bytes()


def test_lower_case_is_said_by_the_config_or_the_vocabulary(tmp_path: Path):
    path = vocab_txt_file(tmp_path)

    def lower() -> bool:
        found: bool = vocab_txt.read(path)["normalizer"]["lowercase"]
        return found

    assert lower()
    path.write_text(path.read_text() + "World\n")
    assert not lower()
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert lower()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[UNK]\na\na\n", "line 3: the token 'a' is there twice"),
        ("[UNK]\n\na\n", "line 2 is empty"),
        ("a\nb\n", r"no token \[UNK\]"),
        ("", r"no token \[UNK\]"),
        ("[UNK]\na\0b\n", "line 2 has a byte 0"),
    ],
)
def test_damaged_vocab_txt(tmp_path: Path, content: str, message: str):
    path = tmp_path / "vocab.txt"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        text.load(path)


def test_invalid_utf8_names_the_byte(tmp_path: Path):
    path = tmp_path / "vocab.txt"
    path.write_bytes(b"[UNK]\n\xff\n")
    with pytest.raises(UserError, match="byte 6 does not fit"):
        text.load(path)


# --- Names ---------------------------------------------------------------------------------------


def test_names_of_no_format(tmp_path: Path):
    with pytest.raises(UserError, match="there is no tokenizer at"):
        text.load(tmp_path / "missing.json")
    with pytest.raises(UserError, match="has no tokenizer"):
        text.load(tmp_path)
    (tmp_path / "x.bin").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match=r"x\.bin is not a tokenizer"):
        text.load(tmp_path / "x.bin")
    for name, message in (("a.gguf", "does not write them"), ("a.bin", "is of no format")):
        with pytest.raises(UserError, match=message):
            require_writable_name(tmp_path / name)
    assert require_writable_name(tmp_path) == tmp_path / "tokenizer.json"


def test_a_tokenizer_of_characters_is_saved_as_json(tmp_path: Path):
    made = text.CharacterTokenizer("abc\n")
    text.save(made, tmp_path)
    assert text.load(tmp_path) == made
    with pytest.raises(UserError, match="a character tokenizer can be saved as"):
        text.save(made, tmp_path / "vocab.txt")


def test_nothing_is_left_of_a_file_that_cannot_be_written(tmp_path: Path):
    vocab, _ = gpt2_files(tmp_path)
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "folder.json" / "tokenizer.json").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        text.save(text.load(vocab), tmp_path / "folder.json")
    assert [p.name for p in (tmp_path / "folder.json").iterdir()] == ["tokenizer.json"]


def test_merges_are_written_in_order(tmp_path: Path):
    vocab, merges = gpt2_files(tmp_path)
    _, data = vocab_merges.write(read_description(vocab))
    assert data == merges.read_bytes()
    assert len(data.splitlines()) == len(MERGES) + 1
