"""The training loop."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from byhand import backend
from byhand.data import RandomSampler, WindowDataset, split
from byhand.errors import UserError
from byhand.generation.generate import stream
from byhand.models import GPT
from byhand.optim import AdamW, warmup_cosine
from byhand.training import checkpoint
from byhand.training.evaluate import mean_loss
from byhand.training.graph import Batch, StepGraph
from byhand.training.interrupt import StopRequest
from byhand.training.log import Log, keep_until
from byhand.training.plot import LossPlot

if TYPE_CHECKING:
    import signal

    from byhand.training.checkpoint import Checkpoint
    from byhand.training.config import RunConfig
    from byhand.training.progress import Display
    from byhand.training.run import Run


_RING = 16  # steps on a GPU between two looks at their losses
Step = tuple[float, float, float | None]  # learning rate, mean loss, norm of the gradient if cut


class Diverged(UserError):
    """The loss or the gradient is no longer a finite number."""


class Trainer:
    """Trains a GPT on a text, saving into a run's folder.

    The whole loop is `run`: evaluate when it is due, else take a training step. Everything the
    coming steps depend on is in `state()` and `tensors()`, so a run that was stopped, however it
    was, goes on bit for bit as if it had not been.
    """

    def __init__(
        self,
        config: RunConfig,
        text: str,
        run: Run,
        display: Display,
        device: str = "cpu",
        recompute: bool = False,
    ) -> None:
        """`text` is the corpus that `config` describes. The device, "cpu" or "cuda", and whether
        blocks are recomputed (see `GPT`) are no matter of the run: another process may go on with
        it otherwise.

        UserError if the text is too short, CudaUnavailable if there is no GPU.
        """
        settings = config.training
        context = config.model.context_size
        ids = config.tokenizer.encode(text)
        learn, self.validation = split(ids, settings.val_ratio)
        self.dataset = WindowDataset(learn, context, "the training part of the text")
        WindowDataset(self.validation, context, "the validation part of the text")

        self.config = config
        self.settings = settings
        self.run_folder = run
        self.display = display
        self.sampler = RandomSampler(len(self.dataset), settings.batch_size, settings.seed)
        self.model = GPT(config.model, settings.seed, settings.precision, recompute)
        if device != "cpu":
            self.model.to(device)
        self.optimizer = AdamW(
            self.model,
            lr=settings.lr,
            betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
        )
        self.graph: StepGraph | None = None
        if device == "cuda":
            self.graph = StepGraph(self.model, self.optimizer, settings.clip or None, _RING)
        self.step = 0  # updates done
        self.evaluated = -1  # the step of the last evaluation
        self.best_loss = math.inf
        self.best_step = -1
        self.seconds = 0.0  # spent on this run, over all processes
        self.saved = -1  # the step of the last checkpoint

    # --- the loop ------------------------------------------------------------------------------

    def run(self) -> signal.Signals | None:
        """Train until the last step, or until a signal asks to stop; returns that signal.

        UserError (Diverged) when the loss stops being a number, and when the disk is full.
        """
        with StopRequest() as stop, self.display:
            self.log = Log(self.run_folder.log_path)
            self.plot = LossPlot(
                self.run_folder.log_path, self.run_folder.plot_path, self.display.say
            )
            try:
                while not stop:
                    if self.evaluation_is_due():
                        self.evaluate(stop)
                    elif self.step < self.settings.steps:
                        self.train_step()
                    else:
                        break
                if stop:
                    self.save("last")
            finally:
                self.log.close()
                self.plot.draw()
        return stop.signal

    def train_step(self) -> None:
        """One update of the weights; on a GPU a few, whose losses come back together."""
        started, before, done = time.perf_counter(), self.seconds, self.step
        steps = [self.cpu_step()] if self.graph is None else self.gpu_steps(self.graph)
        seconds = time.perf_counter() - started
        self.seconds += seconds
        for i, (lr, loss, norm) in enumerate(steps, 1):
            self.require_finite("training loss", loss, done + i - 1)
            if norm is not None:
                self.require_finite("gradient's norm", norm, done + i - 1)
            since = before + seconds * i / len(steps)
            self.log.write(step=done + i, loss=loss, lr=lr, norm=norm, seconds=round(since, 3))
        settings = self.settings
        tokens = settings.accumulate * settings.batch_size * self.dataset.context * len(steps)
        self.display.step(self.step, settings.steps, steps[-1][1], tokens, seconds)

    def cpu_step(self) -> Step:
        """One step. The weights are only changed when the loss is a number."""
        self.optimizer.lr = lr = self.rate()
        self.model.zero_grad()
        batches, loss = self.batches(), 0.0
        for x, y in batches:
            loss += float(self.model.loss(x, y, 1 / len(batches))) / len(batches)
            self.model.backward()
        self.require_finite("training loss", loss, self.step)
        norm = self.optimizer.step(clip_norm=self.settings.clip or None)
        self.step += 1
        return lr, loss, None if norm is None else float(norm)

    def gpu_steps(self, graph: StepGraph) -> list[Step]:
        """Steps until an evaluation is due, but only a few."""
        rates: list[float] = []
        while len(rates) < _RING and not (rates and self.evaluation_is_due()):
            rates.append(self.rate())
            graph(self.batches(), rates[-1])
            self.step += 1
        return [(lr, *found) for lr, found in zip(rates, graph.read(), strict=True)]

    def rate(self) -> float:
        """The learning rate of the coming step."""
        settings = self.settings
        return warmup_cosine(
            self.step,
            lr=settings.lr,
            min_lr=settings.min_lr,
            warmup_steps=settings.warmup,
            total_steps=settings.steps,
        )

    def batches(self) -> list[Batch]:
        """Ids and targets of the coming step, one pair for each pass."""
        return [self.dataset.batch(next(self.sampler)) for _ in range(self.settings.accumulate)]

    def evaluation_is_due(self) -> bool:
        """Before the first step, after every `eval_every` steps, and after the last."""
        due = self.step % self.settings.eval_every == 0 or self.step == self.settings.steps
        return due and self.evaluated != self.step

    def evaluate(self, stop: StopRequest) -> None:
        """The validation loss and a sample; saves both checkpoints.

        A stop request leaves it undone, and the resumed run begins with it.
        """
        started = time.perf_counter()
        settings = self.settings
        loss = mean_loss(
            self.model,
            self.validation,
            self.dataset.context,
            settings.batch_size,
            settings.eval_batches,
            stop,
        )
        if loss is None:
            return
        self.require_finite("validation loss", loss, self.step)
        sample = self.sample(stop)
        if stop:
            return
        self.seconds += time.perf_counter() - started
        self.evaluated = self.step
        self.log.write(step=self.step, validation_loss=loss, seconds=round(self.seconds, 3))
        if sample:
            self.run_folder.save_sample(self.step, sample)
        # The checkpoints come last, for they say that this evaluation is done.
        is_best = loss < self.best_loss
        if is_best:
            self.best_loss, self.best_step = loss, self.step
            # And `best` before `last`, whose best loss is that of the file beside it.
            self.save("best", "last")
        else:
            self.save("last")
        self.report(loss, is_best, sample)
        self.plot.draw_now_and_then()

    def sample(self, stop: StopRequest) -> str:
        """What the model writes after a newline, always with the same luck at the same step."""
        tokenizer = self.config.tokenizer
        prompt = tokenizer.encode("\n" if "\n" in tokenizer.characters else tokenizer.characters[0])
        rng = np.random.default_rng([self.settings.seed, self.step])
        written = []
        for token in stream(self.model, prompt, self.settings.sample_tokens, rng=rng):
            if stop:
                break
            written.append(token)
        return tokenizer.decode(np.array(written, dtype=np.int64))

    def report(self, loss: float, is_best: bool, sample: str) -> None:
        line = f"step {self.step} of {self.settings.steps}: validation loss {loss:.4f}"
        if self.display.loss is not None and self.display.speed is not None:
            line += f", training loss {self.display.loss:.4f}, {self.display.speed:,.0f} tokens/s"
        self.display.say(line + (" (best so far)" if is_best else ""))
        if sample:
            self.display.say("\n".join("    " + part for part in sample.strip().split("\n")) + "\n")

    def require_finite(self, what: str, value: float, step: int) -> None:
        """Diverged unless `value`, found after `step`, is a number: nothing computed from it would
        mean anything.
        """
        if math.isfinite(value):
            return
        saved = f"the checkpoint of step {self.saved}" if self.saved >= 0 else "no checkpoint"
        raise Diverged(
            f"training stopped after step {step}: the {what} is {value}; a smaller --lr (it "
            f"is {self.settings.lr:g}), a longer --warmup or a smaller --clip may help; "
            f"{saved} is saved"
        )

    # --- saving and resuming -------------------------------------------------------------------

    def save(self, *which: str) -> None:
        """Replace these checkpoints, in this order, after everything logged so far is on the disk.

        The state is packed and hashed once: it is large.
        """
        self.log.flush()
        data = checkpoint.pack(self.tensors(), self.state())
        for name in which:
            self.run_folder.save_checkpoint(name, data)
            self.saved = self.step

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """The weights and the optimizer's moments, by their names in a checkpoint."""
        moments = self.optimizer.state_dict()
        named = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        named |= {"optimizer.m": moments["m"], "optimizer.v": moments["v"]}
        return {name: backend.on_host(value) for name, value in named.items()}

    def state(self) -> dict[str, Any]:
        """The rest of what a checkpoint holds, as JSON data."""
        return {
            "step": self.step,
            "evaluated": self.evaluated,
            "best_loss": self.best_loss if self.best_step >= 0 else None,
            "best_step": self.best_step,
            "seconds": self.seconds,
            "optimizer_step": self.optimizer.state_dict()["step"],
            "sampler": self.sampler.state(),
            "generator": self.model.generator.state(),
            "tokenizer_sha256": self.config.tokenizer.sha256(),
            "config": self.config.to_json(),
        }

    def restore(self, saved: Checkpoint, name: str) -> None:
        """Be as the trainer that saved this checkpoint was; `name` stands for it in errors."""
        checkpoint.require_like(name, saved.tensors, self.tensors())
        state = saved.state
        try:
            if state["tokenizer_sha256"] != self.config.tokenizer.sha256():
                raise UserError(f"{name} was made with another tokenizer")
            self.sampler.load_state(state["sampler"])
            self.model.generator.load_state(state["generator"])
            self.model.load_state_dict(saved.group("model"))
            moments = saved.group("optimizer")
            self.optimizer.load_state_dict({**moments, "step": state["optimizer_step"]})
            self.step = self.saved = state["step"]
            self.evaluated = int(state["evaluated"])
            self.best_step = int(state["best_step"])
            self.best_loss = math.inf if state["best_loss"] is None else float(state["best_loss"])
            self.seconds = float(state["seconds"])
        except UserError:
            raise
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{name} is incomplete or has something unknown ({error})") from None

    def cut_log(self) -> None:
        """Drop what was logged after the step restored, so that the log reads as one run."""
        keep_until(self.run_folder.log_path, self.step)

    def finished(self) -> bool:
        return self.step == self.settings.steps and not self.evaluation_is_due()
