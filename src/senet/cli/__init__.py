"""The command line: each command parses, calls one public function, and prints."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

# they register their commands
from senet.cli import detect, evaluate, experiments, see, ship, slim, train  # noqa: F401
from senet.cli.commands import app
from senet.errors import SenetError

__all__ = ["main"]

USER_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0, 2 for what the user can mend (in one line), 130 after Ctrl-C.

    Args:
        arguments: the command line; that of the process if not given.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        app(given, prog_name="senet")
    except SenetError as error:
        _fail(str(error))
    except OSError as error:  # a full disk, a folder that is a file, no permission
        if error.strerror is None:
            raise
        _fail(f"{error.filename or 'a file'}: {error.strerror}; mend that, or name another place")


def _fail(message: str) -> NoReturn:
    typer.echo(f"senet: error: {' '.join(message.split())}", err=True)
    sys.exit(USER_ERROR)
