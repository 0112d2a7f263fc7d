"""Training: steps, evaluations, and checkpoints from which a run continues bit for bit."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from byhand import backend
from byhand.data import EpochSampler
from byhand.errors import UserError
from byhand.optim import Optimizer
from byhand.optim.optimizer import require_number
from byhand.runs import checkpoint
from byhand.runs.interrupt import StopRequest
from byhand.runs.log import Log, keep_until, read_log, write_csv
from byhand.runs.plot import History, LossPlot, loss_image
from byhand.tasks.task import Task
from byhand.training.batches import Abandoned, StepBatches
from byhand.training.callback import Callback, Emit
from byhand.training.evaluate import evaluate
from byhand.training.finite import OF_A_BATCH, Diverged, first_not_finite
from byhand.training.graph import GraphStep
from byhand.training.step import EagerStep

if TYPE_CHECKING:
    import signal

    from byhand.data import Sampler
    from byhand.runs.checkpoint import Checkpoint
    from byhand.runs.progress import Display
    from byhand.runs.run import Run
    from byhand.runs.settings import TrainingSettings
    from byhand.training.batches import Data


_CAPACITY = 16  # steps on a GPU between two reads of their losses


class Trainer:
    """Trains the model of a task.

    The whole loop is ``run``: evaluate when it is due, else take a training step. ``state`` and
    ``tensors`` hold everything that later steps depend on, so a run that was stopped in any way
    continues bit for bit like one that was not stopped.

    Args:
        task: what is trained; on a GPU if its model is there.
        data: the training examples and the validation batches.
        sampler: yields the indices of each batch.
        optimizer: of the task's model.
        schedule: gives the learning rate of update n, counted from 0.
        settings: steps, micro-batches, clipping, evaluations, seed.
        run: the folder for everything that is saved; without one nothing is written, and
            ``history`` holds the records that the log would.
        display: shows the progress.
        callbacks: see `Callback`.

    Raises TypeError for a task, an optimizer or a schedule of another type, ValueError for an
    optimizer of another model and, on a GPU, for a sampler whose last batch of an epoch is smaller.
    """

    def __init__(
        self,
        task: Task,
        data: Data,
        sampler: Sampler,
        optimizer: Optimizer,
        schedule: Callable[[int], float],
        settings: TrainingSettings,
        run: Run | None = None,
        display: Display | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        for name, kind, value in (("task", Task, task), ("optimizer", Optimizer, optimizer)):
            if not isinstance(value, kind):
                raise TypeError(f"Trainer: {name} must be a {kind.__name__}, got {value!r}")
        if not callable(schedule):
            raise TypeError(
                "Trainer: schedule must be a function of the step, such as optim.Constant(lr), got "
                f"{schedule!r}"
            )
        if optimizer.model is not task.model:
            raise ValueError("Trainer: the optimizer is of another model than the task")
        on_gpu = backend.is_cupy(task.model.storage.values)
        if on_gpu and isinstance(sampler, EpochSampler) and not sampler.drop_last:
            if rest := sampler.length % sampler.batch_size:
                raise ValueError(
                    f"Trainer: on a GPU all batches have the same size, but of {sampler.length} "
                    f"items in batches of {sampler.batch_size} the last one has {rest}: give the "
                    "EpochSampler drop_last=True"
                )
        self.task = task
        self.model = task.model
        self.data = data
        self.sampler = sampler
        self.optimizer = optimizer
        self.schedule = schedule
        self.settings = settings
        self.run_folder = run
        self.display = display
        self.callbacks = list(callbacks)
        self.on_gpu = on_gpu
        # The norm is measured even without clipping: if it is not finite, no update is made.
        clip_norm = settings.clip or math.inf
        self.take_step: EagerStep | GraphStep
        if self.on_gpu:
            self.take_step = GraphStep(task, optimizer, clip_norm, Emit(self), _CAPACITY)
        else:
            self.take_step = EagerStep(task, optimizer, clip_norm, Emit(self))
        self._records: list[dict[str, Any]] = []
        self.log: Log | None = None
        self.memory_reported = False
        self.step = 0  # updates done
        self.evaluated = -1  # the step of the last evaluation
        self.best_loss = math.inf
        self.best_step = -1
        self.seconds = 0.0  # spent on this run, over all processes
        self.saved = -1  # the step of the last checkpoint
        self.stop: Any = False  # true once the present `run` shall end

    # --- The loop ------------------------------------------------------------------------------

    def run(self) -> signal.Signals | None:
        """Train until the last step, or until a signal asks to stop; returns that signal or None.

        The first signal ends the present step, saves and returns. A second Ctrl-C raises
        KeyboardInterrupt at once; the last checkpoint is unchanged. If the display cannot write any
        more (see its ``error``), the run is saved and ends as by a signal, and None is returned.

        UserError (Diverged) when the loss is no longer finite, and when the disk is full;
        ValueError for a run folder without a configuration.
        """
        folder = self.run_folder
        if folder is not None and folder.config is None:
            raise ValueError(
                f"Trainer: the run in {folder.folder} has no configuration: call its create() or "
                "read_config() first"
            )
        plot: LossPlot | None = None
        with StopRequest(self._acknowledge) as stop, self.display or _Nothing():
            self.stop = stop
            if folder is not None:
                self.log = Log(folder.log_path)
                plot = LossPlot(folder.log_path, folder.plot_path, self.say, self.task.loss_unit)
            try:
                while not (stop or self._output_failed()):
                    if self.evaluation_is_due():
                        self.evaluate(stop)
                        if plot is not None:
                            plot.draw_if_due()
                    elif self.step < self.settings.steps:
                        self.train_step()
                    else:
                        break
                if stop or self._output_failed():
                    self.save("last")
            except KeyboardInterrupt:
                plot = None  # at once
                raise
            finally:
                self.stop = False
                if self.log is not None:
                    self.log.close()
                    self.log = None
                if folder is not None and plot is not None:
                    plot.draw()
                    write_csv(folder.log_path, folder.csv_path, self.say)
        return stop.signal

    def _output_failed(self) -> bool:
        return getattr(self.display, "error", None) is not None

    def _acknowledge(self, number: signal.Signals) -> None:
        """Says at once what a signal will do; a step may take long."""
        kept = f"the steps after step {self.saved}" if self.saved >= 0 else "everything"
        lost = "" if self.run_folder is None else f", which loses {kept}"
        second = f" (Ctrl-C again ends at once{lost})" if number.name == "SIGINT" else ""
        self.say(f"{number.name}: stopping as soon as this step is done{second}")

    def train_step(self) -> None:
        """One update of the weights; on a GPU several, whose losses are read together."""
        started, before, done = time.perf_counter(), self.seconds, self.step
        rates: list[float] = []
        units, diverged = 0, None
        take = self.take_step
        try:
            with suppress(Abandoned):
                while len(rates) < take.capacity and not (rates and self.evaluation_is_due()):
                    rate = self.schedule(self.step)
                    rate = require_number("Trainer", "what schedule(step) returns", rate)
                    with self._undone_on_error():
                        take(StepBatches(self), rate)
                    rates.append(rate)
                    self.step += 1
                    units += take.units
            results = take.read()
        except Diverged as error:
            diverged, results = error, list(error.before)
            self.step = done + len(results)
        seconds = time.perf_counter() - started
        self.seconds += seconds
        for i, (loss, norm) in enumerate(results, 1):
            self.record(
                step=done + i,
                loss=loss,
                lr=rates[i - 1],
                norm=norm if self.settings.clip else None,
                seconds=round(before + seconds * i / max(len(rates), 1), 3),
            )
            for callback in self.callbacks:
                callback.on_step(self, done + i, loss, norm if self.settings.clip else None)
                callback.on_repeat(self, done + i)
        if diverged is not None:
            # On a GPU later steps have been launched, with rates of their own.
            raise self.diverged(self.step, diverged.reason, rates[len(results)])
        self.report_memory()
        if self.display is not None and results:
            self.display.step(self.step, self.settings.steps, results[-1][0], units, seconds)

    @contextmanager
    def _undone_on_error(self) -> Iterator[None]:
        """A step that a callback or a batch ended before its update is begun again, with the same
        batches and dropout masks, by the next `run`.
        """
        sampled, masks = self.sampler.state_dict(), self.model.generator.state_dict()
        try:
            with self.model.discard_on_error():
                yield
        except BaseException:
            self.sampler.load_state_dict(sampled)
            self.model.generator.load_state_dict(masks)
            raise

    def evaluation_is_due(self) -> bool:
        """Before the first step, after every `eval_every` steps, and after the last."""
        due = self.step % self.settings.eval_every == 0 or self.step == self.settings.steps
        return due and self.evaluated != self.step

    def evaluate(self, stop: Any = False) -> None:
        """Computes the validation metrics and a sample; saves the checkpoints.

        A stop request abandons the evaluation, and the resumed run begins with it.
        """
        started = time.perf_counter()
        batches = iter(self.data.validation())
        first = next(batches, None)
        if first is None and self.best_step >= 0:
            raise ValueError(
                "Trainer: data.validation() gives no batches, though it gave some before: it must "
                "give the same ones on every call"
            )
        if first is None:  # nothing to evaluate on
            self.evaluated = self.step
            self.save("last")
            return
        batches = itertools.chain([first], batches)
        if self.display is not None:
            total = getattr(self.data, "num_validation_batches", None)
            batches = self.display.evaluating(batches, total)
        metrics = evaluate(self.task, batches, stop)
        if metrics is None:
            return
        loss = metrics[self.task.metric]
        if not math.isfinite(loss):
            with self.model.in_inference():
                why = first_not_finite(self.task, self.data.validation())
            lr = self.optimizer.lr
            raise self.diverged(self.step, f"the validation loss is {loss}{why}", lr)
        rng = np.random.default_rng([self.settings.seed, self.step])
        sample = self.task.sample(rng, stop)
        if stop:
            return
        self.seconds += time.perf_counter() - started
        self.evaluated = self.step
        named = {f"validation_{name}": value for name, value in metrics.items()}
        self.record(step=self.step, **named, seconds=round(self.seconds, 3))
        if sample and self.run_folder is not None:
            self.run_folder.save_sample(self.step, sample)
        # Save the checkpoints last: they record that this evaluation is done.
        is_best = loss < self.best_loss
        if is_best:
            self.best_loss, self.best_step = loss, self.step
            # Write `best` first: `last` records the best loss and must agree with it.
            self.save("best", "last")
        else:
            self.save("last")
        self.report(metrics, is_best, sample)
        for callback in self.callbacks:
            callback.on_evaluate(self, self.step, metrics)

    # --- Output --------------------------------------------------------------------------------

    def record(self, **facts: Any) -> None:
        """One line of the log, or without a run one that is kept in memory."""
        if self.log is not None:
            self.log.write(**facts)
        else:
            self._records.append(facts)

    @property
    def history(self) -> History:
        """The records so far: those of the run's log, or without a run those that it would have."""
        run = self.run_folder
        records = self._records if run is None else read_log(run.log_path)
        return History(records, self.task.loss_unit)

    def _repr_html_(self) -> str:
        """What a notebook shows: how far the training is, and its losses so far."""
        done = f"step {self.step} of {self.settings.steps}"
        if self.best_step >= 0:
            done += f", lowest validation loss {self.best_loss:.4f} at step {self.best_step}"
        return f"<p>{done}</p>{loss_image(self.history, self.task.loss_unit)}"

    def say(self, text: str) -> None:
        if self.display is not None:
            self.display.say(text)

    def report(self, metrics: dict[str, float], is_best: bool, sample: str | None) -> None:
        rates = {n: value for n, value in metrics.items() if n.startswith("loss_per_")}
        shown = [f"validation {n} {v:.4f}" for n, v in metrics.items() if n not in rates]
        line = f"step {self.step} of {self.settings.steps}: {', '.join(shown)}"
        other = [f"{v:.4f} {n[5:].replace('_', ' ')}" for n, v in rates.items()]
        if any(value != metrics["loss"] for value in rates.values()):
            line += f" ({', '.join(other)})"
        display = self.display
        if display is not None and display.loss is not None and display.speed is not None:
            line += f", training loss {display.loss:.4f}, {display.speed:,.0f} {self.task.unit}s/s"
        self.say(line + (" (best so far)" if is_best else ""))
        if sample:
            self.say("\n".join("    " + part for part in sample.strip().split("\n")) + "\n")

    def report_memory(self) -> None:
        """Reports once, as soon as it is known, how much memory is used on the GPU."""
        planned = getattr(self.take_step, "planned_bytes", 0)
        if not planned or self.memory_reported:
            return
        self.memory_reported = True
        storage = self.model.storage
        kept = {id(a): a for a in (storage.values, storage.compute_values, storage.grads)}.values()
        numbers = sum(a.nbytes for a in (*kept, *self.optimizer.slots.values()))
        self.say(
            f"memory on the GPU: {numbers / 1e6:,.1f} MB for weights, gradients and optimizer "
            f"state, {planned / 1e6:,.1f} MB for the activations of a step"
        )

    def diverged(self, step: int, reason: str, lr: float) -> Diverged:
        """The error for a non-finite value found after `step`, with the learning rate `lr`."""
        saved = f"the checkpoint of step {self.saved}" if self.saved >= 0 else "no checkpoint"
        help = f"a smaller lr (it is {lr:g}), a longer warmup or a smaller clip may help; "
        help = "" if OF_A_BATCH in reason else help
        return Diverged(f"training stopped after step {step}", f"{reason}; {help}{saved} is saved")

    # --- Saving and resuming -------------------------------------------------------------------

    def save(self, *which: str) -> None:
        """Replace these checkpoints, in this order, after everything logged so far is on the disk.

        The state is large, so it is packed and hashed only once.
        """
        if self.run_folder is None:
            return
        if self.log is not None:
            self.log.flush()
        data = checkpoint.pack(self.tensors(), self.state())
        for name in which:
            self.run_folder.save_checkpoint(name, data)
            self.saved = self.step

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """The weights and the optimizer's state, by their names in a checkpoint."""
        named = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        slots = self.optimizer.state_dict()
        del slots["step"]
        for slot, values in slots.items():
            named |= {f"optimizer.{slot}.{name}": value for name, value in values.items()}
        return {name: backend.to_numpy(value) for name, value in named.items()}

    def state(self) -> dict[str, Any]:
        """The rest of what a checkpoint holds, as JSON data."""
        assert self.run_folder is not None
        assert self.run_folder.config is not None
        return {
            "step": self.step,
            "evaluated": self.evaluated,
            "best_loss": self.best_loss if self.best_step >= 0 else None,
            "best_step": self.best_step,
            "seconds": self.seconds,
            "optimizer_step": self.optimizer.step_count,
            "sampler": self.sampler.state_dict(),
            "generator": self.model.generator.state_dict(),
            "backend": "cuda" if self.on_gpu else backend.cpu().name,
            "config": self.run_folder.config.to_dict(),
        }

    def restore(self, saved: Checkpoint, name: str) -> None:
        """Take over the state in a checkpoint, which error messages call `name`."""
        checkpoint.require_like(name, saved.tensors, self.tensors())
        checkpoint.require_state(name, saved.state)
        state = saved.state
        try:
            self.sampler.load_state_dict(state["sampler"])
            self.model.generator.load_state_dict(state["generator"])
            self.model.load_state_dict(saved.group("model"))
            slots = {slot: saved.group(f"optimizer.{slot}") for slot in self.optimizer.slots}
            self.optimizer.load_state_dict({**slots, "step": state["optimizer_step"]})
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
        """Remove the log records after the restored step, so that the log is that of one run.

        Before that, `last` is set to the restored step: the log must go at least as far as the
        checkpoint from which a killed process will be resumed.
        """
        assert self.run_folder is not None
        if self.run_folder.saved_step("last") != self.step:
            self.save("last")
        keep_until(self.run_folder.log_path, self.step)

    def finished(self) -> bool:
        return self.step == self.settings.steps and not self.evaluation_is_due()


class _Nothing:
    """The context manager that is used when there is no display."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass
