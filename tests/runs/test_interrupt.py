"""Signals as requests to stop."""

import signal
import threading

import pytest

from byhand.runs.interrupt import StopRequest


def test_the_first_signal_is_a_request_and_the_second_interrupts():
    with StopRequest() as stop:
        assert not stop
        signal.raise_signal(signal.SIGINT)
        assert stop
        assert stop.signal is signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_after_sigterm_is_still_only_a_request():
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal is signal.SIGTERM
        signal.raise_signal(signal.SIGINT)
        assert stop.signal is signal.SIGINT


def test_in_another_thread_the_handlers_stay():
    former = signal.getsignal(signal.SIGINT)
    seen = []

    def work() -> None:
        with StopRequest() as stop:
            seen.append((bool(stop), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, former)]
