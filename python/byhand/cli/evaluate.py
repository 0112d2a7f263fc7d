"""`byhand eval`: the loss of a trained model on a whole text."""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from byhand.cli import flags
from byhand.data import consecutive_windows, open_corpus, split
from byhand.data.windows import num_batches
from byhand.errors import UserError
from byhand.runs.config import Corpus
from byhand.runs.hints import command_line
from byhand.runs.run import Run

if TYPE_CHECKING:
    from byhand.runs.load import Trained
    from byhand.text import Tokenizer

DESCRIPTION = """\
The loss per token of a trained model, every token of a text predicted once.

The text is cut into windows as long as the model's context, laid end to end; a token is predicted
from those before it in its window. By default the text is the validation part of what the model
was trained on, which it has not seen; of another --corpus it is all.
"""


def add_command(commands: Any) -> None:
    command = commands.add_parser(
        "eval",
        help="measure a trained model on a whole text",
        description=DESCRIPTION,
    )
    command.set_defaults(run=run)
    flags.add_run(command)
    command.add_argument(
        "--corpus",
        type=flags.text,
        metavar="CORPUS",
        help="another text, named as for `byhand train` (default: the one it was trained on)",
    )
    command.add_argument(
        "--split",
        choices=("validation", "train", "all"),
        help="the part of the text (default: validation; all for another text)",
    )
    command.add_argument(
        "--context",
        type=flags.positive_int,
        metavar="N",
        help="tokens in a window, at most the model's context (default: the context)",
    )
    command.add_argument(
        "--batch",
        type=flags.positive_int,
        default=32,
        metavar="N",
        help="windows computed at once (default: 32)",
    )
    flags.add_precision(command, "as in training")
    flags.add_device(command)
    flags.add_threads(command)


def run(args: argparse.Namespace) -> int:
    from byhand.runs.load import load_trained
    from byhand.runs.progress import Display
    from byhand.tasks import LanguageModel
    from byhand.training.evaluate import evaluate

    flags.require_device(args.device)
    flags.use_threads(args.threads)
    trained = load_trained(args.run_folder, args.checkpoint, args.precision, args.device)
    if trained.tokenizer is None:
        raise UserError(f"the model in {args.run_folder} does not predict text")
    if trained.config.task != "language_model":
        return _of_encoder(args, trained, trained.tokenizer)
    longest = trained.config.model.context_size  # type: ignore[attr-defined]
    context = args.context or longest
    if context > longest:
        raise UserError(f"--context {context} is longer than the model's context of {longest}")
    ids, part = _text(args, trained, trained.tokenizer)
    task = LanguageModel(trained.model, trained.tokenizer)
    batches = consecutive_windows(ids, context, args.batch)
    with Display(stderr=True) as display:
        shown = display.evaluating(batches, num_batches(len(ids), context, args.batch))
        metrics = evaluate(task, shown)
    assert metrics is not None  # it is None only after a stop request
    loss = metrics["loss"]
    if not math.isfinite(loss):
        path = Run(args.run_folder).checkpoint_path(args.checkpoint)
        raise UserError(
            f"the loss is {loss}: the weights in {path} are so large that they overflow; train "
            "again, with a lower --lr"
        )
    unit = task.loss_unit.removeprefix("nats per ")
    print(
        f"loss {loss:.4f} {task.loss_unit} ({loss / math.log(2):.4f} bits, perplexity "
        f"{_perplexity(loss)}) over {len(ids) - 1:,} {unit}s: {part}, step {trained.step}, "
        f"context {context}"
    )
    prefix = "loss_per_"
    rates = {n.removeprefix(prefix): v for n, v in metrics.items() if n.startswith(prefix)}
    if any(rate != loss for rate in rates.values()):
        print("in nats: " + ", ".join(f"{rate:.4f} per {of}" for of, rate in rates.items()))
    return 0


def _of_encoder(args: argparse.Namespace, trained: Trained, tokenizer: Tokenizer) -> int:
    """All metrics of a BERT on the whole validation part of what it was trained on."""
    from byhand.runs.progress import Display
    from byhand.training.encoders import encoder_trainer
    from byhand.training.evaluate import evaluate

    for flag in ("corpus", "split", "context"):
        if getattr(args, flag) is not None:
            raise UserError(f"--{flag} is for models that predict the next token")
    corpus = trained.config.data
    assert isinstance(corpus, Corpus)
    command = command_line("eval", Path(args.run_folder), "--corpus", "NEWPATH")
    text = corpus.reopen(None, command)[1]
    settings = trained.config.training.replace(eval_batches=10**6, batch_size=args.batch)
    config = dataclasses.replace(trained.config, training=settings)
    trainer = encoder_trainer(config, tokenizer, text, device=args.device)
    trainer.model.load_state_dict(trained.model.state_dict())
    trainer.model.precision = trained.model.precision
    with Display(stderr=True) as display:
        batches = trainer.data.validation()
        total = trainer.data.num_validation_batches  # type: ignore[attr-defined]
        metrics = evaluate(trainer.task, display.evaluating(batches, total))
    assert metrics is not None
    shown = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in metrics.items())
    print(f"{shown}: the validation part of {corpus.name}, step {trained.step}")
    return 0


def _perplexity(loss: float) -> str:
    """e^loss, in words where no float can hold it."""
    try:
        value = math.exp(loss)
    except OverflowError:
        return "over 1e+308"
    return f"{value:.2f}" if value < 1e6 else f"{value:.3g}"


def _text(args: argparse.Namespace, trained: Trained, tokenizer: Tokenizer) -> tuple[Any, str]:
    """The ids to evaluate on, and a description of them."""
    corpus = trained.config.data
    assert isinstance(corpus, Corpus)  # a language model learns from one
    own = True
    if args.corpus is None:
        command = command_line("eval", Path(args.run_folder), "--corpus", "NEWPATH")
        text = corpus.reopen(None, command)[1]
    else:
        text = open_corpus(args.corpus)
        own = (text.sha256, text.characters) == (corpus.sha256, corpus.characters)
    ids = tokenizer.encode_blocks(text.blocks(), text.characters)
    part = args.split or ("validation" if own else "all")
    name = args.corpus or corpus.name
    if part == "all":
        return ids, f"all of {name}"
    train, validation = split(ids, trained.config.training.val_ratio)
    return (train if part == "train" else validation), f"the {part} part of {name}"
