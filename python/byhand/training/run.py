"""The folder of a training run: what lies where, and who may write."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from byhand.errors import UserError
from byhand.training import checkpoint
from byhand.training.checkpoint import Checkpoint
from byhand.training.config import RunConfig
from byhand.training.files import remove_leftovers, write_atomically

CHECKPOINTS = ("best", "last")


class Run:
    """A folder with config.json, {best,last}.safetensors, log.jsonl, loss.png and samples/."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.config_path = self.folder / "config.json"
        self.log_path = self.folder / "log.jsonl"
        self.plot_path = self.folder / "loss.png"

    def checkpoint_path(self, which: str) -> Path:
        return self.folder / f"{which}.safetensors"

    def sample_path(self, step: int) -> Path:
        return self.folder / "samples" / f"step_{step:06d}.txt"

    def files(self) -> list[Path]:
        """The files a run has, whether or not they exist yet."""
        checkpoints = [self.checkpoint_path(which) for which in CHECKPOINTS]
        return [self.config_path, self.log_path, self.plot_path, *checkpoints]

    def require_new(self) -> None:
        """UserError if anything lies here that a new run would overwrite."""
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder} is a file: a run needs a folder")
        for path in (*self.files(), self.folder / "samples"):
            if path.exists():
                raise UserError(
                    f"{self.folder} already holds a run ({path.name}): go on with it by --resume, "
                    "or name another folder with --out"
                )

    def create(self, config: RunConfig) -> None:
        """Make the folder and write config.json."""
        (self.folder / "samples").mkdir(parents=True, exist_ok=True)
        self.write_config(config)

    def write_config(self, config: RunConfig) -> None:
        text = json.dumps(config.to_json(), indent=2) + "\n"
        write_atomically(self.config_path, text.encode())

    def read_config(self) -> RunConfig:
        """The run's configuration. UserError if there is no run here, or it is unreadable."""
        if not self.folder.is_dir():
            raise UserError(f"there is no folder {self.folder}")
        if not self.config_path.exists():
            raise UserError(f"{self.folder} holds no training run: it has no config.json")
        try:
            data = json.loads(self.config_path.read_bytes())
        except (ValueError, RecursionError):
            raise UserError(f"{self.config_path} is not JSON") from None
        try:
            return RunConfig.from_json(data)
        except ValueError as error:
            raise UserError(f"{self.config_path} cannot be used: {error}") from None

    def read_checkpoint(self, which: str, config: RunConfig) -> Checkpoint:
        """The best or the last checkpoint, which must be of the run `config` describes.

        UserError if it is damaged or of another run; where the other checkpoint is sound, the
        message names it.
        """
        if not any(self.checkpoint_path(name).exists() for name in CHECKPOINTS):
            raise UserError(
                f"the run in {self.folder} ended before its first checkpoint: remove the folder "
                "and train anew"
            )
        try:
            return self._read_checkpoint(which, config)
        except UserError as error:
            for other in CHECKPOINTS:
                if other != which and self._sound(other, config):
                    raise UserError(
                        f"{error}; {self.checkpoint_path(other).name} is sound: "
                        f"use it with --checkpoint {other}"
                    ) from None
            raise

    def _read_checkpoint(self, which: str, config: RunConfig) -> Checkpoint:
        path = self.checkpoint_path(which)
        found = checkpoint.read(path)
        try:
            own = RunConfig.from_json(found.state.get("config"))
        except ValueError as error:
            raise UserError(f"the configuration in {path} cannot be used: {error}") from None
        if not own.same_model(config):
            raise UserError(
                f"{path} belongs to another configuration than {self.config_path.name} beside it"
            )
        if not isinstance(found.state.get("step"), int):
            raise UserError(f"{path} is incomplete: it does not say which step it is of")
        return found

    def _sound(self, which: str, config: RunConfig) -> bool:
        try:
            self._read_checkpoint(which, config)
        except UserError:
            return False
        return True

    def save_checkpoint(self, which: str, data: bytes) -> None:
        """Replace one checkpoint in one step. UserError if it cannot be written."""
        path = self.checkpoint_path(which)
        former = "; the checkpoint saved before it is untouched" if path.exists() else ""
        try:
            write_atomically(path, data)
        except OSError as error:
            raise UserError(f"cannot save {path} ({error.strerror}){former}") from None

    def save_sample(self, step: int, text: str) -> None:
        path = self.sample_path(step)
        try:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {path} ({error.strerror})") from None

    @contextmanager
    def only_writer(self) -> Iterator[None]:
        """Hold the folder for this process; UserError if another process trains in it.

        The lock is the kernel's and ends with the process, however that ends.
        """
        handle = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EACCES):
                    raise UserError(
                        f"another process is training in {self.folder} at this moment"
                    ) from None
                # Some network file systems have no locks; then there is none to respect.
            remove_leftovers(*self.files())
            yield
        finally:
            os.close(handle)
