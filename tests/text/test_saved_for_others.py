"""What byhand trains and saves loads in the libraries it is for, with the same ids."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path
from typing import Any

import pytest

from byhand import text
from byhand.errors import UserError
from byhand.text.samples import SAMPLES

TEXT = "\n".join([*SAMPLES.values(), "The cat sat on the mat; the cats' mats, 2024-01-02."] * 5)


def sentences() -> list[str]:
    rng = random.Random(0)
    # What begins with a space or has other control characters is named where it differs.
    letters = sorted(set(TEXT) | set("xyzXYZ½①\u0301")) + [" "] * 20
    made = ["".join(rng.choices(letters, k=rng.randrange(1, 30))) for _ in range(300)]
    return [*SAMPLES.values(), *(one.strip(" ") for one in made)]


@pytest.fixture(scope="module")
def trained() -> dict[str, Any]:
    return {
        "bpe": text.BPETokenizer.train(TEXT, 400, special_tokens=["<|endoftext|>"]),
        "gpt4": text.BPETokenizer.train(TEXT, 400, pattern="gpt4"),
        "characters": text.BPETokenizer.train(TEXT, 500, byte_level=False),
        "wordpiece": text.WordPieceTokenizer.train(TEXT, 500),
        "cased": text.WordPieceTokenizer.train(TEXT, 500, lowercase=False),
        "unigram": text.UnigramTokenizer.train(TEXT, 500),
        "nmt_nfkc": text.UnigramTokenizer.train(TEXT, 500, normalizer="nmt_nfkc"),
        "bytes": text.UnigramTokenizer.train(TEXT, 800, byte_fallback=True),
    }


ALL = ("bpe", "gpt4", "characters", "wordpiece", "cased", "unigram", "nmt_nfkc", "bytes")


def equal_ids(ours: Any, encode: Any) -> None:
    for sentence in sentences():
        assert ours.encode(sentence).tolist() == encode(sentence), repr(sentence)


@pytest.mark.parametrize("name", ALL)
def test_tokenizer_json(name: str, trained: dict[str, Any], tmp_path: Path):
    library = pytest.importorskip("tokenizers")
    text.save(trained[name], tmp_path / "tokenizer.json")
    theirs = library.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.get_vocab_size() == len(trained[name])
    if name == "nmt_nfkc":  # of a charsmap, Hugging Face's library matches short keys only
        for sentence in SAMPLES.values():
            assert trained[name].encode(sentence).tolist() == theirs.encode(sentence).ids
    else:
        equal_ids(trained[name], lambda sentence: theirs.encode(sentence).ids)
    again: Any = text.load(tmp_path)
    assert again.sha256() == trained[name].sha256()


def test_words_in_tokenizer_json(tmp_path: Path):
    library = pytest.importorskip("tokenizers")
    ours: Any = text.WordTokenizer.train(TEXT)
    text.save(ours, tmp_path / "tokenizer.json")
    theirs = library.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    equal_ids(ours, lambda sentence: theirs.encode(sentence).ids)


def test_vocab_and_merges(trained: dict[str, Any], tmp_path: Path):
    library = pytest.importorskip("tokenizers")
    files = text.save(trained["bpe"], tmp_path / "vocab.json")
    theirs = library.ByteLevelBPETokenizer(*map(str, files))
    equal_ids(trained["bpe"], lambda sentence: theirs.encode(sentence).ids)
    equal_ids(text.load(tmp_path), lambda sentence: theirs.encode(sentence).ids)
    for name in ("gpt4", "unigram"):
        with pytest.raises(UserError, match="the format of vocab"):
            text.save(trained[name], tmp_path / name / "vocab.json")


@pytest.mark.parametrize("name", ["bpe", "gpt4"])
def test_ranks(name: str, trained: dict[str, Any], tmp_path: Path):
    library = pytest.importorskip("tiktoken")
    ranks_file, settings_file = text.save(trained[name], tmp_path / "made.tiktoken")
    lines = (line.split() for line in ranks_file.read_bytes().splitlines())
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    settings = json.loads(settings_file.read_text(encoding="utf-8"))
    theirs = library.Encoding("made", mergeable_ranks=ranks, **settings)
    equal_ids(trained[name], theirs.encode_ordinary)
    equal_ids(text.load(ranks_file), theirs.encode_ordinary)


@pytest.mark.parametrize("name", ["wordpiece", "cased"])
def test_vocab_txt(name: str, trained: dict[str, Any], tmp_path: Path):
    library = pytest.importorskip("tokenizers")
    (path,) = text.save(trained[name], tmp_path / "vocab.txt")
    theirs = library.BertWordPieceTokenizer(str(path), lowercase=name == "wordpiece")
    equal_ids(trained[name], lambda sentence: theirs.encode(sentence).ids)
    equal_ids(text.load(path), lambda sentence: theirs.encode(sentence).ids)


@pytest.mark.parametrize("name", ["unigram", "nmt_nfkc", "bytes", "characters"])
def test_sentencepiece(name: str, trained: dict[str, Any], tmp_path: Path):
    library = pytest.importorskip("sentencepiece")
    (path,) = text.save(trained[name], tmp_path / "made.model")
    theirs = library.SentencePieceProcessor(model_file=str(path))
    equal_ids(trained[name], theirs.encode)
    equal_ids(text.load(path), theirs.encode)
