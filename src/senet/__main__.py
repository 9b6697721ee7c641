"""The command `senet`, which is `python -m senet` too."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from senet.errors import MissingPackageError, optional

__all__ = ["main"]

USER_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command, or say which package it lacks and exit with 2.

    Args:
        arguments: the command line; that of the process if not given.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    commands = [each for each in given[:1] if not each.startswith("-")]
    try:
        with optional(" ".join(["senet", *commands])):
            from senet.cli import main as run

            run(given)
    except MissingPackageError as error:
        sys.stderr.write(f"senet: error: {error}\n")
        sys.exit(USER_ERROR)


if __name__ == "__main__":
    main()
