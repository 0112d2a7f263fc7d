"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from byhand import backend
from byhand.data import RandomSampler, WindowDataset, split, windows_side_by_side
from byhand.errors import UserError
from byhand.generation.generate import inference, stream
from byhand.models import GPT
from byhand.optim import AdamW, warmup_cosine
from byhand.training import checkpoint
from byhand.training.evaluate import mean_loss
from byhand.training.finite import Batch, Diverged, Result, first_not_finite, require_finite
from byhand.training.graph import StepGraph
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
            self.graph = StepGraph(self.model, self.optimizer, self.clip_norm(), _RING)
        self.told_memory = False
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
        rates: list[float] = []
        diverged = None
        try:
            results = self.cpu_step(rates) if self.graph is None else self.gpu_steps(rates)
        except Diverged as error:
            diverged, results = error, error.before
        seconds = time.perf_counter() - started
        self.seconds += seconds
        settings = self.settings
        for i, (loss, norm) in enumerate(results, 1):
            since = before + seconds * i / len(rates)
            self.log.write(
                step=done + i,
                loss=loss,
                lr=rates[i - 1],
                norm=norm if settings.clip else None,
                seconds=round(since, 3),
            )
        if diverged is not None:
            raise self.diverged(done + len(results), diverged.reason)
        tokens = settings.accumulate * settings.batch_size * self.dataset.context * len(results)
        self.display.step(self.step, settings.steps, results[-1][0], tokens, seconds)

    def cpu_step(self, rates: list[float]) -> Sequence[Result]:
        """One step. The weights are only changed when loss and gradient are numbers."""
        self.optimizer.lr = self.rate()
        rates.append(self.optimizer.lr)
        masks = self.model.generator.count
        self.model.zero_grad()
        batches, loss = self.batches(), 0.0
        for x, y in batches:
            loss += float(self.model.loss(x, y, 1 / len(batches))) / len(batches)
            self.model.backward()
        norm = self.optimizer.step(self.clip_norm()) if math.isfinite(loss) else None
        result = loss, None if norm is None else float(norm)
        require_finite("the step", result, self.model, batches, masks)
        self.step += 1
        return [result]

    def gpu_steps(self, rates: list[float]) -> Sequence[Result]:
        """Steps until an evaluation is due, but only a few."""
        assert self.graph is not None
        while len(rates) < _RING and not (rates and self.evaluation_is_due()):
            rates.append(self.rate())
            self.graph(self.batches(), rates[-1])
            self.step += 1
        results = self.graph.read()
        if self.graph.planned_bytes and not self.told_memory:
            self.told_memory = True
            self.display.say(self.memory(self.graph.planned_bytes))
        return results

    def memory(self, activations: int) -> str:
        """Words for what is held on a GPU."""
        arena, optimizer = self.model.arena, self.optimizer
        kept = {id(a): a for a in (arena.values, arena.operands, arena.grads)}.values()
        numbers = sum(a.nbytes for a in (*kept, optimizer.m, optimizer.v))
        return (
            f"memory on the GPU: {numbers / 1e6:,.1f} MB for weights, gradients and moments, "
            f"{activations / 1e6:,.1f} MB for the activations of a step"
        )

    def clip_norm(self) -> float:
        """The norm is measured even where nothing is cut: not finite, it keeps the weights."""
        return self.settings.clip or math.inf

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

    def validation_batches(self) -> Iterator[Batch]:
        """What an evaluation looks at."""
        size, batches = self.settings.batch_size, self.settings.eval_batches
        limit = batches * size
        return windows_side_by_side(self.validation, self.dataset.context, size, limit)

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
        if not math.isfinite(loss):
            with inference(self.model):
                why = first_not_finite(self.model, self.validation_batches())
            raise self.diverged(self.step, f"the validation loss is {loss}{why}")
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

    def diverged(self, step: int, reason: str) -> Diverged:
        """The error of a number found after `step` that is none: nothing computed from it would
        mean anything.
        """
        saved = f"the checkpoint of step {self.saved}" if self.saved >= 0 else "no checkpoint"
        return Diverged(
            f"training stopped after step {step}",
            f"{reason}; a smaller --lr (it is {self.settings.lr:g}), a longer --warmup or a "
            f"smaller --clip may help; {saved} is saved",
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
        return {name: backend.to_numpy(value) for name, value in named.items()}

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
