"""Ctrl-C is a wish, not an accident."""

from __future__ import annotations

import signal
import threading

import pytest

from senet.training.loop.stopping import Stop, Stopped, stop_on_interrupt


def test_interrupt_is_a_request() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_on_interrupt() as stop:
        stop.check()
        signal.raise_signal(signal.SIGINT)

        assert stop.requested
        with pytest.raises(Stopped):
            stop.check()
    assert signal.getsignal(signal.SIGINT) is before


def test_handler_is_restored_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError), stop_on_interrupt():
        raise RuntimeError
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_run_without_a_handler() -> None:
    stops: list[Stop] = []

    def run() -> None:
        with stop_on_interrupt() as stop:
            stops.append(stop)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()

    assert not stops[0].requested
