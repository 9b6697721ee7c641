"""How a long call reports its progress."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Progress", "silent"]

# on_progress(description, done, total)
Progress = Callable[[str, int, int], None]


def silent(_description: str, _done: int, _total: int) -> None:
    """Report nothing."""
