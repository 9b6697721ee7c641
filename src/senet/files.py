"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["write_text", "write_whole"]


def write_whole(path: Path, writer: Callable[[Path], object]) -> None:
    """Write a file as a whole or not at all, also where the machine goes down meanwhile.

    The content goes to a file beside it, which is synchronised with the disk and then renamed. The
    file has the permissions that the umask gives, whatever the writer sets.

    Args:
        path: the file; its folder is made if it does not exist.
        writer: is called with the path to write to.

    Raises:
        OSError: it cannot be written, with the name of the file; what was there before is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.touch()
        mode = partial.stat().st_mode
        writer(partial)
        partial.chmod(mode)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(partial)):
            error.filename = str(path)  # a full disk names no file
        raise
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8 as a whole or not at all; see `write_whole`."""
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def _sync_folder(folder: Path) -> None:
    """Make a rename in a folder last."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # some systems cannot open a folder
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
