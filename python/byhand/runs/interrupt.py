"""Ctrl-C and the signals that end a process, as a request to stop after the current step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

# Ctrl-C, `kill`, a closed terminal, Ctrl-Break. Windows has no SIGHUP, and only Windows SIGBREAK.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
SIGNALS = tuple(signal.Signals[name] for name in _NAMES if hasattr(signal, name))


class StopRequest:
    """A context in which the first of `SIGNALS` only sets `signal`; it is true after that.

    A second SIGINT raises KeyboardInterrupt at once, without waiting for the end of the step. A
    signal that the process ignores (SIGHUP under nohup, SIGINT in a background job of a shell) is
    still ignored. Python delivers signals to the main thread only; in another thread this does
    nothing.

    Args:
        acknowledge: called with the signal when the first one arrives.
    """

    def __init__(self, acknowledge: Callable[[signal.Signals], None] | None = None) -> None:
        self.signal: signal.Signals | None = None
        self._acknowledge = acknowledge
        self._former: dict[signal.Signals, Any] = {}

    def __bool__(self) -> bool:
        return self.signal is not None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # None: a handler that was not installed from Python and could not be restored.
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._former[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        first = self.signal is None
        self.signal = signal.Signals(number)
        if first and self._acknowledge is not None:
            # The signal may have interrupted a write to the same output, which cannot be entered
            # again. The request matters more than its acknowledgement.
            with suppress(Exception):
                self._acknowledge(self.signal)
