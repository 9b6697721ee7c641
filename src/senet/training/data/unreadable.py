"""Images that cannot be read: named, counted, and left out up to a limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from senet.errors import DataError

__all__ = ["Unreadable", "left_out"]


@final
class Unreadable:
    """What is wrong with each image that could not be read.

    Args:
        limit: how many may be left out.

    Example:
        >>> unreadable = Unreadable(limit=1)
        >>> unreadable.add("image 3 is cut off")
        >>> unreadable.add("image 3 is cut off")
        >>> len(unreadable)
        1
    """

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self.seen: dict[str, None] = {}  # in the order in which they came

    def __len__(self) -> int:
        return len(self.seen)

    def add(self, what: str) -> None:
        """Count an image, once however often it comes.

        Raises:
            DataError: there are more than the limit.
        """
        self.seen[what] = None
        if len(self.seen) <= self.limit:
            return
        if not self.limit:
            raise DataError(f"{what}; mend or remove it, or leave some out by max_bad_images")
        raise DataError(
            f"{len(self.seen)} images cannot be read, and max_bad_images is {self.limit}; the last "
            f"one: {what}"
        )


def left_out(seen: Sequence[str]) -> str:
    """Return one line for people about images that were left out, empty where there is none.

    Example:
        >>> left_out(["image 3 is cut off"])
        '1 image could not be read and was left out: image 3 is cut off'
    """
    if not seen:
        return ""
    what = f"{len(seen)} images could not be read and were"
    if len(seen) == 1:
        what = "1 image could not be read and was"
    return f"{what} left out: {'; '.join(seen[:5])}{'; ...' * (len(seen) > 5)}"
