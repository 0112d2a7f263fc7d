"""The weights that text is written with: packed copies of a model's linear layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from byhand.errors import UserError
from byhand.nn import mode
from byhand.nn.linear import Linear
from byhand.ops.packed_linear import Format, PackedWeights, pack_weights

if TYPE_CHECKING:
    from byhand.nn.module import Module
    from byhand.nn.parameter import Parameter


# Packed weights, and the storage and its `changes` that they were made from.
_State = tuple[dict["Parameter", PackedWeights], tuple[Any, int] | None]
_EMPTY: _State = ({}, None)


class DecodingWeights:
    """The weights of a model's plain linear layers in a format of `ops.packed_linear`.

    They are packed when they are first needed, and again when the model's values have changed since
    (`Storage.changes` counts that). A layer that replaces a linear one, such as an adapter, keeps
    its own.
    """

    def __init__(self, model: Module, format: Format):
        self.format = format
        self._model = model
        self._state = _EMPTY

    def packed(self) -> dict[Parameter, PackedWeights]:
        """UserError, which names the parameter, for weights that cannot be packed."""
        storage = self._model.storage
        now = storage, storage.changes
        packed, made_from = self._state
        if made_from != now:
            self._state, packed = _EMPTY, {}  # the memory is free before it is needed again
            model = self._model
            modules = model._modules if model._root else [m for _, m in model.named_modules()]
            for module in modules:
                if type(module) is Linear and module.weight not in packed:
                    try:
                        weights = pack_weights(module.weight.value, self.format)
                    except ValueError as error:
                        reason = str(error).removeprefix("packed_linear.pack_weights: w")
                        raise UserError(f"{module.weight.name}{reason}") from None
                    packed[module.weight] = weights
            self._state = packed, now  # at once: another thread may be here too
        return packed

    @property
    def nbytes(self) -> int:
        """The bytes that a step of decoding reads of them."""
        return sum(weights.nbytes for weights in self.packed().values())

    # Copies and pickles have another model's parameters, and pack them when they need to.
    def __getstate__(self) -> dict[str, Any]:
        return {"format": self.format, "_model": self._model, "_state": _EMPTY}


class Decoding:
    """A ``with`` block in which a model is in inference mode and its plain linear layers compute
    with packed weights, in this thread only. May be used for several blocks one after the other;
    the weights are packed in the first one.
    """

    def __init__(self, model: Module, weights: DecodingWeights | None):
        self._inference = model.in_inference()
        self._weights = weights

    def __enter__(self) -> None:
        packed = None if self._weights is None else self._weights.packed()
        self._inference.__enter__()
        mode.enter_packed(packed)

    def __exit__(self, *error: object) -> None:
        mode.leave_packed()
        self._inference.__exit__(*error)


def default_weights(model: Module) -> DecodingWeights | None:
    """Those of a model that was not quantised: packed in the precision of its products, so that a
    row has the same bits alone and in a batch. None on a GPU and in check mode.
    """
    if not isinstance(model.storage.values, np.ndarray) or model.storage.dtype != "float32":
        return None
    return DecodingWeights(model, "bf16" if model.precision == "bf16" else "float32")
