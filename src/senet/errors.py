"""What can go wrong, by name.

Every error is also the builtin it refines, so plain `except ValueError` keeps working.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ConfigError",
    "DataError",
    "InputError",
    "InsertionError",
    "NoSitesError",
    "SenetError",
    "TrainingError",
    "UnknownNameError",
]


class SenetError(Exception):
    """Base of every error that this library raises on purpose."""


class ConfigError(SenetError, ValueError):
    """An option has a value that it cannot have."""


class InputError(SenetError, ValueError):
    """A tensor or another argument of a call does not fit."""


class InsertionError(SenetError, RuntimeError):
    """SE blocks cannot be inserted into, or removed from, this model."""


class NoSitesError(InsertionError):
    """The model has no place for an SE block; the message says what was looked at."""


class UnknownNameError(SenetError, LookupError):
    """A name is in no registry; the message lists near ones."""


class DataError(SenetError, ValueError):
    """Data are missing, unreadable, or do not fit the task."""


class TrainingError(SenetError, RuntimeError):
    """Training cannot go on; the message says what is left to go on from."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """Return (not raise) the error for a name that no registry holds, with the nearest known names.

    Example:
        >>> raise unknown_name("excitation", "sigmoyd", ["relu", "sigmoid", "tanh"])
        Traceback (most recent call last):
        ...
        senet.errors.UnknownNameError: unknown excitation 'sigmoyd'; did you mean: sigmoid?
    """
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
    near += [known for known in names if name and name in known and known not in near][
        : 5 - len(near)
    ]
    if near:
        return UnknownNameError(f"unknown {kind} {name!r}; did you mean: {', '.join(near)}?")
    listed = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return UnknownNameError(f"unknown {kind} {name!r}; known are: {listed}")
