"""Building a trainer for a BERT from a run's configuration: it learns from the masked tokens of a
text, or from examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from byhand import registry
from byhand.data import (
    Examples,
    FramedWindows,
    LengthSampler,
    MaskedDataset,
    QuestionDataset,
    RandomSampler,
    TextSource,
    classified,
    read_examples,
    split,
    tagged,
)
from byhand.errors import UserError
from byhand.tasks import Classification, MaskedLM, Span, TokenClassification
from byhand.training.setup import optimizer_of, schedule_of
from byhand.training.trainer import Trainer

if TYPE_CHECKING:
    from byhand.data import Batch, Dataset, Sampler
    from byhand.models.bert import BertConfig
    from byhand.runs.config import RunConfig
    from byhand.runs.progress import Display
    from byhand.runs.run import Run
    from byhand.runs.settings import TrainingSettings
    from byhand.tasks.task import Task
    from byhand.text.tokenizer import Tokenizer

# What the examples of a kind are for -> the head of the model.
HEADS = {
    "masked_lm": "mlm",
    "classification": "classification",
    "token_classification": "tokens",
    "span": "span",
}


class EncoderData:
    """The training data of a BERT and the validation batches.

    Attributes:
        train: a data set.
        about: how much there is, in words.
        num_validation_batches: of `validation`.
    """

    def __init__(self, train: Dataset, held_out: Dataset, batches: Sequence[Any], about: str):
        self.train, self._held_out, self._batches = train, held_out, batches
        self.num_validation_batches, self.about = len(batches), about

    def validation(self) -> Iterable[Batch]:
        return (self._held_out.batch(part) for part in self._batches)


Parts = tuple[EncoderData, "Sampler", "Callable[[Any], Task]"]


def special_ids(tokenizer: Any, *roles: str) -> list[int]:
    """The ids of special tokens such as "mask". UserError if the tokenizer lacks one."""
    found = [getattr(tokenizer, f"{role}_token_id", None) for role in roles]
    for role, id in zip(roles, found, strict=True):
        if id is None:
            raise UserError(
                f"this model needs a tokenizer with a token [{role.upper()}], such as wordpiece"
            )
    return [int(id) for id in found if id is not None]


def encoder_trainer(
    config: RunConfig,
    tokenizer: Tokenizer,
    text: str | TextSource,
    run: Run | None = None,
    display: Display | None = None,
    device: str = "cpu",
    recompute: bool = False,
) -> Trainer:
    """`text_trainer` for a BERT. With the task "masked_lm" it learns from a text, else from
    examples in JSONL or TSV (`data.read_examples`).
    """
    settings = config.training
    source = TextSource.of(text)
    fixed = device != "cpu"  # a CUDA graph needs batches of one shape
    special_ids(tokenizer, "cls", "sep", "pad")
    if config.task == "masked_lm":
        data, sampler, make = _masked(config.model, tokenizer, source, settings)  # type: ignore[arg-type]
    else:
        examples = read_examples(source, config.task)
        parts = config.model, tokenizer, examples, settings, fixed
        data, sampler, make = _labelled(*parts)  # type: ignore[arg-type]
    model = registry.find("models", config.kind).Model(
        config.model, seed=settings.seed, precision=settings.precision, recompute=recompute
    )
    if device != "cpu":
        model.to(device)
    optimizer = optimizer_of(settings, model)
    return Trainer(
        make(model), data, sampler, optimizer, schedule_of(settings), settings, run, display
    )


def _masked(
    model: BertConfig, tokenizer: Any, text: TextSource, settings: TrainingSettings
) -> Parts:
    width, size = model.max_position_embeddings, settings.batch_size
    cls, sep, pad, mask = special_ids(tokenizer, "cls", "sep", "pad", "mask")
    other = [getattr(tokenizer, f"{role}_token_id") for role in ("unk", "bos", "eos")]
    special = [cls, sep, pad, *(id for id in other if id is not None)]
    most = max(1, round(0.2 * width))  # for one shape; 15 % of the width are chosen on average
    ids = tokenizer.encode_blocks(text.blocks(), text.characters)
    made, parts = [], split(ids, settings.val_ratio)
    for part, what in zip(parts, ("training", "validation"), strict=True):
        rows = FramedWindows(part, cls, sep, width, f"the {what} part of the text")
        made.append(
            MaskedDataset(rows, mask, model.vocab_size, special, seed=settings.seed, most=most)
        )
    train, held_out = made
    inside = width - 2
    count = (len(held_out.rows) - 1) // inside + 1
    taken = min(count, settings.eval_batches * size)
    starts = np.arange(taken) * count // taken * inside
    batches = [starts[i : i + size] for i in range(0, taken, size)]

    def task(model: Any) -> Task:
        samples = held_out if settings.sample_tokens else None
        return MaskedLM(model, tokenizer, samples)

    about = f"{len(parts[0]):,} tokens to learn from, {len(parts[1]):,} to validate"
    data = EncoderData(train, held_out, batches, about)
    return data, RandomSampler(len(train), size, settings.seed), task


def _labelled(
    model: BertConfig, tokenizer: Any, examples: Examples, settings: TrainingSettings, fixed: bool
) -> Parts:
    width, size = model.max_position_embeddings, settings.batch_size
    if examples.kind == "classification" and any(isinstance(e["label"], list) for e in examples):
        for e in examples:  # in both parts, also if one of them has single labels only
            e["label"] = e["label"] if isinstance(e["label"], list) else [e["label"]]
    order = np.random.default_rng(settings.seed).permutation(len(examples))
    held = max(1, int(len(examples) * settings.val_ratio))
    if held >= len(examples):
        raise UserError(
            f"{examples.name} has {len(examples)} examples, too few for training and validation"
        )
    parts = [
        Examples([examples[i] for i in np.sort(part)], examples.kind, examples.name)
        for part in (order[held:], order[:held])
    ]
    train, held_out = (_rows(model, tokenizer, part, width, fixed) for part in parts)
    if isinstance(held_out, QuestionDataset):
        batches = held_out.parts_of_questions(size)[: settings.eval_batches]
    else:
        count = min(len(held_out), settings.eval_batches * size)
        chosen = np.arange(count) * len(held_out) // count
        batches = [chosen[i : i + size] for i in range(0, count, size)]

    def task(model: Any) -> Task:
        samples = held_out if settings.sample_tokens else None
        if examples.kind == "span":
            return Span(model, held_out, samples=samples)
        if examples.kind == "token_classification":
            return TokenClassification(model, None, tokenizer, samples)
        return Classification(model, tokenizer, samples)

    of = "windows" if examples.kind == "span" else "examples"
    about = f"{len(train):,} {of} to learn from, {len(held_out):,} to validate"
    sampler = LengthSampler(train.lengths, min(size, len(train)), settings.seed, drop_last=True)
    return EncoderData(train, held_out, batches, about), sampler, task


def _rows(model: BertConfig, tokenizer: Any, examples: Examples, width: int, fixed: bool) -> Any:
    names: Sequence[str] = model.labels
    if examples.kind == "span":
        return QuestionDataset(examples, tokenizer, width, fixed=fixed)
    if examples.kind == "token_classification":
        return tagged(examples, tokenizer, width, names, fixed)
    return classified(examples, tokenizer, width, names, fixed)
