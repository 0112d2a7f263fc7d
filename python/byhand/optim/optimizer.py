"""What all optimizers share: parameter groups, learning rates on the device, and named state."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.errors import Instead
from byhand.nn import tree
from byhand.nn.module import Module
from byhand.nn.parameter import Parameter
from byhand.ops import grad_norm
from byhand.optim.state import by_path, require_arrays, require_count, require_unmoved


class Group:
    """Parameters with a learning rate and a weight decay of their own.

    Attributes:
        names: the paths of the parameters, in the order of the flat buffer; read only.
        lr, weight_decay: may be set between steps; None: the optimizer's.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        names: list[str],
        lr: float | None,
        weight_decay: float | None,
    ):
        self._optimizer = optimizer
        self._names = tuple(names)
        self._lr = None if lr is None else optimizer.number("lr", lr)
        self._weight_decay = (
            None if weight_decay is None else optimizer.number("weight_decay", weight_decay)
        )

    @property
    def names(self) -> list[str]:
        return list(self._names)

    @property
    def lr(self) -> float:
        return self._optimizer.lr if self._lr is None else self._lr

    @lr.setter
    def lr(self, value: float | None) -> None:
        self._lr = None if value is None else self._optimizer.number("lr", value)
        self._optimizer._copy_settings()

    @property
    def weight_decay(self) -> float:
        own = self._weight_decay
        return self._optimizer.weight_decay if own is None else own

    @weight_decay.setter
    def weight_decay(self, value: float | None) -> None:
        own = None if value is None else self._optimizer.number("weight_decay", value)
        self._weight_decay = own
        self._optimizer._copy_settings()

    def __repr__(self) -> str:
        return (
            f"Group({len(self.names)} parameters, lr={self.lr:g}, "
            f"weight_decay={self.weight_decay:g})"
        )


class Optimizer:
    """The base of optimizers, each of which updates all trainable parameters of a model in one pass
    over its flat buffer.

    In every group, weight decay applies to matrices and embeddings but not to biases and norms (see
    ``Parameter.decay``). A subclass lists the names of its state in ``SLOTS``, one flat buffer
    each, and the names of its settings in ``SETTINGS``, and implements ``update``.

    Args:
        model: a built Module that is not a part of a larger one. After ``to``, ``freeze``,
            replacing a part or building it into a larger model a new optimizer must be made;
            ``step`` checks this.
        groups: parameters with other settings, such as
            ``[{"params": lambda name: name.startswith("head."), "lr": 1e-4}]``: "params" is a test
            of the path, or a list of paths or parameters; "lr" and "weight_decay" may be absent. A
            shared parameter is found by each of its paths.
            The parameters of no group form the last of ``self.groups``.

    ``lr`` and ``weight_decay``, here and in ``groups``, may be set between steps. Like the step
    count they are stored on the device, so one CUDA graph can be launched for every step.

    Raises TypeError for anything but a Module, RuntimeError for one that is not built or whose
    parts were replaced since, ValueError naming the argument that is out of range, and for a group
    that is empty, names something unknown or frozen, or takes a parameter twice.
    """

    SLOTS: tuple[str, ...] = ()
    SETTINGS: tuple[str, ...] = ("lr", "weight_decay")

    def __init__(
        self,
        model: Module,
        lr: float,
        weight_decay: float = 0.0,
        groups: Iterable[Mapping[str, Any]] = (),
    ):
        kind = type(self).__name__
        if not isinstance(model, Module):
            raise TypeError(
                f"{kind} takes the model itself (not its parameters), got {type(model).__name__}: "
                f"{kind}(model, lr=...); parameters with settings of their own are groups=[...]"
            )
        if model._storage is None:
            raise RuntimeError(
                f"{kind}: the model is not built: call model.build(seed) before making an optimizer"
            )
        if not model.is_root:
            raise ValueError(
                f"{kind}: this module is a part of a larger model: give the optimizer that model, "
                "and freeze what is not to be trained"
            )
        self.model = model
        self._require_whole()
        self._lr = self.number("lr", lr)
        self._weight_decay = self.number("weight_decay", weight_decay)
        storage = self._storage = model.storage
        self._version = storage.version
        values, size = storage.values, storage.grads.size
        self.slots: dict[str, Array] = {n: backend.zeros((size,), values) for n in self.SLOTS}
        self._t = backend.zeros((), values, np.int64)
        self._params = [p for p in storage.params if p.trainable]
        self.groups, self._pieces, ends = self._divide(groups)
        self._bounds = backend.to_device_of(np.array(ends, np.int64), values)
        self._settings = backend.zeros((2, len(ends)), values)
        self._copy_settings()

    # --- Settings ------------------------------------------------------------------------------

    @property
    def lr(self) -> float:
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = self.number("lr", value)
        self._copy_settings()

    @property
    def weight_decay(self) -> float:
        return self._weight_decay

    @weight_decay.setter
    def weight_decay(self, value: float) -> None:
        self._weight_decay = self.number("weight_decay", value)
        self._copy_settings()

    # A captured CUDA graph holds the other settings as constants: a change would be ignored there.
    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.SETTINGS and name in vars(self):  # lr and weight_decay are properties
            raise AttributeError(
                f"{type(self).__name__}: {name} is fixed when the optimizer is made: make a new "
                "one, and give it the state_dict() of this one"
            )
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        shown = [
            f"{name}={value:g}" if type(value) is float else f"{name}={value}"
            for name, value in ((name, getattr(self, name)) for name in self.SETTINGS)
        ]
        return (
            f"{type(self).__name__}({', '.join(shown)}) of {len(self._params)} parameters in "
            f"{len(self.groups)} groups, after {self.step_count} steps"
        )

    def number(self, name: str, value: float) -> float:
        """A finite number >= 0; ValueError with its name for any other."""
        try:
            number = math.nan if isinstance(value, (bool, str)) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not 0 <= number < math.inf:
            raise ValueError(
                f"{type(self).__name__}: {name} must be a finite number >= 0, got {value!r}"
            )
        return number

    def share(self, name: str, value: float) -> float:
        """A number in [0, 1), such as a decay rate; ValueError with its name for any other."""
        if not (number := self.number(name, value)) < 1:
            raise ValueError(f"{type(self).__name__}: {name} must be below 1, got {value!r}")
        return number

    def flag(self, name: str, value: bool) -> bool:
        """True or False; ValueError with its name for anything else."""
        if not isinstance(value, bool):
            raise ValueError(f"{type(self).__name__}: {name} must be a bool, got {value!r}")
        return value

    def checked_betas(self, betas: tuple[float, float]) -> tuple[float, float]:
        """Two decay rates in [0, 1); ValueError for others."""
        try:
            first, second = betas
            if 0 <= first < 1 and 0 <= second < 1:
                return float(first), float(second)
        except (TypeError, ValueError):  # not a pair, or not of numbers
            pass
        raise ValueError(
            f"{type(self).__name__}: betas must be two numbers in [0, 1), got {betas!r}"
        )

    def _divide(
        self, groups: Iterable[Mapping[str, Any]]
    ) -> tuple[list[Group], list[tuple[Group, bool]], list[int]]:
        """The groups; the pieces of the flat buffer, each as (its group, whether it decays); and
        the index at which each piece ends.
        """
        params, kind = self._params, type(self).__name__
        of: dict[str, Group] = {}
        found = []
        if isinstance(groups, (Mapping, str)) or not isinstance(groups, Iterable):
            raise TypeError(f"{kind}: groups must be a list of dicts, got {type(groups).__name__}")
        for i, settings in enumerate(groups):
            where = f"{kind}: groups[{i}]"
            if not isinstance(settings, Mapping):
                raise TypeError(f"{where} must be a dict, got {type(settings).__name__}")
            if unknown := settings.keys() - {"params", "lr", "weight_decay"}:
                raise ValueError(f"{where} has no setting {min(unknown)!r}")
            names = _names(where, settings.get("params", ()), self.model, self._storage.params)
            if taken := [name for name in names if name in of]:
                raise ValueError(f"{where} takes {taken[0]}, which an earlier group has")
            found.append(Group(self, names, settings.get("lr"), settings.get("weight_decay")))
            of.update(dict.fromkeys(names, found[-1]))
        found.append(Group(self, [p.name for p in params if p.name not in of], None, None))
        pieces: list[tuple[Group, bool]] = []
        ends: list[int] = []
        end = 0
        for p in params:
            end += p.size
            piece = of.get(p.name, found[-1]), p.decay
            if pieces and pieces[-1] == piece:
                ends[-1] = end
            else:
                pieces.append(piece)
                ends.append(end)
        return found, pieces or [(found[-1], False)], ends or [0]

    def _copy_settings(self) -> None:
        """Copies the settings of the groups to the device."""
        rates = [group.lr for group, _ in self._pieces]
        decays = [group.weight_decay if decays else 0.0 for group, decays in self._pieces]
        backend.copy_to(self._settings, np.array([rates, decays], self._settings.dtype))

    def _require_whole(self) -> None:
        """RuntimeError unless the memory of the model holds exactly its parameters."""
        kind, model = type(self).__name__, self.model
        held = {id(p) for p in model.storage.params}
        for name, p in model.named_parameters():
            if id(p) not in held:
                raise RuntimeError(
                    f"{kind}: {name} is not in the memory of the model, whose parts were replaced: "
                    "call model.build() before making an optimizer"
                )
            held.remove(id(p))
        if held:
            name = min(p.name for p in model.storage.params if id(p) in held)
            raise RuntimeError(
                f"{kind}: {name} is no longer a part of the model: call model.build() before "
                "making an optimizer"
            )
        self._parts: tree.Snapshot | None = tree.Snapshot(model, Module)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_parts": None}  # of this model, not of its copy

    # --- Steps ---------------------------------------------------------------------------------

    @property
    def step_count(self) -> int:
        """How many updates were made so far. Waits for the device."""
        return int(self._t)

    def step(self, closure: None = None, *, clip_norm: float | None = None) -> Array | None:
        """One update from the accumulated gradients, which are not changed.

        With ``clip_norm`` the update uses the gradients scaled down to that global norm if their
        norm is larger (Pascanu, Mikolov & Bengio, 2013); returns the norm before scaling, a 0-d
        array. If the norm is not finite, nothing is changed and the step is not counted.

        Raises RuntimeError when the model's parameters were moved or its parts replaced after the
        optimizer was made, when a forward pass still waits for its backward pass, and in inference
        mode; ValueError for a clip_norm that is not a positive number; TypeError for a ``closure``,
        which PyTorch's optimizers take here.
        """
        kind = type(self).__name__
        if closure is not None:
            raise TypeError(
                f"{kind}.step takes no closure and no learning rate, got {closure!r}: compute the "
                f"gradients before it, set {kind}.lr, and pass clip_norm by its name"
            )
        if clip_norm is not None and not require_number(f"{kind}.step", "clip_norm", clip_norm) > 0:
            raise ValueError(f"{kind}.step: clip_norm must be positive, got {clip_norm}")
        storage = self._storage
        require_unmoved(kind, "optimizer", self.model, storage, self._version)
        if self._parts is None or not self._parts.holds():
            self._require_whole()
        self._require_passes_done()
        norm = None if clip_norm is None else grad_norm.norm(storage.grads)
        self.update(norm, clip_norm or 0.0)
        return norm

    if not TYPE_CHECKING:  # type checkers shall find this name
        param_groups = Instead("groups")

    def _require_passes_done(self) -> None:
        if not self.model._saving:
            raise RuntimeError(
                f"{type(self).__name__}.step: the model is in inference mode, as byhand.load gives "
                "it: call model.train() before training it"
            )
        if waiting := self.model.waiting():
            raise RuntimeError(f"{type(self).__name__}.step: {waiting}")

    def zero_grad(self) -> None:
        """``model.zero_grad()``."""
        self.model.zero_grad()

    def update(self, norm: Array | None, max_norm: float) -> None:
        """Updates the values from the gradients. ``norm`` is the norm of the gradient, to be
        clipped to ``max_norm``; None: no clipping.
        """
        raise NotImplementedError

    def flat(self, norm: Array | None, max_norm: float) -> tuple[Array, Array, dict[str, Any]]:
        """What the ops of all optimizers take: the values of the trained parameters, their
        gradients, and the arguments by name.
        """
        storage, size = self.model.storage, self.model.storage.grads.size
        storage.changes += 1
        half = storage.compute_values is not storage.values
        common = {
            "lr": self._settings[0],
            "weight_decay": self._settings[1],
            "bounds": self._bounds,
            "t": self._t,
            "copy": storage.compute_values[:size] if half else None,
            "norm": norm,
            "max_norm": max_norm,
        }
        return storage.values[:size], storage.grads, common

    # --- State ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """{"step": updates so far, slot: {path: array of the parameter's shape}}, for each slot.

        The arrays are views: copy them to keep them.
        """
        slots = {name: by_path(flat, self._params) for name, flat in self.slots.items()}
        return {"step": self.step_count, **slots}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` gave.

        Raises ValueError naming what is missing, unknown or of another shape; in that case nothing
        is changed.
        """
        where = f"{type(self).__name__}.load_state_dict"
        if not isinstance(state, Mapping):
            raise TypeError(f"{where} takes what state_dict gave, got {type(state).__name__}")
        own = self.state_dict()
        if missing := own.keys() - state.keys():
            raise ValueError(f"{where}: {min(missing)} is missing")
        if unknown := state.keys() - own.keys():
            raise ValueError(f"{where}: there is no state called {min(unknown)}")
        steps = require_count(where, "step", state["step"])
        given = {slot: require_arrays(where, slot, own[slot], state[slot]) for slot in self.slots}
        for slot, arrays in given.items():
            for name, view in own[slot].items():
                view[...] = backend.to_device_of(arrays[name], view)
        self._t[...] = steps


def require_number(where: str, name: str, value: Any) -> float:
    """`value` as a float; ValueError naming the argument for what is not a number."""
    is_array = getattr(value, "shape", ()) != ()
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__") or is_array:
        raise ValueError(f"{where}: {name} must be a number, got {value!r}")
    return float(value)


def _names(where: str, wanted: Any, model: Module, params: Sequence[Parameter]) -> list[str]:
    """The paths of a group's parameters, in the order of `params`, all that the model has."""
    trained = {p.name: p for p in params if p.trainable}
    # A shared parameter has several paths, of which the first is its name.
    paths = [(n, p) for n, p in tree.every_path(model, Module) if isinstance(p, Parameter)]
    if callable(wanted):
        chosen = {p.name for path, p in paths if p.name in trained and wanted(path)}
    elif isinstance(wanted, str) or not isinstance(wanted, Iterable):
        raise ValueError(f"{where}: params must be a list of names, got {wanted!r}")
    else:
        chosen = set()
        frozen = {p.name for p in params if not p.trainable}
        name_of = {path: p.name for path, p in paths}
        for p in wanted:
            name = p.name if isinstance(p, Parameter) else name_of.get(p, p)
            if name in frozen:
                raise ValueError(f"{where}: {name} is frozen")
            if name not in trained or (isinstance(p, Parameter) and trained[name] is not p):
                raise ValueError(f"{where}: the model has no parameter {p!r}")
            chosen.add(name)
    if not chosen:
        raise ValueError(f"{where} has no parameters")
    return [name for name in trained if name in chosen]
