"""The keys and values of tokens that several prompts begin with, computed once."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from byhand import backend
from byhand.errors import UserError
from byhand.files import write_atomically
from byhand.generation.config import GenerationConfig

_FORMAT = "byhand prompt cache 1"


class PromptCache:
    """What a model keeps of a prefix: prompts that begin with it, or with its first tokens, do not
    compute that part again. Texts are the same bit for bit.

        prefix = PromptCache.of(model, ids)
        model.generate(prompts, prompt_cache=prefix, ...)

    Attributes:
        ids: the prefix (T,) int64.
        layers: for each layer (keys, values), each (1, T, G, D), on the model's device.
        model: a hash of the model's values, sizes and format for decoding; it fits no other model.
    """

    def __init__(self, ids: npt.NDArray[np.int64], layers: list[Any], model: str):
        self.ids, self.layers, self.model = ids, layers, model
        self._known: tuple[Any, ...] | None = None  # a state of a model that it fits

    @classmethod
    def of(cls, model: Any, ids: Any) -> PromptCache:
        """Reads a prefix (T,). The errors are those of `generate` for a prompt."""
        from byhand.generation.session import Session

        session = Session(model, ids, GenerationConfig(max_new_tokens=0))
        if len(session) != 1:
            raise UserError(f"a prompt cache is of one prefix, not of {len(session)}")
        layers = [(layer.keys, layer.values) for layer in session.read_cache().layers]
        count = int(session.lengths[0])
        kept = [tuple(_contiguous(a[:, :count]) for a in pair) for pair in layers]
        made = cls(session.ids[0].copy(), kept, fingerprint(model))
        made._known = _state(model)
        return made

    @property
    def nbytes(self) -> int:
        return sum(int(a.nbytes) for pair in self.layers for a in pair)

    def fill(self, cache: Any, rows: list[npt.NDArray[np.int64]]) -> int:
        """Copies the keys and values of the tokens that all rows (T,) begin with, but the last of
        each row, into an empty cache; returns how many these are.
        """
        count = min(_common(self.ids, row[:-1]) for row in rows)
        if count:
            for layer, (keys, values) in zip(cache.layers, self.layers, strict=True):
                layer.extend(*(_repeated(a[:, :count], len(rows)) for a in (keys, values)))
        return count

    def require(self, model: Any) -> None:
        """UserError unless it was made with this model, as it is now."""
        if self._known == _state(model):
            return
        if fingerprint(model) != self.model:
            raise UserError(
                "the prompt cache was made by another model, or by this one with other weights or "
                "another format of weights: make it again with PromptCache.of"
            )
        self._known = _state(model)

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file, with a hash over its content."""
        import safetensors.numpy

        tensors = {"ids": self.ids}
        for n, pair in enumerate(self.layers):
            for name, a in zip(("keys", "values"), pair, strict=True):
                tensors[f"layers.{n}.{name}"] = np.ascontiguousarray(backend.to_numpy(a))
        metadata = {"format": _FORMAT, "model": self.model}
        metadata["sha256"] = _digest(tensors, self.model)
        write_atomically(Path(path), safetensors.numpy.save(tensors, metadata))

    @classmethod
    def load(cls, path: str | Path, model: Any) -> PromptCache:
        """Reads what ``save`` wrote. UserError if the file is missing, damaged, another file, or of
        another model.
        """
        import safetensors

        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except (OSError, safetensors.SafetensorError) as error:
            raise UserError(f"cannot read the prompt cache {path}: {error}") from None
        if metadata.get("format") != _FORMAT:
            raise UserError(f"{path} is no prompt cache")
        if metadata.get("sha256") != _digest(tensors, metadata.get("model", "")):
            raise UserError(f"{path} is damaged: its content does not match its own SHA-256")
        like = model.storage.compute_values
        layers = [
            tuple(
                backend.to_device_of(tensors[f"layers.{n}.{name}"], like)
                for name in ("keys", "values")
            )
            for n in range(len(tensors) // 2)
        ]
        made = cls(tensors["ids"], layers, metadata["model"])
        made.require(model)
        return made


def _state(model: Any) -> tuple[Any, ...]:
    storage, quantised = model.storage, model._decoding
    return storage, storage.changes, model.precision, quantised and quantised.format


def fingerprint(model: Any) -> str:
    """A hash of what keys and values depend on."""
    quantised = model._decoding
    facts = [type(model).__name__, model.config.to_dict(), model.precision]
    facts.append(quantised and quantised.format)
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    values = np.ascontiguousarray(backend.to_numpy(model.storage.values))
    digest.update(values.view(np.uint8).data)
    return digest.hexdigest()


def _digest(tensors: dict[str, Any], model: str) -> str:
    digest = hashlib.sha256(model.encode())
    for name in sorted(tensors):
        a = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {a.dtype} {a.shape}".encode())
        digest.update(a.view(np.uint8).data)
    return digest.hexdigest()


def _common(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> int:
    """How many first elements are equal."""
    size = min(len(a), len(b))
    differ = np.flatnonzero(a[:size] != b[:size])
    return int(differ[0]) if differ.size else size


def _contiguous(a: Any) -> Any:
    made = backend.empty(a.shape, a)
    made[...] = a
    return made


def _repeated(a: Any, rows: int) -> Any:
    made = backend.empty((rows, *a.shape[1:]), a)
    made[...] = a
    return made
