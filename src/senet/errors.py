"""What can go wrong, by name.

Every error is also the builtin it refines, so plain `except ValueError` keeps working.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

__all__ = [
    "ConfigError",
    "DataError",
    "ExportError",
    "InputError",
    "InsertionError",
    "MissingPackageError",
    "NoSitesError",
    "SenetError",
    "TrainingError",
    "UnknownNameError",
    "first_line",
    "optional",
    "unknown_name",
]

# An optional package by the name that is imported: the extra that installs it.
_EXTRAS = {
    "datasets": "train",
    "filelock": "train",
    "huggingface_hub": "hub",
    "jinja2": "report",
    "lightning": "train",
    "matplotlib": "report",
    "nncf": "export",
    "numpy": "train",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "openvino": "export",
    "PIL": "train",
    "pyarrow": "train",
    "pycocotools": "detect",
    "rich": "cli",
    "scipy": "report",
    "sklearn": "train",
    "tensorboard": "loggers",
    "timm": "timm",
    "torch_pruning": "slim",
    "torchmetrics": "train",
    "torchvision": "timm",
    "typer": "cli",
    "wandb": "loggers",
    "yaml": "train",
}


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


class MissingPackageError(SenetError, ImportError):
    """An optional package is not installed; the message says what for, and how to install it."""


class ExportError(SenetError, RuntimeError):
    """A network cannot be written for an engine, or the file computes something else."""


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


@contextmanager
def optional(purpose: str) -> Iterator[None]:
    """Import optional packages inside: one that is missing becomes a `MissingPackageError`.

    Args:
        purpose: what needs the package, as the subject of a sentence.

    Example:
        >>> with optional("a network named timm/..."):
        ...     raise ModuleNotFoundError("No module named 'timm'", name="timm")
        Traceback (most recent call last):
        ...
        senet.errors.MissingPackageError: a network named timm/... needs the package timm, which is
        not installed; install it with: pip install "senet[timm]"
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS or isinstance(error, MissingPackageError):
            raise
        raise MissingPackageError(
            f"{purpose} needs the package {package}, which is not installed; "
            f'install it with: pip install "senet[{_EXTRAS[package]}]"',
            name=package,
        ) from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
