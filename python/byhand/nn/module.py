"""The base of every layer and model.

A module's ``forward`` pushes what its ``backward`` needs onto a stack, and ``backward`` pops it:
last in, first out, so that a backward pass is the forward pass read from the bottom up. Gradients
of activations are returned (written); gradients of parameters are added to ``Parameter.grad``.

Parameters are declared first and get their memory from ``build``, which is called once on the whole
model: finished models call it themselves.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.nn import tree
from byhand.nn.parameter import Buffer, Parameter, require_held
from byhand.nn.random import Generator
from byhand.nn.storage import Storage, library_of, parameter_dtype
from byhand.ops import check

M = TypeVar("M", bound="Module")


class PilingUp(UserWarning):
    """Warns that saved forward passes accumulate because no backward passes are run."""


class Module:
    """Subclasses declare parameters and parts in ``__init__`` and write ``forward`` and
    ``backward``::

        class Scale(nn.Module):
            def __init__(self, dim):
                self.weight = nn.Parameter((dim,), nn.init.ones)

            def forward(self, x):
                self.push(x)
                return x * self.weight.compute_value

            def backward(self, dy):
                x = self.pop()
                if self.weight.grad is not None:
                    self.weight.grad += (dy * x).reshape(-1, x.shape[-1]).sum(0)
                return dy * self.weight.compute_value

    The parts of a module (modules, parameters, buffers) are its attributes, and the items of lists,
    tuples and dicts that are attributes. Attributes that begin with an underscore are not parts.

    Attributes:
        training: whether dropout is active and running statistics are updated.
        waiting_limit: the number of saved forward passes of one module, without backward passes, at
            which a `PilingUp` warning is given (once per process).
    """

    training: bool = True
    waiting_limit: int = 64
    _has_warned: bool = False  # whether any module of this process has warned
    _saving: bool = True
    _bf16: bool = False
    _storage: Storage | None = None
    _root: bool = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def backward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    # --- What forward saves for backward -------------------------------------------------------

    def push(self, saved: Any) -> None:
        """Keeps ``saved`` for the matching ``backward``; does nothing while saving is off."""
        if self._saving:
            stack = self.__dict__.setdefault("_saved", [])
            stack.append(saved)
            if len(stack) == self.waiting_limit and not Module._has_warned:
                Module._has_warned = True
                warnings.warn(
                    f"{len(stack)} forward passes of {type(self).__name__} are kept in memory and "
                    "had no backward pass yet; to evaluate a model, use inference() or no_save(), "
                    "which keep nothing (for a long loop over time, raise waiting_limit)",
                    PilingUp,
                    stacklevel=3,
                )

    def peek(self) -> Any:
        """What the next ``pop`` will return."""
        stack = self.__dict__.get("_saved")
        if not stack:
            raise RuntimeError(
                f"{type(self).__name__}.backward was called without a forward pass before it"
                + ("" if self._saving else " (inference() and no_save() keep nothing for it)")
            )
        return stack[-1]

    def pop(self) -> Any:
        saved = self.peek()
        self.__dict__["_saved"].pop()
        return saved

    def discard_saved(self) -> None:
        """Drops what forward passes have saved for backward passes that were not run."""
        for _, module in self.named_modules():
            module.__dict__.pop("_saved", None)

    @contextmanager
    def no_save(self) -> Iterator[None]:
        """Inside the ``with`` block forward passes save nothing, so no backward can follow."""
        before = [(module, module._saving) for _, module in self.named_modules()]
        for module, _ in before:
            module._saving = False
        try:
            yield
        finally:
            for module, saving in before:
                module._saving = saving

    @contextmanager
    def discard_on_error(self) -> Iterator[None]:
        """Drops the saved values when an error in the ``with`` block ends a forward pass early."""
        try:
            yield
        except BaseException:
            self.discard_saved()
            raise

    # --- Modes ---------------------------------------------------------------------------------

    def train(self: M) -> M:
        """Training mode: dropout is active, running statistics are updated."""
        return self._mode(True, True)

    def eval(self: M) -> M:
        """Evaluation mode: no dropout, fixed statistics. A backward pass is still possible."""
        return self._mode(False, True)

    def inference(self: M) -> M:
        """Evaluation mode in which forward passes save nothing: no backward pass can follow."""
        return self._mode(False, False)

    def _mode(self: M, training: bool, saving: bool) -> M:
        for _, module in self.named_modules():
            module.training, module._saving = training, saving
        return self

    @contextmanager
    def in_inference(self) -> Iterator[None]:
        """Inference mode inside the ``with`` block; after it each module has its former mode."""
        before = [(m, m.training, m._saving) for _, m in self.named_modules()]
        self.inference()
        try:
            yield
        finally:
            for module, training, saving in before:
                module.training, module._saving = training, saving

    # --- The tree ------------------------------------------------------------------------------

    def walk(self) -> Iterator[tuple[str, Module | Parameter | Buffer]]:
        """(path, object) of this module and of every module, parameter and buffer below it, each
        once; a shared one comes under its first path.
        """
        yield from tree.walk(self, "", set(), Module)

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """(path, module); this module first, under the path ""."""
        return ((name, m) for name, m in self.walk() if isinstance(m, Module))

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(path, parameter); a tied parameter under its first path."""
        return ((name, p) for name, p in self.walk() if isinstance(p, Parameter))

    def named_buffers(self) -> Iterator[tuple[str, Buffer]]:
        return ((name, b) for name, b in self.walk() if isinstance(b, Buffer))

    def parameters(self) -> list[Parameter]:
        return [p for _, p in self.named_parameters()]

    def num_parameters(self, trainable: bool = False) -> int:
        """How many numbers all (or all trainable) parameters have; a tied matrix counts once."""
        return sum(p.size for p in self.parameters() if p.trainable or not trainable)

    def summary(self) -> str:
        """A table: each parameter's path, shape and size, and the totals."""
        return tree.table(list(self.named_parameters()))

    # --- Memory --------------------------------------------------------------------------------

    def build(
        self: M,
        seed: int = 0,
        device: str | None = None,
        dtype: Any = None,
        draw: bool = True,
    ) -> M:
        """Gives every parameter and buffer its memory and initial values, and returns the module.

        Call it on the whole model. Parts that were built before keep their values, so a trained
        model can become a part of a larger one, and an adapter can replace a layer. An optimizer
        that was made for such a part raises an error when it is used afterwards.

        Args:
            seed: of the initial values, drawn from (seed, path) each, and of dropout masks.
            device: "cpu" or "cuda"; None: that of the parts built before, else "cpu".
            dtype: "float32" or "float64" (check mode); None: that of the parts, else "float32".
            draw: False leaves the initial values undefined, for weights that will be loaded.

        Raises ValueError for a part of a model that is built already (build that model), for an
        initialiser that gives another shape, and for an unknown device or dtype; CudaUnavailable
        with the reason where there is no CUDA. In that case nothing is changed.
        """
        library = library_of(device)
        where = f"{type(self).__name__}.build"
        named = list(self.named_parameters())
        buffers = list(self.named_buffers())
        tensors: list[tuple[str, Parameter | Buffer]] = [*named, *buffers]
        if twice := tree.repeated([name for name, _ in tensors]):
            raise ValueError(f"{where}: two different tensors have the path {twice!r}")
        former = list({id(p.storage): p.storage for _, p in named if p.storage}.values())
        own = {id(p) for _, p in named}
        modules = [module for _, module in self.named_modules()]
        # A model whose parts were replaced has a storage with parameters that are no longer its.
        whole = {id(m._storage) for m in modules if m._root}
        outside = self._storage is not None and self._storage.valid and not self._root
        if outside or any(
            storage.valid
            and id(storage) not in whole
            and any(id(p) not in own for p in storage.params)
            for storage in former
        ):
            raise ValueError(
                f"{where}: this is a part of a model that is built already; build the model, or "
                "a copy of the part (copy.deepcopy)"
            )
        if dtype is not None:
            dtype = parameter_dtype(dtype)
        elif former:
            dtype = former[0].values.dtype
        there = former[0].values if former else None
        if library is not None:
            there = library.empty(0, np.float32)
        names = [(a, a.name) for _, a in tensors]
        for name, a in tensors:
            a.name = name
        try:
            storage = Storage(
                [p for _, p in named],
                [b for _, b in buffers],
                seed,
                np.float32 if dtype is None else dtype,
                draw,
                half=self._bf16 and there is not None and backend.is_cupy(there),
                like=there,
            )
        except BaseException:
            for a, name in names:
                a.name = name
            raise
        for module in modules:
            module._storage, module._root, module._bf16 = storage, module is self, self._bf16
        self._modules = modules
        return self

    @property
    def storage(self) -> Storage:
        """The flat buffers of the model; for a part, those of the model that it belongs to."""
        if self._storage is None:
            raise RuntimeError(
                f"{type(self).__name__} is not built: call build() on the model, which gives its "
                "parameters their memory"
            )
        return self._storage

    @property
    def is_root(self) -> bool:
        """Whether the storage holds this module and nothing else."""
        return self._root and self.storage.valid

    @property
    def generator(self) -> Generator:
        """The source of the model's dropout masks."""
        return self.storage.generator

    def zero_grad(self) -> None:
        """Sets the gradient of every parameter of this module to zero.

        Raises RuntimeError when a forward pass still waits for its backward pass.
        """
        modules = self._modules if self._root else [m for _, m in self.named_modules()]
        for module in modules:
            if waiting := len(module.__dict__.get("_saved", ())):
                raise RuntimeError(
                    f"{waiting} forward pass(es) of {type(module).__name__} had no backward pass; "
                    "call backward(), or run them after inference() or inside no_save(), or drop "
                    "them with discard_saved()"
                )
        if self.is_root:
            self.storage.grads[...] = 0
            return
        for p in self.parameters():
            if p.grad is not None:
                p.grad[...] = 0

    def freeze(self, match: tree.Match = None) -> None:
        """Stops training the parameters whose paths match: a pattern such as "decoder.blocks.*", a
        list of patterns, a function of the path, or None for all. Their gradients are dropped, and
        a new optimizer must be made. Raises ValueError when nothing matches.
        """
        self._set_trainable(match, False)

    def unfreeze(self, match: tree.Match = None) -> None:
        """The reverse of ``freeze``."""
        self._set_trainable(match, True)

    def _set_trainable(self, match: tree.Match, trainable: bool) -> None:
        accepts = tree.matcher(match)
        found = [(name, p) for name, p in self.named_parameters() if accepts(name)]
        if not found:
            raise ValueError(f"{type(self).__name__} has no parameter that matches {match!r}")
        for name, p in found:
            if trainable and p.dtype is not None:
                raise ValueError(f"{name} is kept in {p.dtype} and cannot be trained")
        changed = [p for _, p in found if p.trainable != trainable]
        for p in changed:
            p._trainable = trainable
        for storage in {id(p.storage): p.storage for p in changed if p.storage}.values():
            storage.move(half=storage.compute_values is not storage.values)

    def state_dict(self) -> dict[str, Array]:
        """{path: value} of every parameter and persistent buffer; the values are views."""
        return {name: a.value for name, a in self._state()}

    def _state(self) -> Iterator[tuple[str, Parameter | Buffer]]:
        for name, a in self.walk():
            if isinstance(a, Parameter) or (isinstance(a, Buffer) and a.persistent):
                yield name, a

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copies values in, cast to this model's dtype.

        Raises ValueError naming what is missing, unknown, of another shape or not representable
        (0.5 in an int8 tensor), TypeError naming what is not an array; in that case nothing is
        changed.
        """
        own = dict(self._state())
        storage = self.storage
        if missing := [name for name in own if name not in state]:
            raise ValueError(f"load_state_dict: missing parameters: {tree.some(missing)}")
        if unknown := [name for name in state if name not in own]:
            raise ValueError(f"load_state_dict: unknown parameters: {tree.some(unknown)}")
        for name, a in own.items():
            if not hasattr(state[name], "shape"):
                raise check.not_an_array("load_state_dict", name, state[name])
            if tuple(state[name].shape) != a.shape:
                raise ValueError(
                    f"load_state_dict: {name} must have shape {a.shape}, "
                    f"got {tuple(state[name].shape)}"
                )
            require_held(f"load_state_dict: {name}", state[name], a.value.dtype)
        for name, a in own.items():
            a.value[...] = backend.to_device_of(state[name], a.value)
        storage.refresh()

    def to(self: M, device: str | None = None, dtype: Any = None) -> M:
        """Moves the model to ``device`` ("cpu", "cuda") and casts it to ``dtype`` ("float32", or
        "float64": check mode on the numpy reference). Called on a part, it moves the whole model. A
        new optimizer must be made afterwards.

        Raises ValueError for an unknown device or dtype and CudaUnavailable with the reason when
        there is no CUDA.
        """
        library = library_of(device)
        dtype = None if dtype is None else parameter_dtype(dtype)
        storage = self.storage
        on_gpu = backend.is_cupy(storage.values) if library is None else library is not np
        single = (storage.values.dtype if dtype is None else np.dtype(dtype)) == np.float32
        storage.move(library, dtype, half=self._bf16 and on_gpu and single)
        return self

    @property
    def precision(self) -> str:
        """The precision of the products of linear layers: "float32", or "bf16": factors rounded to
        bfloat16, sums in float32. Parameters, activations, gradients and everything else are
        float32 either way (Micikevicius et al., 2018, section 3). On a GPU bf16 also stores
        activations, and a copy of the parameters that forward passes read, in bfloat16; the
        parameters themselves and their gradients are float32 there too.

        Setting it also sets it for every module below. Raises ValueError for any other value.
        """
        return "bf16" if self._bf16 else "float32"

    @precision.setter
    def precision(self, precision: str) -> None:
        if precision not in backend.PRECISIONS:
            raise ValueError(
                f"precision must be one of {', '.join(backend.PRECISIONS)}, got {precision!r}"
            )
        for _, module in self.named_modules():
            module._bf16 = precision == "bf16"
        if self._storage is not None and backend.is_cupy(self._storage.values):
            self.to()

    # --- Copies --------------------------------------------------------------------------------

    # A pickled part has the memory of its whole model; pickle its deep copy for the part alone.
    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_saved"}

    def __deepcopy__(self: M, memo: dict[int, Any]) -> M:
        """A copy with memory of its own and without saved forward passes. A copy of a part is a
        model that consists of that part alone, unless its model is copied in the same call.
        """
        storage = self._storage
        first = storage is not None and id(storage) not in memo
        copied = copy.deepcopy(storage, memo)
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        vars(made).update(copy.deepcopy(self.__getstate__(), memo))
        if storage is None or copied is None:
            return made
        if self._root and storage.valid and not copied.valid:
            # A part was copied before its model, and became a model: it is a part again.
            copied.rebind_like(storage)
            for _, module in made.named_modules():
                module._storage, module._root = copied, module is made
        elif not self._root and (first or not copied.valid):
            copied.version = -1
            with suppress(ValueError):  # it shares a parameter with a part copied before
                made.build()
                made.storage.generator = copied.generator
        return made
