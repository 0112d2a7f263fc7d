"""A training step that lives on the GPU: one CUDA graph, launched once a step.

    first step     runs as it is: whatever is made once (constants, compiled kernels) is made now
    second step    runs while its allocations are written down (`Plan`)
    third step     is captured, with every array at its planned place, and launched
    from then on   the graph is launched

Where gradients of several batches are added up there are two graphs, in the same block of memory:
one adds, the other has the last batch and the update.

Nothing in a step allocates or waits for the GPU. What changes from step to step lies on the GPU
and is sent there before the launch: token ids, targets and the optimizer's settings. The loss and
the gradient's norm of each step go to a ring there, which `read` brings back. Where one of them is
not finite nobody has noticed yet, so the steps behind it are made as well. Clipped, they change
nothing: the gradients that are not finite stay so, and `AdamW` makes no update from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.ops import check, grad_norm
from byhand.training.finite import Batch, Result, require_finite
from byhand.training.plan import Plan

if TYPE_CHECKING:
    from byhand.models.gpt import GPT
    from byhand.optim import AdamW


class StepGraph:
    """Steps of `optimizer` on a GPT whose parameters are on the GPU.

    Each call is one update, from one batch or from several whose gradients are added up: always as
    many, all of the same shape. The gradients are zero before and after each call.

    Args:
        clip_norm: as for `AdamW.step`; infinity measures the norm and never clips.
        ring: how many steps may follow one another before `read`.

    Raises ValueError where the model is not on the GPU.
    """

    def __init__(
        self, model: GPT, optimizer: AdamW, clip_norm: float | None = None, ring: int = 64
    ):
        values = model.arena.values
        if not backend.is_cupy(values):
            raise ValueError("StepGraph: the model must be on the GPU: model.to('cuda')")
        import cupy

        self.model = model
        self._arena = model.arena
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        # Not a non-blocking one: what is done to the model elsewhere comes before or after a step.
        self._stream = cupy.cuda.Stream()
        self._ids: Array = None
        self._targets: Array = None
        self._drawn = backend.zeros((), values, np.int64)  # dropout masks before the step
        self._sum = backend.zeros((1,), values)  # of the losses of a step so far
        self._result = backend.zeros((2,), values)  # of the last step: that sum, the norm
        self._ring = backend.zeros((ring, 2), values)
        self._unread: list[tuple[Sequence[Batch], int]] = []  # with the masks drawn before
        self._steps = 0
        self._batches = 0  # of each step
        self._infinity = backend.zeros((), values)
        self._infinity[...] = math.inf
        # Adding to the gradients, and the last time with the update behind it.
        self._adding, self._updating = _Part(self), _Part(self)
        self._block: Array = None  # for the arrays of either
        model.zero_grad()

    def __call__(self, batches: Sequence[Batch], lr: float | None = None) -> None:
        """One update from the mean loss of these batches, with this learning rate from now on.

        Returns as soon as all of it is on its way. Raises IndexError for an id outside the
        vocabulary, ValueError for shapes or a number of batches that differ from the first call's,
        RuntimeError when the ring is full.
        """
        if self.model.arena is not self._arena:
            raise RuntimeError("StepGraph: the model was moved; make a new one after model.to()")
        if len(self._unread) == len(self._ring):
            raise RuntimeError(
                f"StepGraph: {len(self._ring)} steps were not read: the ring is full"
            )
        if len(batches) != (self._batches or max(len(batches), 1)):
            raise check.wrong_value(
                "StepGraph",
                "the number of batches",
                str(self._batches or "1 or more"),
                len(batches),
            )
        for ids, targets in batches:
            self._check(ids, targets)
        self._batches, dloss = len(batches), 1 / len(batches)
        masks = self.model.generator.count
        with self._stream:
            if lr is not None:
                self.optimizer.lr = lr
            for ids, targets in batches[:-1]:
                self._send(ids, targets)
                self._adding.run(lambda: self._add(dloss), self._steps, self._block)
            self._send(*batches[-1])
            self._updating.run(lambda: self._update(dloss), self._steps, self._block)
            self._ring[len(self._unread)] = self._result
        self._unread.append((batches, masks))
        self._steps += 1
        if self._steps == 2:
            self._block = self._reserved()

    def read(self) -> list[Result]:
        """(mean loss, gradient's norm before clipping) of each step since the last `read`; the norm
        is None without `clip_norm`. Waits for the GPU.

        Raises Diverged where one is not finite: it names the step, counted from 1, and the tensor.
        After `model.zero_grad()` steps count again.
        """
        with self._stream:
            rows = self._ring.get()[: len(self._unread)].tolist()
        clips = self.clip_norm is not None
        results = [(total / self._batches, norm if clips else None) for total, norm in rows]
        made, self._unread = self._unread, []
        first = self._steps - len(made) + 1
        for i, (result, (batches, masks)) in enumerate(zip(results, made, strict=True)):
            where = f"StepGraph: step {first + i}"
            require_finite(where, result, self.model, batches, masks, results[:i])
        return results

    @property
    def planned_bytes(self) -> int:
        """The memory of a step's activations; 0 before the second step."""
        return max(self._adding.plan.nbytes, self._updating.plan.nbytes)

    def _reserved(self) -> Array:
        import cupy

        # What the steps so far have freed would lie beside the block for nothing.
        cupy.get_default_memory_pool().free_all_blocks()
        return cupy.empty(max(self.planned_bytes, 1), "uint8")

    def _add(self, dloss: float) -> None:
        self._sum += self.model.loss(self._ids, self._targets, dloss)
        self.model.backward()

    def _update(self, dloss: float) -> None:
        self._add(dloss)
        norm = self.optimizer.step(self.clip_norm)
        self._result[:1] = self._sum
        if norm is not None:
            self._result[1:] = norm
        self._sum[...] = 0
        # Multiplied by 0, for NaN remains: a step behind one that is not finite is none either.
        grad_norm.clip(self._arena.grads, self._infinity, 1.0)

    def _send(self, ids: Any, targets: Any) -> None:
        if self._ids is None:
            self._ids, self._targets = (backend.to_device_of(a, self._sum) for a in (ids, targets))
        else:
            backend.copy_to(self._ids, np.ascontiguousarray(ids))
            backend.copy_to(self._targets, np.ascontiguousarray(targets))

    def _check(self, ids: Any, targets: Any) -> None:
        vocabulary = self.model.config.vocabulary_size
        for name, array, ignored in (("ids", ids, None), ("targets", targets, -100)):
            if not isinstance(array, np.ndarray):
                raise TypeError(
                    f"StepGraph: {name} must be a numpy array, got {type(array).__name__}"
                )
            check.ids("StepGraph", name, array, vocabulary, ignored)
            expected = ids.shape if self._ids is None else self._ids.shape
            if array.shape != expected:
                raise check.wrong_shape("StepGraph", name, expected, array)


class _Part:
    """Something that is done in each step: run in the first, planned in the second, captured in the
    third, then launched.
    """

    def __init__(self, step: StepGraph):
        self.plan = Plan()
        self._stream = step._stream
        self._generator = step.model.generator
        self._drawn = step._drawn
        self._draws = 0  # dropout masks each time
        self._graph: Any = None

    def run(self, body: Callable[[], None], steps: int, block: Array) -> None:
        """steps: those done before. block: the memory for the plan."""
        before = self._generator.count
        with self._generator.counted_from(self._drawn):
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
            with suppress(Exception):  # the graph is of no use, and so may be ending it
                self._stream.end_capture()
            raise
        return self._stream.end_capture()
