"""`byhand train`, learn from a text: its flags and its help."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from types import ModuleType
from typing import Any

from byhand import registry
from byhand.cli import flags
from byhand.cli.start import DEFAULT_MODEL, run
from byhand.config import add_flags, flag_of
from byhand.models.preset import Preset
from byhand.runs.settings import TrainingSettings

DESCRIPTION = """\
Train a model on a text: to predict the next token, or with --model bert tokens that were masked.

CORPUS is one of
  python-docs   the reference text behind Python's help(): comes with Python (the default)
  shakespeare   Tiny Shakespeare, about 1 MB, downloaded once into your cache folder
  a file        any UTF-8 text; a few hundred kilobytes or more are enough to learn from
  examples      with --model bert: a .jsonl file (an object on each line) or a .tsv file (its first
                line names the columns) with text and label (in .jsonl also a list of labels),
                tokens and tags, or question, context and answer
"""

EPILOG = """\
what you get in the folder:
  config.json         the model and every setting, to read
  tokenizer.json      what the token ids mean
  best.safetensors    the weights with the lowest validation loss (what `byhand generate` uses)
  last.safetensors    the newest state, which --resume continues
  log.jsonl           one line for every step and every evaluation
  log.csv             the same as a table, written at the end
  loss.png            both losses over the steps (needs matplotlib)
  samples/            what the model wrote at each evaluation

stopping and resuming:
  Ctrl-C finishes the step, saves and ends, and so do SIGTERM and closing the terminal. A second
  Ctrl-C ends at once: the steps since the last checkpoint are lost, the checkpoint is not.
  `byhand train --resume --out DIR` continues, bit for bit as if it had never stopped.
  With a larger --steps it also continues a finished run; the learning rate then follows the
  schedule of so many steps, so it rises again.

starting from a trained model:
  `byhand train other.txt --from DIR --lr 1e-4 --out NEW` starts a new run from the weights of the
  run in DIR, with its model, its tokenizer and its settings where no flag says otherwise.

reading the loss:
  It is the cross-entropy per token in nats. A model that knows nothing starts near the logarithm
  of the vocabulary's size (4.2 for 65 characters); below 2 a text of characters looks like words.
  With other tokens it is also given per character and per byte, to compare tokenizers by.
  When the validation loss rises while the training loss falls, the model overfits.
"""


def model_in(arguments: Sequence[str]) -> str:
    """The kind of model that a command line names: the flags of `byhand train` depend on it."""
    named = [value for flag, value in pairwise(arguments) if flag == "--model"]
    named += [flag.partition("=")[2] for flag in arguments if flag.startswith("--model=")]
    return named[-1] if named and named[-1] in registry.kinds("models") else DEFAULT_MODEL


def add_command(commands: Any, kind: str = DEFAULT_MODEL) -> None:
    """Adds the command with the flags of this kind of model."""
    page = registry.find("models", kind)
    command = commands.add_parser(
        "train",
        help="learn from a text",
        description=DESCRIPTION,
        epilog=EPILOG + _presets(page),
    )
    command.set_defaults(run=run)
    command.add_argument(
        "corpus",
        nargs="?",
        type=flags.text,
        metavar="CORPUS",
        help="what to learn from (default: python-docs; with --from, what that run learned from)",
    )
    command.add_argument(
        "--out",
        type=flags.text,
        metavar="DIR",
        help="the run's folder (default: runs/CORPUS-PRESET)",
    )
    origin = command.add_mutually_exclusive_group()
    origin.add_argument(
        "--resume", action="store_true", help="continue the run in --out instead of a new one"
    )
    origin.add_argument(
        "--from",
        dest="source",
        type=flags.text,
        metavar="DIR",
        help="start from the weights of the run in this folder, with a new optimizer state",
    )
    flags.add_checkpoint(command, None, "last for --resume, best for --from")
    flags.add_device(command)
    flags.add_threads(command)
    model = command.add_argument_group(
        f"the model ({kind})",
        "The preset decides (they are listed at the end); the other flags change single sizes.",
    )
    model.add_argument(
        "--model",
        type=flags.text,
        metavar="KIND",
        help=f"the kind of model; --help shows its flags (default: {DEFAULT_MODEL})",
    )
    model.add_argument(
        "--preset",
        type=flags.text,
        metavar="NAME",
        help=f"{', '.join(page.PRESETS)}: sizes and the settings that suit them (default: "
        f"{next(iter(page.PRESETS))})",
    )
    model.add_argument(
        "--tokenizer",
        type=flags.text,
        metavar="KIND",
        help="what the tokens are: char, the characters of the text; word; bpe, wordpiece or "
        "unigram, with the size of the vocabulary as in bpe:4096, learned from the text; or a file "
        "with a tokenizer (default: char, with --model bert wordpiece:4096)",
    )
    add_flags(model, page.Config, *_model_fields(page))
    training = command.add_argument_group(
        "the training", "The default is in brackets; where there is none, the preset's."
    )
    add_flags(training, TrainingSettings)
    training.add_argument(
        "--recompute",
        action="store_true",
        help="keep less for the backward pass and compute it again: less memory, a third more "
        "time, the same numbers",
    )


def _model_fields(page: ModuleType) -> list[str]:
    """The fields that have flags; some come from the data, as the vocabulary's size."""
    from_data = {"vocabulary_size", *getattr(page, "FROM_DATA", ())}
    fields = dataclasses.fields(page.Config)
    names = {field.name: {field.name, *field.metadata["aliases"]} for field in fields}
    return [name for name, accepted in names.items() if not accepted & from_data]


def _presets(page: ModuleType) -> str:
    """The table of presets at the end of the help."""
    rows = {name: _by_flag(page, chosen) for name, chosen in page.PRESETS.items()}
    columns = {flag: max(11, len(flag) + 2) for row in rows.values() for flag in row}
    first = max(6, *map(len, rows))
    headings = "".join(f"{flag:>{width}}" for flag, width in columns.items())
    lines = ["", "presets:", f"{'':{first + 2}}{headings}"]
    for name, row in rows.items():
        values = "".join(f"{row.get(flag, '')!s:>{width}}" for flag, width in columns.items())
        lines.append(f"  {name:{first}}{values}   {page.PRESETS[name].about}")
    return "\n".join(lines) + "\n"


def _by_flag(page: ModuleType, chosen: Preset) -> dict[str, Any]:
    both = ((page.Config, chosen.model), (TrainingSettings, chosen.training))
    return {
        flag_of(cls, name).removeprefix("--"): value
        for cls, values in both
        for name, value in values.items()
        if not isinstance(value, dict)  # too long for a table
    }
