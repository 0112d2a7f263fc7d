"""The lengths of tokens add up to the length of the text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from byhand import text
from byhand.tasks import LanguageModel
from byhand.text.formats.sentencepiece_write import serialise
from byhand.text.lengths import token_lengths
from byhand.text.samples import SAMPLES
from byhand.text.tokenizer import plain_ids
from tests.text.made_files import pieces

TEXT = " ".join(SAMPLES.values())


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path: Path = tmp_path_factory.mktemp("lengths") / "bytes.model"
    found = pieces()
    found.remove_extra_whitespaces = False
    path.write_bytes(serialise(found))
    return {
        "character": text.CharacterTokenizer.from_text(TEXT),
        "bpe": text.BPETokenizer.train(TEXT, 400, special_tokens=["<|endoftext|>"]),
        "unigram": text.UnigramTokenizer.train(TEXT, 900, character_coverage=1.0),
        "bytes": text.load(path),
        "lossless": text.WordTokenizer.train([TEXT, *SAMPLES.values()], lossless=True),
    }


@pytest.mark.parametrize("name", ["character", "bpe", "unigram", "bytes", "lossless"])
def test_lengths_add_up(name: str, tokenizers: dict[str, Any]):
    tokenizer = tokenizers[name]
    characters, data = token_lengths(tokenizer)
    assert len(characters) == len(data) == len(tokenizer)
    for sentence in (*SAMPLES.values(), TEXT):
        ids = plain_ids(tokenizer, sentence)
        # The space that SentencePiece's models put before a text is not in it.
        before = int(name in ("unigram", "bytes"))
        assert characters[ids].sum() == len(sentence) + before
        assert data[ids].sum() == len(sentence.encode()) + before


def test_special_and_unknown_tokens_have_no_length():
    made: Any = text.WordPieceTokenizer.train("the cat sat " * 9, 40)
    characters, _ = token_lengths(made)
    assert characters[[made.unk_token_id, made.cls_token_id]].tolist() == [0, 0]
    assert characters[plain_ids(made, "the cat")].sum() >= len("thecat")


def test_the_losses_of_a_task():
    """The same sum of losses, divided by tokens, characters and bytes."""

    class Uniform:
        def loss(self, ids: Any, targets: Any, scale: Any) -> Any:
            return np.float32(2.5 * targets.size * scale)

    made = text.BPETokenizer.train("héllo wörld " * 9, 280)
    task: Any = LanguageModel.__new__(LanguageModel)
    task.model, task.tokenizer, task._lengths = Uniform(), made, None
    task.on_device = lambda batch: batch
    ids = plain_ids(made, "héllo wörld héllo")
    found = task.metrics({"ids": ids[None], "targets": ids[None]})
    assert found["loss"] == (2.5 * len(ids), len(ids))
    assert found["loss_per_character"] == (2.5 * len(ids), 17)
    assert found["loss_per_byte"] == (2.5 * len(ids), 20)
