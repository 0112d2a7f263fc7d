"""What `byhand train --model bert` takes from the data: the tokenizer, the task, and the fields of
the model that follow from them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from byhand.data import TextSource, is_examples, labels_in, read_examples, texts_of
from byhand.errors import UserError
from byhand.text import make_tokenizer

if TYPE_CHECKING:
    from byhand.text.tokenizer import Tokenizer

DEFAULT_TOKENIZER = "wordpiece:4096"


def parts_of(named: str | None, text: TextSource) -> tuple[Tokenizer, str, dict[str, Any]]:
    """The tokenizer (`named` is the flag --tokenizer), the task and fields of the configuration of
    a BERT that learns from a text or from examples.
    """
    from byhand.training.encoders import HEADS, special_ids

    task, fields = "masked_lm", {}
    texts: Iterable[str] = text.blocks()
    if is_examples(text.name):
        examples = read_examples(text)
        task, texts = examples.kind, (f"{one}\n" for one in texts_of(examples))
        if task != "span":
            labels = labels_in(examples)
            if len(labels) < 2:
                raise UserError(f"{text.name} has one label only, {''.join(labels)!r}")
            fields = {"labels": tuple(labels), "num_labels": len(labels)}
    tokenizer = make_tokenizer(named or DEFAULT_TOKENIZER, texts)
    roles = ("cls", "sep", "pad", "mask") if task == "masked_lm" else ("cls", "sep", "pad")
    pad = special_ids(tokenizer, *roles)[2]
    return tokenizer, task, {**fields, "head": HEADS[task], "pad_token_id": pad}


def require_task(task: str, text: TextSource) -> None:
    """UserError unless the text is what a model with this task learns from."""
    given = read_examples(text).kind if is_examples(text.name) else "masked_lm"
    if given != task:
        raise UserError(
            f"{text.name} is for the task {given}, and the model of --from has the task {task}"
        )
