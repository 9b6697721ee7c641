"""The progress of a long run in the background."""

from __future__ import annotations

import time

__all__ = ["Lines"]


class Lines:
    """Progress as a line a minute, so that the output stays short; `part` begins each."""

    def __init__(self, part: str = "") -> None:
        self.part, self.last = f"{part}: " if part else "", 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        """Print, if a minute has passed."""
        if time.monotonic() - self.last > 60:
            self.last = time.monotonic()
            print(f"{time.strftime('%H:%M:%S')} {self.part}{what} ({done}/{total})", flush=True)
