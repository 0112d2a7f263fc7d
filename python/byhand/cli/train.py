"""`byhand train`: learn from a text."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from byhand import backend
from byhand.cli import flags
from byhand.data import corpus_names, load_corpus
from byhand.errors import UserError
from byhand.presets import PRESETS, Preset, preset
from byhand.text import CharacterTokenizer
from byhand.training.config import Corpus, RunConfig
from byhand.training.run import Run
from byhand.training.settings import TrainingSettings, sensible_warmup

if TYPE_CHECKING:
    from byhand.training.trainer import Trainer

DESCRIPTION = """\
Train a GPT to predict the next character of a text.

CORPUS is one of
  python-docs   the reference text behind Python's help(): comes with Python (the default)
  shakespeare   Tiny Shakespeare, about 1 MB, downloaded once into your cache folder
  a file        any UTF-8 text; a few hundred kilobytes or more teach it something
"""

EPILOG = """\
what you get in the folder:
  config.json         the model, the tokenizer and every setting, to read
  best.safetensors    the weights with the lowest validation loss (what `byhand generate` uses)
  last.safetensors    the newest state, from which --resume goes on
  log.jsonl           one line for every step and every evaluation
  loss.png            both losses over the steps (needs matplotlib)
  samples/            what the model wrote at each evaluation

stopping and going on:
  Ctrl-C finishes the step, saves and ends; a second Ctrl-C ends at once. Then
  `byhand train --resume --out DIR` goes on, bit for bit as if it had never stopped.
  With a larger --steps it also goes on after the end.

reading the loss:
  It is the cross-entropy per character in nats. A model that knows nothing starts near the
  logarithm of the number of characters (4.2 for 65); below 2 the text looks like words. When the
  validation loss rises while the training loss falls, the model is learning the text by heart.
"""

# Flag, the setting it changes, and how to read and explain it.
FlagTable = tuple[tuple[str, str, Any, str], ...]
MODEL_FLAGS: FlagTable = (
    ("--layers", "num_layers", flags.count, "transformer blocks"),
    ("--heads", "num_heads", flags.count, "attention heads in a block; divides the width"),
    ("--width", "embedding_dim", flags.count, "numbers that describe a token in the model"),
    ("--context", "context_size", flags.count, "the most characters the model sees at once"),
    ("--dropout", "dropout", flags.number, "part of the activations zeroed while training"),
)
TRAINING_FLAGS: FlagTable = (
    ("--steps", "steps", flags.count, "updates of the weights"),
    ("--batch", "batch_size", flags.count, "windows of text in one forward and backward pass"),
    ("--accumulate", "accumulate", flags.count, "such passes added up for one update (1)"),
    ("--lr", "lr", flags.number, "the highest learning rate"),
    ("--min-lr", "min_lr", flags.number, "the learning rate at the end (a tenth of --lr)"),
    ("--warmup", "warmup", flags.count_or_none, "first steps, in which the learning rate rises "
     "(100, at most a tenth of --steps)"),
    ("--beta1", "beta1", flags.number, "AdamW: how slowly the mean gradient follows (0.9)"),
    ("--beta2", "beta2", flags.number, "AdamW: how slowly the mean square follows (0.99)"),
    ("--weight-decay", "weight_decay", flags.number, "AdamW: pull of the matrices to zero (0.1)"),
    ("--clip", "clip", flags.number, "cut the gradient to this norm; 0 never cuts (1.0)"),
    ("--eval-every", "eval_every", flags.count, "steps between evaluations, each of which saves"),
    ("--eval-batches", "eval_batches", flags.count, "batches of validation text used then (40)"),
    ("--sample-tokens", "sample_tokens", flags.count_or_none, "characters written then (200)"),
    ("--val-ratio", "val_ratio", flags.number, "the last part of the text, kept for validation "
     "(0.1)"),
    ("--seed", "seed", flags.count_or_none, "the same seed gives the same run (0)"),
)  # fmt: skip


def add_command(commands: Any) -> None:
    command = commands.add_parser(
        "train",
        help="learn from a text",
        description=DESCRIPTION,
        epilog=EPILOG + _presets(),
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
        "--resume", action="store_true", help="go on with the run in --out instead of a new one"
    )
    flags.add_checkpoint(command, "last")
    flags.add_device(command)
    flags.add_threads(command)
    sizes = command.add_argument_group(
        "the model",
        "The preset decides (they are listed at the end); these flags change single sizes.",
    )
    sizes.add_argument(
        "--preset",
        metavar="NAME",
        help=f"{', '.join(PRESETS)}: the sizes and what suits them (default: tiny)",
    )
    _add(sizes, MODEL_FLAGS)
    training = command.add_argument_group(
        "the training", "The default is in brackets; where there is none, the preset's."
    )
    _add(training, TRAINING_FLAGS)
    flags.add_precision(training, "float32")
    training.add_argument(
        "--recompute",
        action="store_true",
        help="keep less for the backward pass and compute it again: less memory, a third more "
        "time, the same numbers",
    )


def run(args: argparse.Namespace) -> int:
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


# --- a new run ---------------------------------------------------------------------------------


def _start(args: argparse.Namespace, folder: Run) -> int:
    from byhand.training.progress import Display
    from byhand.training.trainer import Trainer

    folder.require_new()
    name = args.corpus or "python-docs"
    text = load_corpus(name)
    tokenizer = CharacterTokenizer.from_text(text)
    chosen = preset(args.preset or "tiny")
    model = _model_sizes(chosen) | _given(args, MODEL_FLAGS)
    config = RunConfig(
        _model_config(model, len(tokenizer)),
        _training_settings(_training_numbers(chosen) | _given_training(args)),
        Corpus.of(name if name in corpus_names() else str(Path(name).resolve()), text),
        tokenizer,
    )
    flags.require_memory(config.model)
    # Everything that can be wrong is found before the folder is touched.
    trainer = Trainer(config, text, folder, Display(), args.device, args.recompute)
    folder.folder.mkdir(parents=True, exist_ok=True)
    with folder.only_writer():
        folder.require_new()
        folder.create(config)
        return _train(trainer)


def _model_config(sizes: dict[str, Any], vocabulary_size: int) -> Any:
    from byhand.models import GPTConfig

    width, heads = sizes["embedding_dim"], sizes["num_heads"]
    if width % heads:
        raise UserError(f"the width {width} cannot be shared evenly by {heads} heads")
    try:
        return GPTConfig(vocabulary_size=vocabulary_size, **sizes)
    except (ValueError, TypeError) as error:
        raise UserError(str(error).removeprefix("GPTConfig: ")) from None


def _training_settings(numbers: dict[str, Any]) -> TrainingSettings:
    numbers.setdefault("min_lr", numbers["lr"] / 10)
    numbers.setdefault("warmup", sensible_warmup(numbers["steps"]))
    return TrainingSettings(**numbers)


# --- an old run --------------------------------------------------------------------------------


def _resume(args: argparse.Namespace, folder: Run) -> int:
    from byhand.training.progress import Display
    from byhand.training.trainer import Trainer

    config = folder.read_config()
    _require_same(args, config)
    if args.steps is not None:
        training = dataclasses.replace(config.training, steps=args.steps)
        config = dataclasses.replace(config, training=training)
    with folder.only_writer():
        saved = folder.read_checkpoint(args.checkpoint, config)
        text = load_corpus(args.corpus or config.corpus.name)
        config.corpus.require(text)
        trainer = Trainer(config, text, folder, Display(), args.device, args.recompute)
        trainer.restore(saved, str(folder.checkpoint_path(args.checkpoint)))
        if trainer.step > config.training.steps:
            raise UserError(
                f"the run is at step {trainer.step} already, past --steps {config.training.steps}"
            )
        if trainer.finished():
            print(
                f"the run in {folder.folder} is finished: {trainer.step} steps; a larger --steps "
                "would go on"
            )
            return 0
        trainer.cut_log()
        if args.steps is not None:
            folder.write_config(config)
        print(f"going on from step {trainer.step}")
        return _train(trainer)


def _require_same(args: argparse.Namespace, config: RunConfig) -> None:
    """UserError if a flag says otherwise than the run; only --steps may."""
    wanted: dict[str, Any] = {}
    if args.preset is not None:
        chosen = preset(args.preset)
        wanted = _model_sizes(chosen) | _training_numbers(chosen)
    wanted |= _given(args, MODEL_FLAGS) | _given_training(args)
    has = config.model.to_dict() | config.training.to_json()
    names = {name: flag for flag, name, _, _ in MODEL_FLAGS + TRAINING_FLAGS}
    for name, flag in {**names, "precision": "--precision"}.items():
        if name in wanted and name != "steps" and wanted[name] != has[name]:
            raise UserError(
                f"the run in {args.out or _default_folder(args)} has {flag} {has[name]}, not "
                f"{wanted[name]}: a resumed run keeps its settings, only --steps may grow"
            )


# --- both --------------------------------------------------------------------------------------


def _train(trainer: Trainer) -> int:
    config, folder = trainer.config, trainer.run_folder.folder
    windows, settings = len(trainer.dataset), config.training
    trainer.display.say(
        f"text: {config.corpus.name}, {config.corpus.characters:,} characters "
        f"({len(config.tokenizer)} different); {len(trainer.validation):,} of them validate\n"
        f"model: {config.model.num_layers} layers, {config.model.num_heads} heads, width "
        f"{config.model.embedding_dim}, context {config.model.context_size}: "
        f"{trainer.model.num_parameters():,} parameters\n"
        f"training: {settings.steps} steps of {settings.batch_size * settings.accumulate} windows, "
        f"drawn from {windows:,}{_how(trainer)}; everything goes to {folder}\n"
    )
    stopped = trainer.run()
    if stopped is not None:
        print(
            f"stopped and saved at step {trainer.step} of {settings.steps}; go on with: "
            f"byhand train --resume --out {folder}"
        )
        sys.stdout.flush()
        return 128 + int(stopped)
    print(
        f"done: {trainer.step} steps in {_duration(trainer.seconds)}; lowest validation loss "
        f"{trainer.best_loss:.4f}, at step {trainer.best_step}\n"
        f"let it write: byhand generate {folder}\n"
        f"measure it on the whole validation text: byhand eval {folder}"
    )
    return 0


def _how(trainer: Trainer) -> str:
    """Words for device and precision, where they are not the usual ones."""
    precision = trainer.settings.precision
    if trainer.graph is not None:
        return " on the GPU" + ("" if precision == "float32" else f", in {precision}")
    if precision == "float32":
        return ""
    emulated = " (emulated: this processor has no instructions for it, so it is not faster)"
    return f", in {precision}" + ("" if backend.has_bf16() else emulated)


def _add(group: argparse._ArgumentGroup, table: FlagTable) -> None:
    for flag, name, kind, explained in table:
        group.add_argument(flag, dest=name, type=kind, metavar="N", help=explained)


def _given(args: argparse.Namespace, table: FlagTable) -> dict[str, Any]:
    values = {name: getattr(args, name) for _, name, _, _ in table}
    return {name: value for name, value in values.items() if value is not None}


def _given_training(args: argparse.Namespace) -> dict[str, Any]:
    chosen = {} if args.precision is None else {"precision": args.precision}
    return _given(args, TRAINING_FLAGS) | chosen


def _model_sizes(chosen: Preset) -> dict[str, Any]:
    return {
        "num_layers": chosen.layers,
        "num_heads": chosen.heads,
        "embedding_dim": chosen.width,
        "context_size": chosen.context,
        "dropout": chosen.dropout,
    }


def _training_numbers(chosen: Preset) -> dict[str, Any]:
    return {
        "steps": chosen.steps,
        "batch_size": chosen.batch,
        "lr": chosen.lr,
        "eval_every": chosen.eval_every,
    }


def _presets() -> str:
    columns = ("layers", "heads", "width", "context", "batch", "steps", "lr", "dropout")
    lines = ["", "presets:", f"{'':8}" + "".join(f"{name:>9}" for name in columns)]
    for name, chosen in PRESETS.items():
        numbers = "".join(f"{getattr(chosen, column):>9g}" for column in columns)
        lines.append(f"  {name:6}{numbers}   {chosen.about}")
    return "\n".join(lines) + "\n"


def _default_folder(args: argparse.Namespace) -> str:
    corpus = Path(args.corpus or "python-docs").stem
    return os.path.join("runs", f"{corpus}-{args.preset or 'tiny'}")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
