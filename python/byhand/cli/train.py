"""`byhand train`: learn from a text."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from byhand import backend, registry
from byhand.cli import flags
from byhand.config import add_flags, flag_of, given
from byhand.data import TextData, absolute_name, open_corpus
from byhand.errors import UserError
from byhand.models import preset
from byhand.runs.config import Corpus, RunConfig, TokenizerId
from byhand.runs.files import resume_command
from byhand.runs.run import Run
from byhand.runs.settings import TrainingSettings, sensible_warmup
from byhand.text import kind_named, make_tokenizer

if TYPE_CHECKING:
    from byhand.models.preset import Preset
    from byhand.training.trainer import Trainer

DEFAULT_MODEL = "gpt"

DESCRIPTION = """\
Train a model to predict the next token of a text.

CORPUS is one of
  python-docs   the reference text behind Python's help(): comes with Python (the default)
  shakespeare   Tiny Shakespeare, about 1 MB, downloaded once into your cache folder
  a file        any UTF-8 text; a few hundred kilobytes or more are enough to learn from
"""

EPILOG = """\
what you get in the folder:
  config.json         the model and every setting, to read
  tokenizer.json      what the token ids mean
  best.safetensors    the weights with the lowest validation loss (what `byhand generate` uses)
  last.safetensors    the newest state, which --resume continues
  log.jsonl           one line for every step and every evaluation
  loss.png            both losses over the steps (needs matplotlib)
  samples/            what the model wrote at each evaluation

stopping and resuming:
  Ctrl-C finishes the step, saves and ends; a second Ctrl-C ends at once. Then
  `byhand train --resume --out DIR` continues, bit for bit as if it had never stopped.
  With a larger --steps it also continues a finished run; the learning rate then follows the
  schedule of so many steps, so it rises again.

reading the loss:
  It is the cross-entropy per token in nats. A model that knows nothing starts near the logarithm
  of the vocabulary's size (4.2 for 65 characters); below 2 a text of characters looks like words.
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
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.set_defaults(run=run)
    command.add_argument(
        "corpus", nargs="?", metavar="CORPUS", help="what to learn from (default: python-docs)"
    )
    command.add_argument(
        "--out", metavar="DIR", help="the run's folder (default: runs/CORPUS-PRESET)"
    )
    command.add_argument(
        "--resume", action="store_true", help="continue the run in --out instead of a new one"
    )
    flags.add_checkpoint(command, "last")
    flags.add_device(command)
    flags.add_threads(command)
    model = command.add_argument_group(
        f"the model ({kind})",
        "The preset decides (they are listed at the end); the other flags change single sizes.",
    )
    model.add_argument(
        "--model",
        metavar="KIND",
        help=f"the kind of model; --help shows its flags (default: {DEFAULT_MODEL})",
    )
    model.add_argument(
        "--preset",
        metavar="NAME",
        help=f"{', '.join(page.PRESETS)}: sizes and the settings that suit them (default: "
        f"{next(iter(page.PRESETS))})",
    )
    model.add_argument(
        "--tokenizer",
        metavar="KIND",
        help="what the tokens are: char, the characters of the text (default: char)",
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


def run(args: argparse.Namespace) -> int:
    _require_language_model(args.model or DEFAULT_MODEL)
    flags.require_device(args.device)
    flags.use_threads(args.threads)
    folder = Run(args.out or _default_folder(args))
    try:
        return _resume(args, folder) if args.resume else _start(args, folder)
    except MemoryError as error:
        if not backend.is_cupy(error):
            raise
        raise UserError(
            f"the GPU has not enough memory for this ({str(error).rstrip('.')}): a smaller --batch "
            "with a larger --accumulate needs less, and so does --recompute"
        ) from None


def _require_language_model(kind: str) -> None:
    """UserError if there is no such kind of model, or it does not learn from text."""
    if not _reads_tokens(registry.find("models", kind)):
        pages = {name: registry.find("models", name) for name in registry.kinds("models")}
        known = ", ".join(name for name, page in pages.items() if _reads_tokens(page))
        raise UserError(f"a model of kind {kind!r} does not learn from text: choose from {known}")


def _reads_tokens(page: ModuleType) -> bool:
    names = {field.name for field in dataclasses.fields(page.Config)}
    return names >= {"vocabulary_size", "context_size"}


# --- A new run -----------------------------------------------------------------------------------


def _start(args: argparse.Namespace, folder: Run) -> int:
    from byhand.runs.progress import Display
    from byhand.training.setup import text_trainer

    folder.require_new()
    kind = args.model or DEFAULT_MODEL
    page = registry.find("models", kind)
    chosen = preset.find(kind, args.preset or next(iter(page.PRESETS)))
    name = args.corpus or "python-docs"
    text = open_corpus(name)
    tokenizer = make_tokenizer(args.tokenizer or "char", text.blocks())
    config = RunConfig(
        kind,
        _model_config(page, dict(chosen.model) | given(args, page.Config), len(tokenizer)),
        _training_settings(dict(chosen.training) | given(args, TrainingSettings)),
        Corpus.of(absolute_name(name), text),
        TokenizerId.of(tokenizer),
    )
    flags.require_memory(config.model)
    # Every mistake is found before the folder is made.
    trainer = text_trainer(config, tokenizer, text, folder, Display(), args.device, args.recompute)
    folder.folder.mkdir(parents=True, exist_ok=True)
    with folder.only_writer():
        folder.require_new()
        folder.create(config, tokenizer)
        return _train(trainer, config, folder)


def _model_config(page: ModuleType, sizes: dict[str, Any], vocabulary_size: int) -> Any:
    try:
        return page.Config(vocabulary_size=vocabulary_size, **sizes)
    except (ValueError, TypeError) as error:
        raise flags.as_flags(error, [page.Config]) from None


def _training_settings(numbers: dict[str, Any]) -> TrainingSettings:
    numbers.setdefault("min_lr", numbers["lr"] / 10)
    numbers.setdefault("warmup", sensible_warmup(numbers["steps"]))
    try:
        return TrainingSettings(**numbers)
    except UserError as error:
        raise flags.as_flags(error, [TrainingSettings]) from None


# --- A resumed run -------------------------------------------------------------------------------


def _resume(args: argparse.Namespace, folder: Run) -> int:
    from byhand.runs.progress import Display
    from byhand.training.resume import changes
    from byhand.training.setup import text_trainer

    config = folder.read_config()
    tokenizer = folder.read_tokenizer()
    corpus = config.data
    if config.task != "language_model" or tokenizer is None or not isinstance(corpus, Corpus):
        raise UserError(f"the run in {folder.folder} was not made by `byhand train`")
    _require_same(args, config)
    if args.steps is not None:
        config = dataclasses.replace(config, training=config.training.replace(steps=args.steps))
    with folder.only_writer():
        saved = folder.read_checkpoint(args.checkpoint, config)
        corpus, text = corpus.reopen(args.corpus, resume_command(folder.folder, "NEWPATH"))
        config = dataclasses.replace(config, data=corpus)
        trainer = text_trainer(
            config, tokenizer, text, folder, Display(), args.device, args.recompute
        )
        trainer.restore(saved, str(folder.checkpoint_path(args.checkpoint)))
        if trainer.step > config.training.steps:
            raise UserError(
                f"the run is at step {trainer.step} already, past --steps {config.training.steps}"
            )
        notes = changes(trainer, saved)
        # With the new --steps and the new place of the text, in the present format.
        folder.write_config(config, tokenizer)
        if trainer.finished():
            print(
                f"the run in {folder.folder} is finished: {trainer.step} steps; a larger --steps "
                "would continue it"
            )
            return 0
        trainer.cut_log()
        print(f"continuing from step {trainer.step}", *notes, sep="\n")
        return _train(trainer, config, folder)


def _require_same(args: argparse.Namespace, config: RunConfig) -> None:
    """UserError if a flag differs from the run; only --steps may."""
    page = registry.find("models", config.kind)
    where = f"the run in {args.out or _default_folder(args)}"
    _require_equal(where, "--model", config.kind, args.model)
    assert config.tokenizer is not None
    tokenizer = args.tokenizer and kind_named(args.tokenizer)
    _require_equal(where, "--tokenizer", config.tokenizer.kind, tokenizer)
    chosen = preset.find(config.kind, args.preset) if args.preset else None
    model = dict(chosen.model) if chosen else {}
    training = dict(chosen.training) if chosen else {}
    for cls, has, wanted in (
        (page.Config, config.model, model | given(args, page.Config)),
        (TrainingSettings, config.training, training | given(args, TrainingSettings)),
    ):
        for name, value in wanted.items():
            if name != "steps":
                _require_equal(where, flag_of(cls, name), getattr(has, name), value)


def _require_equal(where: str, flag: str, has: object, wanted: object) -> None:
    if wanted is not None and wanted != has:
        raise UserError(
            f"{where} has {flag} {has}, not {wanted}: a resumed run keeps its settings, only "
            "--steps may grow"
        )


# --- Both ----------------------------------------------------------------------------------------


def _train(trainer: Trainer, config: RunConfig, run: Run) -> int:
    settings, folder = config.training, run.folder
    corpus, data = config.data, trainer.data
    assert isinstance(corpus, Corpus)
    assert isinstance(data, TextData)
    trainer.say(
        f"text: {corpus.name}, {corpus.characters:,} characters; {len(data.training_ids):,} tokens "
        f"to learn from, {len(data.validation_ids):,} to validate\n"
        f"model: {config.kind}, {_sizes(config)}: {trainer.model.num_parameters():,} parameters\n"
        f"training: {settings.steps} steps of {settings.batch_size * settings.accumulate} windows, "
        f"drawn from {len(data.train):,}{_how(trainer)}; everything goes to {folder}\n"
    )
    stopped = trainer.run()
    if stopped is not None:
        print(
            f"stopped and saved at step {trainer.step} of {settings.steps}; continue with: "
            f"byhand train --resume --out {folder}"
        )
        sys.stdout.flush()
        return 128 + int(stopped)
    print(
        f"done: {trainer.step} steps in {_duration(trainer.seconds)}; lowest validation loss "
        f"{trainer.best_loss:.4f}, at step {trainer.best_step}\n"
        f"generate text: byhand generate {folder}\n"
        f"measure it on the whole validation text: byhand eval {folder}"
    )
    return 0


def _sizes(config: RunConfig) -> str:
    """The vocabulary and the fields that have a flag of their own: "layers 4, heads 4"."""
    cls = type(config.model)
    shown = [f"vocabulary {getattr(config.model, 'vocabulary_size', 0)}"]
    for name, value in config.model.to_dict().items():
        flag = flag_of(cls, name)
        if flag != "--" + name.replace("_", "-"):
            shown.append(f"{flag.removeprefix('--')} {value}")
    return ", ".join(shown)


def _how(trainer: Trainer) -> str:
    """Words for the device and the precision, unless they are the defaults."""
    precision = trainer.settings.precision
    if trainer.on_gpu:
        return " on the GPU" + ("" if precision == "float32" else f", in {precision}")
    if precision == "float32":
        return ""
    emulated = " (emulated: this processor has no instructions for it, so it is not faster)"
    return f", in {precision}" + ("" if backend.has_bf16() else emulated)


def _model_fields(page: ModuleType) -> list[str]:
    """The fields that have flags; the vocabulary's size comes from the tokenizer."""
    fields = dataclasses.fields(page.Config)
    return [field.name for field in fields if field.name != "vocabulary_size"]


def _presets(page: ModuleType) -> str:
    """The table of presets at the end of the help."""
    rows = {name: _by_flag(page, chosen) for name, chosen in page.PRESETS.items()}
    columns = list(dict.fromkeys(flag for row in rows.values() for flag in row))
    lines = ["", "presets:", f"{'':8}" + "".join(f"{flag:>11}" for flag in columns)]
    for name, row in rows.items():
        values = "".join(f"{row.get(flag, '')!s:>11}" for flag in columns)
        lines.append(f"  {name:6}{values}   {page.PRESETS[name].about}")
    return "\n".join(lines) + "\n"


def _by_flag(page: ModuleType, chosen: Preset) -> dict[str, Any]:
    both = ((page.Config, chosen.model), (TrainingSettings, chosen.training))
    return {
        flag_of(cls, name).removeprefix("--"): value
        for cls, values in both
        for name, value in values.items()
    }


def _default_folder(args: argparse.Namespace) -> str:
    corpus = Path(args.corpus or "python-docs").stem
    first = next(iter(registry.find("models", args.model or DEFAULT_MODEL).PRESETS))
    kind = f"-{args.model}" if args.model not in (None, DEFAULT_MODEL) else ""
    return os.path.join("runs", f"{corpus}{kind}-{args.preset or first}")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
