"""`byhand tokenizer eval`: a text in pieces gives the numbers of the whole."""

from __future__ import annotations

import pytest

from byhand import text
from byhand.errors import UserError
from byhand.text.evaluate import evaluate_text, longest_tokens

TEXT = "the cat sat on the mat\nand thecatsatonthemat again  and again " * 40


@pytest.mark.parametrize("size", [1, 3, 50, 1000, 10**6])
def test_pieces_do_not_divide_words(size: int):
    made = text.BPETokenizer.train(TEXT, 300)
    blocks = [TEXT[i : i + size] for i in range(0, len(TEXT), size)]
    found = evaluate_text(made, blocks)
    assert found["words"] == len(TEXT.split())
    assert found["characters"] == found["bytes"] == len(TEXT)
    # Runs of spaces may be divided elsewhere.
    assert found["tokens"] == pytest.approx(len(made.encode(TEXT)), rel=0.02)


def test_an_empty_text_and_the_longest_tokens():
    made = text.BPETokenizer.train(TEXT, 300, special_tokens=["<|endoftext|>"])
    with pytest.raises(UserError, match="is empty"):
        evaluate_text(made, [])
    lengths = [len(token) for _, token in longest_tokens(made)]
    assert lengths == sorted(lengths, reverse=True)
    assert "<|endoftext|>" not in {token for _, token in longest_tokens(made)}
