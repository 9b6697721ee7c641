"""Ctrl-C and the signals of batch systems as a wish to stop, not an accident."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import final

__all__ = ["REQUEUE", "Stop", "Stopped", "stop_on_interrupt"]

REQUEUE = 75  # exit code of a run that was asked to end and can go on: EX_TEMPFAIL

# SIGUSR1 is what `sbatch --signal=USR1@90` sends before the time is up.
_PREEMPTED = ("SIGTERM", "SIGUSR1")


class Stopped(Exception):  # noqa: N818 - the user asked for it
    """The user asked to stop; what was finished is on the disk."""


@final
class Stop:
    """Whether to stop, and whether it was the batch system that asked.

    Attributes:
        requested: whether to stop.
        preempted: whether a signal of the batch system asked.
    """

    def __init__(self) -> None:
        self.requested = False
        self.preempted = False

    def check(self) -> None:
        """Raise `Stopped` if so."""
        if self.requested:
            raise Stopped

    def interrupt(self, _signal: int, _frame: FrameType | None) -> None:
        """Handle Ctrl-C: the first asks for a stop, the second one ends the process."""
        if self.requested:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        self.requested = True

    def preempt(self, _signal: int, _frame: FrameType | None) -> None:
        """Handle a signal of the batch system."""
        self.requested = self.preempted = True

    def install(self) -> dict[int, object]:
        """Take the signals, and return who had them; none outside of the main thread."""
        before: dict[int, object] = {}
        names = {"SIGINT": self.interrupt} | dict.fromkeys(_PREEMPTED, self.preempt)
        for name, handler in names.items():
            number = getattr(signal, name, None)
            if number is None:  # not every system has every signal
                continue
            try:
                before[number] = signal.signal(number, handler)
            except ValueError:  # Python takes signals in the main thread only
                return {}
        return before


@contextmanager
def stop_on_interrupt() -> Iterator[Stop]:
    """Inside, the first Ctrl-C asks for a stop at the next step, the second one ends the process.

    SIGTERM and SIGUSR1 ask for a stop as well. Outside of the main thread, where Python takes no
    signals, it changes nothing.
    """
    stop = Stop()
    before = stop.install()
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
