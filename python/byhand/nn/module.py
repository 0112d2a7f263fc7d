"""The base of every layer and model.

A module's ``forward`` pushes what its ``backward`` needs onto a stack, and ``backward`` pops it:
last in, first out, so that a backward pass is the forward pass read from the bottom up. Gradients
of activations are returned (written); gradients of parameters are added to ``Parameter.grad``.

Parameters are declared first and get their memory from ``build``, which is called once on the whole
model: finished models call it themselves.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy import ndarray

from byhand import backend
from byhand.backend import Array
from byhand.errors import Instead
from byhand.nn import build, show, tree
from byhand.nn.parameter import Buffer, Parameter, require_finite, require_held
from byhand.nn.passes import Passes
from byhand.nn.protocol import converted, taken
from byhand.nn.random import Generator
from byhand.nn.storage import Storage, library_of, parameter_dtype
from byhand.ops import check

if TYPE_CHECKING:
    from byhand.nn.summary import Summary

M = TypeVar("M", bound="Module")


class Module(Passes):
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
        waiting_limit: the number of saved forward passes of one module, without backward passes, at
            which a `PilingUp` warning is given (once per process).
    """

    _bf16: bool = False
    _storage: Storage | None = None
    _root: bool = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no forward(...)")

    def backward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no backward(...)")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """``forward``. Arrays of other libraries are converted by `backend.from_dlpack`: here those
        that a whole model is given; the operations convert those that a part of a model is given.
        """
        if self._root or self._storage is None:
            for a in (*args, *kwargs.values()) if kwargs else args:
                if type(a) is not ndarray and hasattr(a, "__dlpack__"):
                    args, kwargs = converted(type(self).__name__, self.forward, args, kwargs)
                    break
        return self.forward(*args, **kwargs)

    if not TYPE_CHECKING:  # type checkers shall find these names
        cuda = Instead("to('cuda')")
        cpu = Instead("to('cpu')")
        double = Instead("to(dtype='float64')")
        float = Instead("to(dtype='float32')")
        bfloat16 = Instead("precision = 'bf16'")
        requires_grad_ = Instead("freeze() and unfreeze()")
        modules = Instead("named_modules()")
        children = Instead("named_modules()")
        numel = Instead("num_parameters()")

    def __setattr__(self, name: str, value: Any) -> None:
        old = self.__dict__.get(name)
        if isinstance(old, (Parameter, Buffer, Module)) and (
            isinstance(value, (bool, int, float, str, np.generic)) or backend.is_array(value)
        ):
            kind = "module" if isinstance(old, Module) else type(old).__name__
            how = "its attributes" if isinstance(old, Module) else f"{name}.value"
            raise TypeError(
                f"{type(self).__name__}.{name} is a {kind}, got {type(value).__name__}: set {how}, "
                f"or assign another {kind}"
            )
        super().__setattr__(name, value)

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

    def __repr__(self) -> str:
        return show.tree_of(self, Module)

    def _repr_html_(self) -> str:
        return show.html_of(repr(self))

    # --- What it needs -------------------------------------------------------------------------

    def summary(self, *inputs: Any, batch: int | None = None, moments: int = 2) -> Summary:
        """A table of the layers with the shapes of their outputs, their parameters, floating-point
        operations and memory, and the totals of a training step: see `nn.summary.Summary`. A
        forward pass in training mode is run for it and undone.

        Args:
            inputs: of ``forward``: arrays, or their shapes, such as ``summary((8, 64))``. Shapes
                are those of arrays of zeros: of int64 where the first layer takes ids, of the
                model's dtype elsewhere. Without inputs a model that knows their shape is given
                ``batch`` examples; any other module has only its parameters shown.
            batch: the number of examples, in place of ``inputs``; 1 if none of them is given.
            moments: how many numbers the optimizer keeps for each trained parameter: 2 for AdamW
                and Adam, 1 for SGD with momentum, 0 without.

        Raises RuntimeError for a module that is not built, ValueError or TypeError naming the
        argument that is wrong, and the error of ``forward`` for inputs that do not fit.
        """
        from byhand.nn.measure import made_inputs, summarize

        if self._storage is None and self.parameters():
            self.storage  # noqa: B018  # its error says what to do
        return summarize(self, Module, made_inputs(self, inputs, batch), moments)

    def flops(self, *shapes: Any, **options: Any) -> tuple[int, int]:
        """Floating-point operations that this module itself computes: in a forward pass, and in the
        backward pass after it. The arguments are the shapes of ``forward``'s, None for one that is
        not an array.

        Two for each multiply-add of a matrix product; other operations, and modules that it calls,
        do not count. A layer of your own that multiplies matrices overrides it.
        """
        return 0, 0

    # The dtype (None: the model's) and the shape of the inputs that `summary` makes where it is
    # given shapes, or only the number of examples; None for a shape that is not known.
    _input_dtype: Any = None

    def _input_shape(self, batch: int) -> tuple[int, ...] | None:
        return None

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
            seed: of the initial values of what has none yet, drawn from (seed, path) each, and of
                dropout masks. It does not change values that are there already.
            device: "cpu" or "cuda"; None: that of the parts built before, else "cpu".
            dtype: "float32" or "float64" (check mode); None: that of the parts, else "float32".
            draw: False leaves the initial values undefined, for weights that will be loaded.

        Raises ValueError for a part of a model that is built already (build that model), for an
        initialiser that gives another shape, and for an unknown device or dtype; CudaUnavailable
        with the reason where there is no CUDA. In that case nothing is changed.
        """
        self._modules = build.build(self, seed, library_of(device), dtype, draw)
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
        if waiting := self.waiting():
            raise RuntimeError(waiting)
        if self.is_root:
            backend.set_zero(self.storage.grads)
            return
        for p in self.parameters():
            if p.grad is not None:
                p.grad[...] = 0

    def freeze(self, match: tree.Match = None) -> None:
        """Stops training the parameters whose paths match: a pattern such as "decoder.blocks.*", a
        list of patterns, a function of the path, or None for all. A shared parameter is frozen if
        any of its paths matches: with a tied head, "head.*" freezes the token embedding too. The
        gradients are dropped, and a new optimizer must be made. Raises ValueError when nothing
        matches.
        """
        self._set_trainable(match, False)

    def unfreeze(self, match: tree.Match = None) -> None:
        """The reverse of ``freeze``."""
        self._set_trainable(match, True)

    def _set_trainable(self, match: tree.Match, trainable: bool) -> None:
        accepts = tree.matcher(match)
        every = tree.every_path(self, Module)
        found = [(n, p) for n, p in every if isinstance(p, Parameter) and accepts(n)]
        if not found:
            raise ValueError(f"{type(self).__name__} has no parameter that matches {match!r}")
        for name, p in found:
            if trainable and p.dtype is not None:
                raise ValueError(f"{name} is kept in {p.dtype} and cannot be trained")
        changed = [p for _, p in found if p.trainable != trainable]
        for p in changed:
            p._trainable = trainable
        for storage in {id(p.storage): p.storage for p in changed if p.storage}.values():
            storage.rearrange()

    def state_dict(self) -> dict[str, Array]:
        """{path: value} of every parameter and persistent buffer; the values are views."""
        return {name: a.value for name, a in self._state()}

    def _state(self) -> Iterator[tuple[str, Parameter | Buffer]]:
        for name, a in self.walk():
            if isinstance(a, Parameter) or (isinstance(a, Buffer) and a.persistent):
                yield name, a

    def load_state_dict(self, state: Mapping[str, Any], allow_non_finite: bool = False) -> None:
        """Copies values in, cast to this model's dtype; tensors of other libraries are
        taken too.

        Raises ValueError naming what is missing, unknown, of another shape, not representable (0.5
        in an int8 tensor) or, unless ``allow_non_finite``, NaN or infinite; TypeError naming what
        is not an array. In that case nothing is changed.
        """
        if not isinstance(state, Mapping):
            raise TypeError(
                f"load_state_dict takes a dict of arrays by path, got {type(state).__name__}"
            )
        own = dict(self._state())
        storage = self.storage
        if missing := [name for name in own if name not in state]:
            raise ValueError(f"load_state_dict: missing parameters: {tree.some(missing)}")
        if unknown := [name for name in state if name not in own]:
            raise ValueError(f"load_state_dict: unknown parameters: {tree.some(unknown)}")
        state = {name: taken(f"load_state_dict: {name}", state[name]) for name in own}
        for name, a in own.items():
            if not hasattr(state[name], "shape"):
                raise check.not_an_array("load_state_dict", name, state[name])
            if tuple(state[name].shape) != a.shape:
                raise ValueError(
                    f"load_state_dict: {name} must have shape {a.shape}, "
                    f"got {tuple(state[name].shape)}"
                )
            require_held(f"load_state_dict: {name}", state[name], a.value.dtype)
            if not allow_non_finite:
                require_finite(f"load_state_dict: {name}", state[name])
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

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in vars(self).items() if name != "_saved"}
        if self._storage is not None and not self._root:
            # A part that is pickled alone does not carry its model.
            state.pop("_modules", None)
            storage = state.pop("_storage")
            state["_alone"] = storage.generator, storage.dtype
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        storage = self._storage
        if self._root and storage is not None:
            storage.restore()
            for name, part in self.walk():
                if isinstance(part, Module):
                    part._storage, part._root = storage, part is self
                else:
                    part.name = name
        elif alone := vars(self).pop("_alone", None):
            # Memory of its own, until a model that it is a part of, and that is read after it,
            # takes it over.
            with suppress(ValueError):  # it shares a parameter with a part that was read before
                self.build(dtype=alone[1])
                self.storage.generator = alone[0]

    def __copy__(self: M) -> M:
        """Another module with the same parts."""
        made = type(self).__new__(type(self))
        vars(made).update(vars(self))
        return made

    def __deepcopy__(self: M, memo: dict[int, Any]) -> M:
        """A copy with memory of its own and without saved forward passes. A copy of a part is a
        model that consists of that part alone, unless its model is copied in the same call.
        """
        storage = self._storage
        first = storage is not None and id(storage) not in memo
        copied = copy.deepcopy(storage, memo)
        made = type(self).__new__(type(self))
        memo[id(self)] = made
        state = self.__getstate__()
        if state.pop("_alone", None):
            state["_storage"] = storage
        vars(made).update(copy.deepcopy(state, memo))
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
