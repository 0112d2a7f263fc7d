"""Training examples together with validation batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from byhand.data.dataset import Dataset


class Splits:
    """What a trainer needs: ``train``, a dataset, and ``validation``, a function that gives the
    same batches on every call (None: no validation).
    """

    def __init__(
        self,
        train: Dataset,
        validation: Callable[[], Iterable[Any]] | None = None,
    ):
        if validation is not None and not callable(validation):
            raise TypeError(
                "Splits: validation must be a function that gives the batches, such as "
                f"`lambda: batches`, got {type(validation).__name__}"
            )
        self.train = train
        self._validation = validation

    def validation(self) -> Iterable[Any]:
        return () if self._validation is None else self._validation()
