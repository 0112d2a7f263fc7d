"""Signals as requests to stop."""

import signal
import threading

import pytest

from byhand.runs.interrupt import SIGNALS, StopRequest


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


@pytest.mark.parametrize("number", SIGNALS)
def test_every_signal_that_ends_a_process_is_a_request(number: signal.Signals):
    former = signal.getsignal(number)
    with StopRequest() as stop:
        signal.raise_signal(number)
        assert stop.signal is number
    assert signal.getsignal(number) is former


def test_a_closed_terminal_is_among_the_signals():
    names = {number.name for number in SIGNALS}
    assert names >= {"SIGINT", "SIGTERM"}
    assert ("SIGHUP" in names) == hasattr(signal, "SIGHUP")


@pytest.mark.parametrize("number", SIGNALS)
def test_an_ignored_signal_stays_ignored(number: signal.Signals):
    former = signal.signal(number, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(number)
            assert not stop
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, former)


def test_the_first_signal_is_acknowledged_once():
    seen: list[signal.Signals] = []
    with StopRequest(seen.append):
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
    assert seen == [signal.SIGTERM]


def test_an_acknowledgement_that_fails_is_still_a_request():
    def fail(number: signal.Signals) -> None:
        raise RuntimeError("reentrant call inside a write")

    with StopRequest(fail) as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop
