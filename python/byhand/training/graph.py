"""A training step on the GPU as one CUDA graph, launched once per step.

    first step     runs normally; this creates what is made only once (constants, compiled kernels)
    second step    runs normally while its allocations are recorded (`Plan`)
    third step     is captured, with every array at its planned address, and launched
    later steps    launch the graph

With gradient accumulation there are two graphs, which share one block of memory: one adds the
gradients of a batch, the other adds those of the last batch and makes the update.

No step allocates memory, and none waits for the GPU, except that the host is never more than two
batches ahead of the copies to it. What changes from step to step (the arrays of the batch, the
scale of the loss, the optimizer's settings) is copied to the GPU before the launch. The loss and
the gradient's norm of each step are written to a ring buffer on the GPU, which `read` copies to the
host. If one of them is not finite, later steps may have been launched before this is noticed. With
clipping those steps change nothing: the gradients stay non-finite, and the optimizer makes no
update from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.ops import check, grad_norm
from byhand.optim import Optimizer
from byhand.tasks.task import Batch, Task
from byhand.training.finite import Result, require_finite
from byhand.training.memory_plan import Plan
from byhand.training.pinned import PinnedCopies
from byhand.training.step import Batches, Events, Kept, MeanScale, Silent


class GraphStep:
    """Steps of an optimizer on a task whose model is on the GPU.

    Each call is one update, from one batch or from the added gradients of several. The number of
    batches and the names and shapes of their arrays must be the same in every call. The gradients
    are zero before and after each call.

    Args:
        clip_norm: as for `Optimizer.step`; infinity measures the norm and never clips.
        capacity: how many calls may be made before `read` must be called.

    Raises ValueError if the model is not on the GPU.
    """

    def __init__(
        self,
        task: Task,
        optimizer: Optimizer,
        clip_norm: float | None = None,
        events: Events | None = None,
        capacity: int = 64,
    ):
        values = task.model.storage.values
        if not backend.is_cupy(values):
            raise ValueError("GraphStep: the model must be on the GPU: model.to('cuda')")
        import cupy

        self.task = task
        self._storage, self._version = task.model.storage, task.model.storage.version
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        self.events = events or Silent()
        self.capacity = capacity
        # A blocking stream: it is ordered with work on the default stream, such as other changes of
        # the model.
        self._stream = cupy.cuda.Stream()
        self._copies: PinnedCopies | None = None  # the batch on the GPU, after the first call
        self._scale = backend.zeros((), values, np.float32)
        self._drawn = backend.zeros((), values, np.int64)  # dropout masks drawn before the step
        self._sum = backend.zeros((1,), values)  # of the losses in this step so far
        self._result = backend.zeros((2,), values)  # of the last step: loss, norm
        self._ring = backend.zeros((capacity, 2), values)
        self.units = 0  # in the last call
        self._unread: list[Kept] = []
        self._steps = 0
        self._batches = 0  # in each step
        self._infinity = backend.zeros((), values)
        self._infinity[...] = math.inf
        # One adds the gradients of a batch; the other adds those of the last batch and updates.
        self._adding, self._updating = _Part(self), _Part(self)
        self._block: Array = None  # the memory that both parts use
        task.model.zero_grad()

    def __call__(self, batches: Batches, lr: float | None = None) -> None:
        """One update from the mean loss of these batches, with this learning rate from now on.

        Returns as soon as everything is launched. Raises what the task's ``check`` raises,
        ValueError for names, shapes or a number of batches that differ from the first call's,
        RuntimeError when the ring is full; then the gradients are zero and nothing is updated.
        """
        task, events = self.task, self.events
        storage = task.model.storage
        if storage is not self._storage or storage.version != self._version:
            raise RuntimeError("GraphStep: the model was moved; make a new one after model.to()")
        if len(self._unread) == self.capacity:
            raise RuntimeError(f"GraphStep: {self.capacity} steps were not read: the ring is full")
        if len(batches) != (self._batches or max(len(batches), 1)):
            raise check.wrong_value(
                "GraphStep",
                "the number of batches",
                str(self._batches or "1 or more"),
                len(batches),
            )
        scale, kept = MeanScale(len(batches)), Kept()
        with self._stream:
            if lr is not None:
                self.optimizer.lr = lr
            try:
                for i, batch in enumerate(batches):
                    self._check(batch)
                    kept.add(batch, task.model.generator.count)
                    self._count(scale, batch)
                    self._copy(batch)
                    part, body = self._adding, self._add
                    if i + 1 == len(batches):
                        part, body = self._updating, self._update
                    part.run(body, self._steps, self._block)
                    storage.changes += 1
                    events.forward()
                    events.loss(None)
                    events.backward()
            except BaseException:
                storage.grads[...] = 0
                self._sum[...] = 0
                raise
            self._ring[len(self._unread)] = self._result
        self._batches, self.units = len(batches), scale.units
        self._unread.append(kept)
        self._steps += 1
        if self._steps == 2:
            self._block = self._reserved()

    def _count(self, scale: MeanScale, batch: Batch) -> None:
        """Counts the batch, and copies the scale to the GPU if that changed it."""
        former = scale.value
        factor = scale.count(self.task.count(batch))
        if factor != 1:
            self.task.model.storage.grads *= factor
            self._sum *= factor
        if scale.value != former:
            backend.copy_to(self._scale, np.array(scale.value, self._scale.dtype))

    def read(self) -> list[Result]:
        """(mean loss, gradient's norm before clipping) of each step since the last `read`; the norm
        is None without `clip_norm`. Waits for the GPU.

        Raises Diverged if one is not finite; it names the step, counted from 1, and the tensor.
        Then later steps make no update until `model.zero_grad()` is called.
        """
        with self._stream:
            rows = self._ring.get()[: len(self._unread)].tolist()
        clips = self.clip_norm is not None
        results = [(total, norm if clips else None) for total, norm in rows]
        made, self._unread = self._unread, []
        first = self._steps - len(made) + 1
        for i, (result, kept) in enumerate(zip(results, made, strict=True)):
            where = f"GraphStep: step {first + i}"
            require_finite(where, result, self.task, kept.batches, kept.masks, results[:i])
        return results

    @property
    def planned_bytes(self) -> int:
        """The memory in bytes of a step's activations; 0 before the second step."""
        return max(self._adding.plan.nbytes, self._updating.plan.nbytes)

    def _reserved(self) -> Array:
        import cupy

        # Otherwise the memory freed by the first steps would stay in cupy's pool beside the block.
        cupy.get_default_memory_pool().free_all_blocks()
        return cupy.empty(max(self.planned_bytes, 1), "uint8")

    def _add(self) -> None:
        assert self._copies is not None
        self._sum += self.task.loss(self._copies.arrays, self._scale)
        self.task.backward()

    def _update(self) -> None:
        self._add()
        norm = self.optimizer.step(clip_norm=self.clip_norm)
        self._result[:1] = self._sum
        if norm is not None:
            self._result[1:] = norm
        self._sum[...] = 0
        # Zero by multiplying: NaN * 0 = NaN, so later steps stay non-finite and are skipped too.
        grad_norm.clip(self.task.model.storage.grads, self._infinity, 1.0)

    def _copy(self, batch: Batch) -> None:
        if self._copies is None:
            self._copies = PinnedCopies(batch, self._sum)
        self._copies.copy(batch)

    def _check(self, batch: Batch) -> None:
        for name, array in batch.items():
            if not isinstance(array, np.ndarray):
                raise TypeError(
                    f"GraphStep: {name} must be a numpy array, got {type(array).__name__}"
                )
        self.task.check(batch)
        if self._copies is None:
            return
        first = self._copies.arrays
        if batch.keys() != first.keys():
            raise ValueError(
                f"GraphStep: a batch must have {', '.join(first)}, got {', '.join(batch)}"
            )
        for name, array in batch.items():
            if array.shape != first[name].shape:
                raise ValueError(
                    f"GraphStep: {name} must have shape {first[name].shape}, got "
                    f"{array.shape}: all batches of a captured step have the same shapes (an "
                    "EpochSampler needs drop_last=True)"
                )


class _Part:
    """A part of each step: run normally in the first step, planned in the second, captured in the
    third, then launched.
    """

    def __init__(self, step: GraphStep):
        self.plan = Plan()
        self._stream = step._stream
        self._generator = step.task.model.generator
        self._drawn = step._drawn
        self._draws = 0  # dropout masks drawn by one run
        self._graph: Any = None

    def run(self, body: Callable[[], None], steps: int, block: Array) -> None:
        """steps: how many were done before. block: the memory for the plan."""
        before = self._generator.count
        with self._generator.offset_from(self._drawn):
            if self._graph is None:
                self._run_in_python(body, steps, block)
                self._draws = self._generator.count - before
            else:
                self._graph.launch(self._stream)
        self._generator.count = before + self._draws

    def _run_in_python(self, body: Callable[[], None], steps: int, block: Array) -> None:
        if steps == 0:
            body()
        elif steps == 1:
            with self.plan.record():
                body()
        else:
            with self.plan.replay(block):
                graph = self._capture(body)
            graph.launch(self._stream)
            self._graph = graph

    def _capture(self, body: Callable[[], None]) -> Any:
        self._stream.begin_capture()
        try:
            body()
        except BaseException:
            with suppress(
                Exception
            ):  # the graph is incomplete, and ending the capture may fail too
                self._stream.end_capture()
            raise
        return self._stream.end_capture()
