"""Images that cannot be read: named, counted, and left out up to a limit."""

from __future__ import annotations

from typing import final

from senet.errors import DataError

__all__ = ["Unreadable"]


@final
class Unreadable:
    """What is wrong with each image that could not be read.

    Args:
        limit: how many may be left out.

    Example:
        >>> found = Unreadable(limit=1)
        >>> found.add("image 3 is cut off")
        >>> len(found), found.say()
        (1, '1 image could not be read and was left out: image 3 is cut off')
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
            raise DataError(what)
        raise DataError(
            f"{len(self.seen)} images cannot be read, and max_bad_images is {self.limit}; the last "
            f"one: {what}"
        )

    def say(self) -> str:
        """Return one line for people, empty where every image could be read."""
        if not self.seen:
            return ""
        many = len(self.seen) > 1
        what = (
            f"{len(self.seen)} images could not be read and were"
            if many
            else ("1 image could not be read and was")
        )
        return f"{what} left out: {'; '.join(list(self.seen)[:5])}{'; ...' * (len(self.seen) > 5)}"
