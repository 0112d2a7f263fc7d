"""Giving the parameters of a whole model their memory."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np

from byhand import backend
from byhand.nn import tree
from byhand.nn.parameter import Buffer, Parameter
from byhand.nn.storage import Storage, parameter_dtype


def build(model: Any, seed: int, library: Any, dtype: Any, draw: bool) -> list[Any]:
    """``Module.build``, which documents it; returns its modules. library: numpy or cupy; None: that
    of the parts.
    """
    where = f"{type(model).__name__}.build"
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
        raise TypeError(f"{where}: seed must be a whole number, got {seed!r}")
    if seed < 0:
        raise ValueError(f"{where}: seed must be at least 0, got {seed}")
    named = list(model.named_parameters())
    buffers = list(model.named_buffers())
    tensors: list[tuple[str, Parameter | Buffer]] = [*named, *buffers]
    if twice := tree.repeated([name for name, _ in tensors]):
        raise ValueError(f"{where}: two different tensors have the path {twice!r}")
    former = list({id(p.storage): p.storage for _, p in named if p.storage}.values())
    own = {id(p) for _, p in named}
    modules = [module for _, module in model.named_modules()]
    # A model whose parts were replaced has a storage with parameters that are no longer its.
    whole = {id(m._storage) for m in modules if m._root}
    outside = model._storage is not None and model._storage.valid and not model._root
    if outside or any(
        storage.valid and id(storage) not in whole and any(id(p) not in own for p in storage.params)
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
            half=model._bf16 and there is not None and backend.is_cupy(there),
            like=there,
        )
    except BaseException:
        for a, name in names:
            a.name = name
        raise
    for module in modules:
        module._storage, module._root, module._bf16 = storage, module is model, model._bf16
    return modules
