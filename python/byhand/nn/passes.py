"""What the forward passes of a module save for its backward passes, and the mode it is in."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import TYPE_CHECKING, Any, cast

from byhand.nn import mode

if TYPE_CHECKING:
    from typing_extensions import Self

    from byhand.nn.decoding import Decoding, DecodingWeights
    from byhand.nn.module import Module
    from byhand.ops.packed_linear import Format


class PilingUp(UserWarning):
    """Warns that saved forward passes accumulate because no backward passes are run."""


class _Saved(list[Any]):
    """What the forward passes of one thread have saved in a module."""

    __slots__ = ("thread",)
    thread: int


class Passes:
    """The part of `Module` that is about passes and modes."""

    waiting_limit: int = 64
    _has_warned: bool = False  # whether any module of this process has warned
    _training: bool = True
    _saves: bool = True
    _saved: _Saved | None = None
    _decoding: DecodingWeights | None = None

    if TYPE_CHECKING:
        _root: bool
        _modules: list[Module]

        def named_modules(self) -> Iterator[tuple[str, Module]]: ...

    # --- What forward saves for backward -------------------------------------------------------

    def push(self, saved: Any) -> None:
        """Keeps ``saved`` for the matching ``backward``; does nothing while saving is off.

        Raises RuntimeError while a forward pass of another thread waits for its backward pass.
        """
        if mode.saving(self):
            stack = self._saved
            if stack is None:
                stack = self.__dict__["_saved"] = _Saved()
            if not stack:
                stack.thread = get_ident()
            elif stack.thread != get_ident():
                raise RuntimeError(
                    f"two threads train the same model: a forward pass of {type(self).__name__} in "
                    "another thread had no backward pass yet; train a copy in each thread "
                    "(copy.deepcopy), or call the model inside in_inference()"
                )
            stack.append(saved)
            if len(stack) == self.waiting_limit and not Passes._has_warned:
                Passes._has_warned = True
                warnings.warn(
                    f"{len(stack)} forward passes of {type(self).__name__} are kept in memory and "
                    "had no backward pass yet; to evaluate a model, use inference() or no_save(), "
                    "which keep nothing (for a long loop over time, raise waiting_limit)",
                    PilingUp,
                    stacklevel=3,
                )

    def peek(self) -> Any:
        """What the next ``pop`` will return."""
        if not self._saved:
            raise self._without_forward()
        return self._saved[-1]

    def pop(self) -> Any:
        """Takes back what the latest ``push`` kept."""
        if not self._saved:
            raise self._without_forward()
        return self._saved.pop()

    def _without_forward(self) -> RuntimeError:
        return RuntimeError(
            f"{type(self).__name__}.backward was called without a forward pass before it"
            + (
                ""
                if self._saving
                else ": inference() and no_save() keep nothing for it; call train() to train a "
                "model that is in inference mode, as byhand.load gives it"
            )
        )

    def waiting(self) -> str:
        """A sentence that names a module whose forward passes had no backward pass yet, or ""."""
        modules = self._modules if self._root else [m for _, m in self.named_modules()]
        for module in modules:
            if stack := module._saved:
                return (
                    f"{len(stack)} forward pass(es) of {type(module).__name__} had no backward "
                    "pass; call backward(), or run them after inference() or inside no_save(), or "
                    "drop them with discard_saved()"
                )
        return ""

    def discard_saved(self) -> None:
        """Drops what forward passes have saved for backward passes that were not run."""
        for _, module in self.named_modules():
            module.__dict__.pop("_saved", None)

    def no_save(self) -> mode.Modes:
        """Inside the ``with`` block forward passes save nothing, so no backward can follow; in this
        thread only.
        """
        return mode.Modes((m for _, m in self.named_modules()), None, False)

    @contextmanager
    def discard_on_error(self) -> Iterator[None]:
        """Drops what this thread has saved when an error in the ``with`` block ends a forward pass
        early; nothing if it saves nothing.
        """
        try:
            yield
        except BaseException:
            for _, module in self.named_modules() if self._saving else ():
                if module._saved is not None and module._saved.thread == get_ident():
                    del module.__dict__["_saved"]
            raise

    # --- Modes ---------------------------------------------------------------------------------

    @property
    def training(self) -> bool:
        """Whether dropout is active and running statistics are updated. Setting it also sets it for
        every module below.
        """
        return mode.training(self)

    @training.setter
    def training(self, training: bool) -> None:
        self._set_mode(bool(training), None)

    @property
    def _saving(self) -> bool:
        return mode.saving(self)

    def train(self, mode: bool = True) -> Self:
        """Training mode: dropout is active, running statistics are updated. ``train(False)`` is
        ``eval()``.
        """
        return self._set_mode(bool(mode), True)

    def eval(self) -> Self:
        """Evaluation mode: no dropout, fixed statistics. A backward pass is still possible."""
        return self._set_mode(False, True)

    def inference(self) -> Self:
        """Evaluation mode in which forward passes save nothing: no backward pass can follow."""
        return self._set_mode(False, False)

    def _set_mode(self, training: bool, saving: bool | None) -> Self:
        for _, module in self.named_modules():
            mode.set_mode(module, training, saving)
        return self

    def in_inference(self) -> mode.Modes:
        """Inference mode inside the ``with`` block, in this thread only: another thread may train
        the model meanwhile, but then the weights change between the layers of a forward pass.

        The result may be used for several ``with`` blocks one after the other.
        """
        return mode.Modes((m for _, m in self.named_modules()), False, False)

    # --- Writing text --------------------------------------------------------------------------

    def quantize(self, format: Format | None) -> Self:
        """Packs the weights of the linear layers for writing text: as "float32", "bf16", "int8"
        (8.5 bits a weight, as llama.cpp's Q8_0), "int4" (4.5 bits, Q4_0) or "int4_1" (5 bits,
        Q4_1); see `ops.packed_linear`. They are kept beside the parameters, which stay as they are
        and can be trained: then the weights are packed again when text is next written. Values that
        are changed in place, past ``load_state_dict`` and ``Parameter.value =``, are seen after
        ``storage.refresh()``. Returns the module; None drops what was packed.

        Without it each text packs them anew in the precision of the model.

        ValueError for another format; UserError for weights that it cannot hold.
        """
        from byhand.nn.decoding import DecodingWeights

        made = None if format is None else DecodingWeights(cast("Module", self), format)
        if made is not None:
            made.packed()
        self._decoding = made
        return self

    @property
    def decoding_bytes(self) -> int:
        """The bytes of the packed weights, which a step of writing text reads once; 0 without
        ``quantize``.
        """
        return 0 if self._decoding is None else self._decoding.nbytes

    def in_decoding(self) -> Decoding:
        """``in_inference``, with the packed weights that text is written with. On the CPU each row
        of a result then has the same bits whatever the other rows of its batch are.
        """
        from byhand.nn.decoding import Decoding, default_weights

        module = cast("Module", self)
        return Decoding(module, self._decoding or default_weights(module))
