"""`byhand eval`: the loss of a trained model on a whole text."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from byhand.cli import flags
from byhand.data import load_corpus, split
from byhand.errors import UserError

if TYPE_CHECKING:
    from byhand.training.load import Trained

DESCRIPTION = """\
The loss per character of a trained model, every character predicted once.

The text is cut into windows as long as the model's context, laid end to end; a character is
predicted from those before it in its window. By default that is the validation part of the text
the model learned from, which it has not seen; for another --corpus, all of it.
"""


def add_command(commands: Any) -> None:
    command = commands.add_parser(
        "eval",
        help="measure a trained model on a whole text",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.set_defaults(run=run)
    flags.add_run(command)
    command.add_argument(
        "--corpus",
        metavar="CORPUS",
        help="another text, named as for `byhand train` (default: the one it learned from)",
    )
    command.add_argument(
        "--split",
        choices=("validation", "train", "all"),
        help="the part of the text (default: validation; all for another text)",
    )
    command.add_argument(
        "--context",
        type=flags.count,
        metavar="N",
        help="characters in a window, at most the model's context (default: just that)",
    )
    command.add_argument(
        "--batch",
        type=flags.count,
        default=32,
        metavar="N",
        help="windows computed at once (default: 32)",
    )
    flags.add_precision(command, "as in training")
    flags.add_device(command)
    flags.add_threads(command)


def run(args: argparse.Namespace) -> int:
    from byhand.training.evaluate import mean_loss
    from byhand.training.load import load

    flags.require_device(args.device)
    flags.use_threads(args.threads)
    trained = load(args.run_folder, args.checkpoint, args.precision, args.device)
    longest = trained.config.model.context_size
    context = args.context or longest
    if context > longest:
        raise UserError(f"--context {context} is longer than the model's context of {longest}")
    ids, part = _text(args, trained)
    loss = mean_loss(trained.model, ids, context, args.batch)
    assert loss is not None  # only a stop request leaves it out
    if not math.isfinite(loss):
        raise UserError(f"the loss is {loss}: the model's weights are damaged")
    print(
        f"loss {loss:.4f} nats per character ({loss / math.log(2):.4f} bits, perplexity "
        f"{math.exp(loss):.2f}) over {len(ids) - 1:,} characters: {part}, step {trained.step}, "
        f"context {context}"
    )
    return 0


def _text(args: argparse.Namespace, trained: Trained) -> tuple[Any, str]:
    """The ids to evaluate on, and words for what they are."""
    corpus = trained.config.corpus
    text = load_corpus(args.corpus or corpus.name)
    try:
        corpus.require(text)
        own = True
    except UserError:
        if args.corpus is None:
            raise
        own = False
    ids = trained.config.tokenizer.encode(text)
    part = args.split or ("validation" if own else "all")
    name = args.corpus or corpus.name
    if part == "all":
        return ids, f"all of {name}"
    train, validation = split(ids, trained.config.training.val_ratio)
    return (train if part == "train" else validation), f"the {part} part of {name}"
