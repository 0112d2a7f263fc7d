"""The folder of a training run: its files, and the lock that keeps other processes out."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from byhand.errors import UserError
from byhand.files import remove_leftovers, write_atomically
from byhand.runs import checkpoint, legacy
from byhand.runs.checkpoint import Checkpoint
from byhand.runs.config import RunConfig, TokenizerId
from byhand.runs.hints import not_saved
from byhand.text.tokenizer import Tokenizer, tokenizer_of

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

CHECKPOINTS = ("best", "last")


class OtherConfiguration(UserError):
    """The error for a checkpoint of another configuration than config.json."""


class NotFinite(UserError):
    """The error for a checkpoint with NaN or infinite numbers."""


class Run:
    """A folder with config.json, tokenizer.json, {best,last}.safetensors, log.jsonl, log.csv,
    loss.png and samples/.

    Attributes:
        config: the run's configuration, once it was written or read here; else None.
        config_source: the file that `read_config` found it in: config.json, or a checkpoint if
            config.json is missing or damaged.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        if not isinstance(folder, (str, os.PathLike)) or not os.fspath(folder):
            raise UserError(f"the folder of a run must be a path, not {folder!r}")
        self.folder = Path(folder)
        self.config: RunConfig | None = None
        self.tokenizer_path = self.folder / "tokenizer.json"
        self.config_path = self.folder / "config.json"
        self.config_source = self.config_path
        self.log_path = self.folder / "log.jsonl"
        self.csv_path = self.folder / "log.csv"
        self.plot_path = self.folder / "loss.png"
        # There from `create` to the first checkpoint.
        self._begun_path = self.folder / ".without-checkpoint"

    def checkpoint_path(self, which: str) -> Path:
        return self.folder / f"{which}.safetensors"

    def sample_path(self, step: int) -> Path:
        return self.folder / "samples" / f"step_{step:06d}.txt"

    def files(self) -> list[Path]:
        """The files a run has, whether or not they exist yet."""
        checkpoints = [self.checkpoint_path(which) for which in CHECKPOINTS]
        described = [self.config_path, self.tokenizer_path]
        return [*described, self.log_path, self.csv_path, self.plot_path, *checkpoints]

    def require_new(self, resumable: bool = True) -> None:
        """UserError if there is anything here that a new run would overwrite. The files of a run
        that ended before its first checkpoint are no reason.

        Args:
            resumable: whether what is wanted could be to continue the run that is here.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder} is a file: a run needs a folder")
        if self._ended_before_its_first_checkpoint():
            return
        for path in (*self.files(), self.folder / "samples"):
            if path.exists():
                raise UserError(
                    f"{self.folder} already holds a run ({path.name}): "
                    f"{'continue it with --resume, or ' if resumable else ''}"
                    "name another folder with --out"
                )

    def create(self, config: RunConfig, tokenizer: Tokenizer | None = None) -> None:
        """Make the folder; write tokenizer.json, if there is a tokenizer, and config.json.

        The files of a run that ended before its first checkpoint are removed.
        """
        samples = self.folder / "samples"
        samples.mkdir(parents=True, exist_ok=True)
        if self._ended_before_its_first_checkpoint():
            for path in (*self.files(), *samples.glob("step_*.txt")):
                path.unlink(missing_ok=True)
        self._begun_path.touch()
        self.write_config(config, tokenizer)

    def _ended_before_its_first_checkpoint(self) -> bool:
        return self._begun_path.exists() and not self._has_checkpoint()

    def _has_checkpoint(self) -> bool:
        return any(self.checkpoint_path(which).exists() for which in CHECKPOINTS)

    def write_config(self, config: RunConfig, tokenizer: Tokenizer | None = None) -> None:
        """Replace config.json, after tokenizer.json. ValueError if `config` names another
        tokenizer, UserError if they cannot be written.
        """
        described = None if tokenizer is None else TokenizerId.of(tokenizer)
        if described != config.tokenizer:
            raise ValueError(f"the configuration names {config.tokenizer}, not {described}")
        if tokenizer is not None:
            self._write_json(self.tokenizer_path, tokenizer.to_dict())
        self._write_json(self.config_path, config.to_dict())
        self.config = config

    def read_config(self) -> RunConfig:
        """The run's configuration: config.json or, if that is missing or not JSON, the copy in a
        checkpoint. UserError if there is no run here, or it is unreadable.
        """
        data = self._config_data()
        try:
            if _is_format_1(data):
                data = legacy.upgrade_config(data)[0]
            self.config = RunConfig.from_dict(data)
        except ValueError as error:
            raise UserError(
                f"{self.config_source} cannot be used: {error}{self._use_the_copy()}"
            ) from None
        return self.config

    def read_tokenizer(self) -> Tokenizer | None:
        """The run's tokenizer; None if it has none. UserError if it is damaged or another one than
        config.json names, or has more tokens than the model.
        """
        config = self.read_config()
        if config.tokenizer is None:
            return None
        data = self._config_data()
        path = self.tokenizer_path
        if _is_format_1(data):
            path, data = self.config_path, legacy.upgrade_config(data)[1]
        elif not path.exists():
            raise UserError(f"{path} is missing: without it the run's token ids have no meaning")
        else:
            data = _read_json(path)
        try:
            tokenizer = tokenizer_of(data)
        except ValueError as error:
            raise UserError(f"{path} cannot be used: {error}") from None
        if TokenizerId.of(tokenizer) != config.tokenizer:
            raise UserError(
                f"{path} is not the tokenizer that {self.config_path.name} beside it names"
            )
        size = getattr(config.model, "vocabulary_size", len(tokenizer))
        if len(tokenizer) > size:
            raise UserError(
                f"{path} has {len(tokenizer)} tokens, but the model in {self.config_path.name} a "
                f"vocabulary of {size}"
            )
        return tokenizer

    def _config_data(self) -> Any:
        if self.folder.is_file():
            raise UserError(
                f"{self.folder} is a file: name the folder of the run, {self.folder.parent}"
            )
        if not self.folder.is_dir():
            raise UserError(f"there is no folder {self.folder}")
        self.config_source = self.config_path
        try:
            if not self.config_path.exists():
                raise UserError(f"{self.folder} holds no training run: it has no config.json")
            return _read_json(self.config_path)
        except UserError as error:
            for which in reversed(CHECKPOINTS):
                self.config_source = self.checkpoint_path(which)
                with suppress(UserError):
                    return checkpoint.read(self.config_source).state.get("config")
            raise error from None

    def _use_the_copy(self) -> str:
        """The end of a sentence about config.json, if a checkpoint has a copy of it."""
        if self.config_source != self.config_path or not self._has_checkpoint():
            return ""
        return f"; remove {self.config_path} to use the checkpoint's copy of it"

    def read_checkpoint(self, which: str, config: RunConfig) -> Checkpoint:
        """The "best" or the "last" checkpoint of the run that `config` describes.

        A process that ended between saving `best` and `last` has left a newer `best`, which `last`
        was to be equal to: it is read for "last" then.

        UserError if it is damaged or of another configuration; if the other checkpoint is sound,
        the message names it.
        """
        if which not in CHECKPOINTS:
            raise UserError(f"which must be {' or '.join(CHECKPOINTS)}, not {which!r}")
        if not self._has_checkpoint():
            again = "remove the folder and start again"
            if self._ended_before_its_first_checkpoint():
                again = "start it again without --resume"
            raise UserError(f"the run in {self.folder} ended before its first checkpoint: {again}")
        if which == "last" and self._best_is_newer():
            with suppress(UserError):
                return self._read_checkpoint("best", config)
        try:
            return self._read_checkpoint(which, config)
        except UserError as error:
            for other in CHECKPOINTS:
                if other != which and self._sound(other, config):
                    raise UserError(
                        f"{error}; {self.checkpoint_path(other).name} is sound: "
                        f"use it with --checkpoint {other}"
                    ) from None
            if isinstance(error, NotFinite):
                raise UserError(f"{error}; train again, with a lower learning rate") from None
            if isinstance(error, OtherConfiguration):
                raise UserError(f"{error}{self._use_the_copy()}") from None
            raise

    def saved_step(self, which: str) -> int | None:
        """The step of a checkpoint, without reading its tensors; None if there is none."""
        return checkpoint.step_in(self.checkpoint_path(which))

    def _best_is_newer(self) -> bool:
        best, last = self.saved_step("best"), self.saved_step("last")
        if last is None:
            return best is not None and not self.checkpoint_path("last").exists()
        return best is not None and best > last

    def _read_checkpoint(self, which: str, config: RunConfig) -> Checkpoint:
        path = self.checkpoint_path(which)
        found = checkpoint.read(path)
        try:
            own = RunConfig.from_dict(found.state.get("config"))
        except ValueError as error:
            raise UserError(f"the configuration in {path} cannot be used: {error}") from None
        if different := own.difference(config):
            name, saved, given = different
            raise OtherConfiguration(
                f"{path} belongs to another configuration than {self.config_path.name} beside it: "
                f"{name} is {saved} in the checkpoint and {given} in {self.config_path.name}"
            )
        if not checkpoint.is_step(found.state.get("step")):
            raise UserError(f"{path} is incomplete: it does not say which step it is of")
        if bad := checkpoint.first_not_finite(found.tensors):
            raise NotFinite(f"{path} cannot be used: {bad} has numbers that are NaN or infinite")
        return found

    def _sound(self, which: str, config: RunConfig) -> bool:
        try:
            self._read_checkpoint(which, config)
        except UserError:
            return False
        return True

    def save_checkpoint(self, which: str, data: bytes) -> None:
        """Replace one checkpoint by `data` (`checkpoint.pack`) in one step. UserError if it cannot
        be written.
        """
        path = self.checkpoint_path(which)
        try:
            write_atomically(path, data)
        except OSError as error:
            raise not_saved(path, error, self.folder) from None
        self._begun_path.unlink(missing_ok=True)

    def save_sample(self, step: int, text: str) -> None:
        """Write what the model generated at `step`. UserError if it cannot be written."""
        path = self.sample_path(step)
        try:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise not_saved(path, error, self.folder) from None

    def _write_json(self, path: Path, data: object) -> None:
        try:
            write_atomically(path, (json.dumps(data, indent=2) + "\n").encode())
        except OSError as error:
            raise not_saved(path, error, self.folder) from None

    @contextmanager
    def only_writer(self) -> Iterator[None]:
        """Lock the folder for this process. UserError if another process trains in it.

        The operating system releases the lock when the process ends, even if it is killed.
        """
        path = self.folder / ".lock"
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise not_saved(path, error, self.folder) from None
        try:
            if not _locked(handle):
                raise UserError(f"another process is training in {self.folder}")
            remove_leftovers(*self.files())
            yield
        finally:
            os.close(handle)


def _locked(handle: int) -> bool:
    """Lock an open file; False if another process has the lock."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Some network file systems have no locks: continue without one.
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True


def _is_format_1(data: object) -> bool:
    return isinstance(data, dict) and data.get("format") == 1


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not JSON") from None
