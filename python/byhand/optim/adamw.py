"""AdamW: Adam with decoupled weight decay (Loshchilov & Hutter, 2019, algorithm 2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from byhand import backend
from byhand.backend import Array
from byhand.nn.module import Module
from byhand.ops import adamw, grad_norm


class Group:
    """Parameters with a learning rate and a weight decay of their own.

    Attributes:
        names: what the parameters are called, in the order of the flat buffer.
        lr, weight_decay: may be set between steps; None follows the optimizer's.
    """

    __slots__ = ("_lr", "_optimizer", "_weight_decay", "names")

    def __init__(
        self, optimizer: AdamW, names: list[str], lr: float | None, weight_decay: float | None
    ):
        self._optimizer = optimizer
        self.names = names
        self._lr = _number("lr", lr)
        self._weight_decay = _number("weight_decay", weight_decay)

    @property
    def lr(self) -> float:
        return self._optimizer.lr if self._lr is None else self._lr

    @lr.setter
    def lr(self, value: float | None) -> None:
        self._lr = _number("lr", value)
        self._optimizer._send()

    @property
    def weight_decay(self) -> float:
        own = self._weight_decay
        return self._optimizer.weight_decay if own is None else own

    @weight_decay.setter
    def weight_decay(self, value: float | None) -> None:
        self._weight_decay = _number("weight_decay", value)
        self._optimizer._send()

    def __repr__(self) -> str:
        return (
            f"Group({len(self.names)} parameters, lr={self.lr:g}, "
            f"weight_decay={self.weight_decay:g})"
        )


class AdamW:
    """Updates all parameters of ``model`` in one pass over its flat buffer.

    Weight decay applies to matrices and embeddings, not to biases and norms (``Param.decays``
    says), in every group.

    Args:
        model: any Module; its parameters must not be moved (``to``) afterwards.
        lr: learning rate.
        betas: decay rates of the first and second moment, each in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: decoupled decay rate, multiplied by the learning rate.
        groups: parameters with other settings, such as
            ``[{"params": lambda name: name.startswith("head."), "lr": 1e-4}]``: "params" is a test
            of the name, or a list of names or parameters; "lr" and "weight_decay" may be absent.
            What no group names is the last of ``self.groups``.

    ``lr`` and ``weight_decay``, here and in ``groups``, may be set between steps. They live on the
    device, as the number of steps done does, so a CUDA graph of a step is right for all steps.

    Raises ValueError naming the argument that is out of range, and for a group that is empty, names
    something unknown, or takes a parameter twice.
    """

    def __init__(
        self,
        model: Module,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        groups: Iterable[Mapping[str, Any]] = (),
    ):
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"AdamW: betas must be two numbers in [0, 1), got {betas}")
        self._lr = _required("lr", lr)
        self._weight_decay = _required("weight_decay", weight_decay)
        self.model = model
        self.betas = (float(betas[0]), float(betas[1]))
        self.eps = _required("eps", eps)
        values = model.arena.values
        self.m = backend.zeros(values.shape, values)
        self.v = backend.zeros(values.shape, values)
        self._t = backend.zeros((), values, np.int64)
        self.groups, self._pieces, ends = self._divide(groups)
        self._bounds = backend.to_device_of(np.array(ends, np.int64), values)
        self._settings = backend.zeros((2, len(ends)), values)
        self._send()

    def _divide(
        self, groups: Iterable[Mapping[str, Any]]
    ) -> tuple[list[Group], list[tuple[Group, bool]], list[int]]:
        """The groups; and the flat buffer in pieces that share a group and whether they decay, with
        the end of each.
        """
        params = self.model.arena.params
        of: dict[str, Group] = {}
        found = []
        for i, settings in enumerate(groups):
            where = f"AdamW: groups[{i}]"
            if unknown := settings.keys() - {"params", "lr", "weight_decay"}:
                raise ValueError(f"{where} has no setting {min(unknown)!r}")
            names = _names(where, settings.get("params", ()), [p.name for p in params])
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
            piece = of.get(p.name, found[-1]), p.decays
            if pieces and pieces[-1] == piece:
                ends[-1] = end
            else:
                pieces.append(piece)
                ends.append(end)
        return found, pieces or [(found[-1], False)], ends or [0]

    def _send(self) -> None:
        """Brings the settings of the groups to the device."""
        rates = [group.lr for group, _ in self._pieces]
        decays = [group.weight_decay if decays else 0.0 for group, decays in self._pieces]
        host = np.array([rates, decays], self._settings.dtype)
        backend.copy_to(self._settings, host)

    @property
    def lr(self) -> float:
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = _required("lr", value)
        self._send()

    @property
    def weight_decay(self) -> float:
        return self._weight_decay

    @weight_decay.setter
    def weight_decay(self, value: float) -> None:
        self._weight_decay = _required("weight_decay", value)
        self._send()

    @property
    def step_count(self) -> int:
        """The updates so far. Waits for the device."""
        return int(self._t)

    def step(self, clip_norm: float | None = None, copy: Array | None = None) -> Array | None:
        """One update from the accumulated gradients, which stay as they are.

        With ``clip_norm`` the gradients count as scaled down to that global norm where they exceed
        it (Pascanu, Mikolov & Bengio, 2013); returns their norm before that, a 0-d array. Where
        that is not finite nothing is changed, and the update does not count. ``copy``
        receives the new flat values in its own dtype, float32 or bfloat16 on CUDA; where forward
        passes read a copy it is that one, and no other can be given.
        """
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(f"AdamW.step: clip_norm must be positive, got {clip_norm}")
        arena = self.model.arena
        if arena.values.dtype != self.m.dtype or type(arena.values) is not type(self.m):
            raise RuntimeError("AdamW: the model was moved; make a new optimizer after model.to()")
        if arena.operands is not arena.values:
            if copy is not None:
                raise ValueError("AdamW.step: this model has a copy of its own; leave copy out")
            copy = arena.operands
        norm = None if clip_norm is None else grad_norm.norm(arena.grads)
        adamw.step(
            arena.values,
            self.m,
            self.v,
            arena.grads,
            lr=self._settings[0],
            weight_decay=self._settings[1],
            bounds=self._bounds,
            t=self._t,
            betas=self.betas,
            eps=self.eps,
            norm=norm,
            max_norm=clip_norm or 0.0,
            copy=copy,
        )
        return norm

    def state_dict(self) -> dict[str, Any]:
        """{"m": first moments, "v": second moments (1-D, in arena order), "step": updates so far}.

        The arrays are views: copy them to keep them.
        """
        return {"m": self.m, "v": self.v, "step": self.step_count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` gave. ValueError on another shape; then nothing changed."""
        for name in ("m", "v"):
            if tuple(state[name].shape) != self.m.shape:
                raise ValueError(
                    f"AdamW: {name} must have shape {self.m.shape}, got {tuple(state[name].shape)}"
                )
        steps = int(state["step"])
        if steps < 0:
            raise ValueError(f"AdamW: step must be at least 0, got {steps}")
        self.m[...] = backend.to_device_of(state["m"], self.m)
        self.v[...] = backend.to_device_of(state["v"], self.v)
        self._t[...] = steps


def _number(name: str, value: float | None) -> float | None:
    return None if value is None else _required(name, value)


def _required(name: str, value: float) -> float:
    if not (value >= 0 and np.isfinite(value)):
        raise ValueError(f"AdamW: {name} must be a number >= 0, got {value}")
    return float(value)


def _names(where: str, wanted: Any, known: Sequence[str]) -> list[str]:
    """The names of a group's parameters, in the order of `known`."""
    if callable(wanted):
        chosen = {name for name in known if wanted(name)}
    elif isinstance(wanted, str):
        raise ValueError(f"{where}: params must be a list of names, got {wanted!r}")
    else:
        chosen = {getattr(p, "name", p) for p in wanted}
        if unknown := chosen - set(known):
            raise ValueError(f"{where}: the model has no parameter {min(unknown, key=str)!r}")
    if not chosen:
        raise ValueError(f"{where} has no parameters")
    return [name for name in known if name in chosen]
