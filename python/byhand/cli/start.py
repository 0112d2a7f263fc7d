"""What `byhand train` does: start a run, from nothing or from the weights of another, or continue
one.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from byhand import backend, registry
from byhand.cli import flags
from byhand.cli.memory import require_memory
from byhand.config import flag_of, given
from byhand.data import TextData, TextSource, absolute_name, open_corpus
from byhand.errors import UserError
from byhand.models import preset
from byhand.runs.checkpoint import require_like
from byhand.runs.config import Corpus, RunConfig, TokenizerId
from byhand.runs.hints import command_line, resume_command
from byhand.runs.run import Run
from byhand.runs.settings import USED_WITH, TrainingSettings, sensible_warmup
from byhand.text import kind_named, make_tokenizer
from byhand.text.tokenizer import size_named

if TYPE_CHECKING:
    from byhand.text.tokenizer import Tokenizer
    from byhand.training.trainer import Trainer

DEFAULT_MODEL = "gpt"


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
    names = {field.name for field in dataclasses.fields(page.Config)} | set(dir(page.Config))
    return names >= {"vocabulary_size", "context_size"}


# --- A new run -----------------------------------------------------------------------------------


def _start(args: argparse.Namespace, folder: Run) -> int:
    folder.require_new()
    config, tokenizer, text, weights = _from_run(args) if args.source else _from_flags(args)
    _require_used(args, config.training)
    # Every mistake is found before the folder is made.
    trainer = _trainer(args, config, tokenizer, text, folder)
    if weights is not None:
        require_like(f"the run in {args.source}", weights, trainer.model.state_dict())
        trainer.model.load_state_dict(weights)
    folder.folder.mkdir(parents=True, exist_ok=True)
    with folder.only_writer():
        folder.require_new()
        folder.create(config, tokenizer)
        return _train(trainer, config, folder)


New = tuple[RunConfig, "Tokenizer", TextSource, "dict[str, Any] | None"]


def _from_flags(args: argparse.Namespace) -> New:
    """The configuration, tokenizer and text of a new run; no weights."""
    kind = args.model or DEFAULT_MODEL
    page = registry.find("models", kind)
    chosen = preset.find(kind, args.preset or next(iter(page.PRESETS)))
    name = args.corpus or "python-docs"
    text = open_corpus(name)
    sizes = dict(chosen.model) | given(args, page.Config)
    if hasattr(page, "FROM_DATA"):
        from byhand.cli.encoders import parts_of

        tokenizer, task, fields = parts_of(args.tokenizer, text)
        sizes |= fields
    else:
        tokenizer, task = make_tokenizer(args.tokenizer or "char", text.blocks()), "language_model"
    config = RunConfig(
        kind,
        _model_config(page, sizes, len(tokenizer)),
        training_settings(dict(chosen.training) | given(args, TrainingSettings)),
        Corpus.of(absolute_name(name), text),
        TokenizerId.of(tokenizer),
        task,
    )
    return config, tokenizer, text, None


def _from_run(args: argparse.Namespace) -> New:
    """The configuration, tokenizer, text and first weights of a run that starts from another."""
    source = Run(args.source)
    former, tokenizer = _read(source)
    where = f"the run in {source.folder}"
    _require_same(args, former, where, "--from keeps the model and its sizes", training=False)
    saved = source.read_checkpoint(args.checkpoint or "best", former)
    assert isinstance(former.data, Corpus)
    name = args.corpus or former.data.name
    text = open_corpus(name)
    if former.task != "language_model":
        from byhand.cli.encoders import require_task

        require_task(former.task, text)
    try:
        tokenizer.encode_blocks(text.blocks(), text.characters)
    except UserError as error:
        raise UserError(f"{error}: --from keeps the tokenizer of {source.folder}") from None
    chosen = preset.find(former.kind, args.preset).training if args.preset else {}
    changed = dict(chosen) | given(args, TrainingSettings)
    numbers = former.training.to_dict()
    if changed.keys() & {"lr", "steps"}:
        # They follow from the others unless they are given.
        del numbers["min_lr"], numbers["warmup"]
    config = dataclasses.replace(
        former,
        training=training_settings(numbers | changed),
        data=Corpus.of(absolute_name(name), text),
    )
    return config, tokenizer, text, saved.group("model")


def _model_config(page: ModuleType, sizes: dict[str, Any], vocabulary_size: int) -> Any:
    try:
        return page.Config(vocabulary_size=vocabulary_size, **sizes)
    except (ValueError, TypeError) as error:
        raise flags.as_flags(error, [page.Config]) from None


def training_settings(numbers: dict[str, Any]) -> TrainingSettings:
    numbers.setdefault("min_lr", numbers["lr"] / 10)
    numbers.setdefault("warmup", sensible_warmup(numbers["steps"]))
    try:
        return TrainingSettings(**numbers)
    except UserError as error:
        raise flags.as_flags(error, [TrainingSettings]) from None


def _require_used(args: argparse.Namespace, settings: TrainingSettings) -> None:
    """UserError for a flag that would have no effect."""
    for name in given(args, TrainingSettings).keys() & USED_WITH:
        by, values = USED_WITH[name]
        if (chosen := getattr(settings, by)) not in values:
            flag, other = (flag_of(TrainingSettings, field) for field in (name, by))
            raise UserError(
                f"{flag} has no effect with {other} {chosen}: it is for {' or '.join(values)}"
            )


# --- A resumed run -------------------------------------------------------------------------------


def _resume(args: argparse.Namespace, folder: Run) -> int:
    from byhand.runs.export import require_resumable
    from byhand.training.resume import changes

    if args.out is None and not folder.folder.exists():
        # Often the folder was given as the corpus: byhand train --resume runs/first
        named = args.corpus and Run(args.corpus).config_path.exists()
        command = resume_command(Path(args.corpus if named else "DIR"))
        raise UserError(f"--resume needs the folder of the run: {command}")
    config, tokenizer = _read(folder)
    corpus = config.data
    assert isinstance(corpus, Corpus)
    where = f"the run in {folder.folder}"
    reason = "a resumed run keeps its settings, only --steps may grow"
    _require_same(args, config, where, reason, training=True)
    require_resumable(folder)
    if args.steps is not None:
        settings = config.training.to_dict() | {"steps": args.steps}
        config = dataclasses.replace(config, training=training_settings(settings))
    which = args.checkpoint or "last"
    with folder.only_writer():
        saved = folder.read_checkpoint(which, config)
        corpus, text = corpus.reopen(args.corpus, resume_command(folder.folder, "NEWPATH"))
        config = dataclasses.replace(config, data=corpus)
        trainer = _trainer(args, config, tokenizer, text, folder)
        trainer.restore(saved, str(folder.checkpoint_path(which)))
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


def _read(folder: Run) -> tuple[RunConfig, Tokenizer]:
    """The configuration and the tokenizer of a run of `byhand train`."""
    config, tokenizer = folder.read_config(), folder.read_tokenizer()
    if tokenizer is None or not isinstance(config.data, Corpus):
        raise UserError(f"the run in {folder.folder} was not made by `byhand train`")
    return config, tokenizer


# --- Both ----------------------------------------------------------------------------------------


def _require_same(
    args: argparse.Namespace, config: RunConfig, where: str, reason: str, training: bool
) -> None:
    """UserError with this reason if a flag differs from the run `where`: of the model, and with
    `training` of the training too, where only --steps may.
    """
    page = registry.find("models", config.kind)
    assert config.tokenizer is not None
    tokenizer, other = config.tokenizer.kind, args.tokenizer and kind_named(args.tokenizer)
    if other == tokenizer and (size := size_named(args.tokenizer)) is not None:
        tokenizer += f":{getattr(config.model, 'vocabulary_size', 0)}"
        other = f"{other}:{size}"
    chosen = preset.find(config.kind, args.preset) if args.preset else None
    model = (dict(chosen.model) if chosen else {}) | given(args, page.Config)
    settings = (dict(chosen.training) if chosen else {}) | given(args, TrainingSettings)
    settings.pop("steps", None)
    wanted = [
        ("--model", config.kind, args.model),
        ("--tokenizer", tokenizer, other),
        *((flag_of(page.Config, n), getattr(config.model, n), v) for n, v in model.items()),
    ]
    if training:
        wanted += [
            (flag_of(TrainingSettings, n), getattr(config.training, n), v)
            for n, v in settings.items()
        ]
    for flag, has, value in wanted:
        if value is not None and value != has:
            raise UserError(f"{where} has {flag} {has}, not {value}: {reason}")


def _trainer(
    args: argparse.Namespace, config: RunConfig, tokenizer: Tokenizer, text: TextSource, folder: Run
) -> Trainer:
    from byhand.runs.progress import Display
    from byhand.training.setup import text_trainer

    tokens = config.training.batch_size * config.model.context_size  # type: ignore[attr-defined]
    require_memory(
        config.model,
        tokens,
        device=args.device,
        recompute=args.recompute,
        half=args.device == "cuda" and config.training.precision == "bf16",
        advice=": lower --batch (with a larger --accumulate a step has as many windows), --context "
        "or the model's sizes" + ("" if args.recompute else ", or add --recompute"),
    )
    try:
        unit = registry.find("tasks", config.task).Task.unit
        display = Display(unit)
        return text_trainer(config, tokenizer, text, folder, display, args.device, args.recompute)
    except UserError as error:
        raise UserError(str(error).replace("smaller context", "smaller --context")) from None


def _train(trainer: Trainer, config: RunConfig, run: Run) -> int:
    from byhand.runs.progress import duration
    from byhand.training import Diverged

    settings, folder = config.training, run.folder
    corpus, data, say = config.data, trainer.data, trainer.say
    assert isinstance(corpus, Corpus)
    if isinstance(data, TextData):
        windows = f"windows, drawn from {len(data.train):,}"
        about = (
            f"{len(data.training_ids):,} tokens to learn from, {len(data.validation_ids):,} to "
            "validate"
        )
    else:
        about, windows = data.about, "rows"  # type: ignore[attr-defined]
    say(
        f"text: {corpus.name}, {corpus.characters:,} characters; {about}\n"
        f"model: {config.kind}, {_sizes(config)}: {trainer.model.num_parameters():,} parameters\n"
        f"training: {settings.steps} steps of {settings.batch_size * settings.accumulate} {windows}"
        f"{_how(trainer)}; losses in {trainer.task.loss_unit}; everything goes to {run.folder}\n"
    )
    resume = resume_command(folder)
    try:
        stopped = trainer.run()
    except Diverged as error:
        raise flags.as_flags(error, [TrainingSettings]) from None
    except KeyboardInterrupt:
        if trainer.saved >= 0:
            say(f"the checkpoint of step {trainer.saved} is kept; continue with: {resume}")
        raise
    saved = f"stopped and saved at step {trainer.step} of {settings.steps}; continue with: {resume}"
    if stopped is not None:
        say(saved)
        return 128 + int(stopped)
    assert trainer.display is not None
    if trainer.display.error is not None and not trainer.finished():
        with suppress(OSError):
            print(
                f"byhand: the output cannot be written ({trainer.display.error}): {saved}",
                file=sys.stderr,
            )
        return 1
    say(
        f"done: {trainer.step} steps in {duration(trainer.seconds)}; lowest validation loss "
        f"{trainer.best_loss:.4f}, at step {trainer.best_step}\n"
        + (
            f"generate text: {command_line('generate', folder)}\n"
            if config.task == "language_model"
            else ""
        )
        + f"measure it on the whole validation text: {command_line('eval', folder)}"
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


def _default_folder(args: argparse.Namespace) -> str:
    if args.source:
        start = f"{Path(args.corpus).stem}-" if args.corpus else ""
        return os.path.join("runs", f"{start}from-{Path(args.source).resolve().name}")
    corpus = Path(args.corpus or "python-docs").stem
    first = next(iter(registry.find("models", args.model or DEFAULT_MODEL).PRESETS))
    kind = f"-{args.model}" if args.model not in (None, DEFAULT_MODEL) else ""
    return os.path.join("runs", f"{corpus}{kind}-{args.preset or first}")
