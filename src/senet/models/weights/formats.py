"""Opens a file of weights as data: what it is, whether it is whole, and its tensors.

What a file is is read from its first bytes, not from its name. Nothing in it is run.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from senet.errors import ConfigError, DataError

__all__ = ["check_sha256", "kind_of", "read_safetensors", "read_torch", "sha256_in_name"]

# First bytes -> what a file that is not weights is.
_STRANGERS = {
    b"version https://git-lfs": "a Git LFS pointer: run `git lfs pull`",
    b"<": "a page of a web server, not the file: download it again",
}
# Where training programs keep the tensors in what they save, in the order they are looked for.
_NESTED = ("state_dict", "model_state_dict", "model", "net", "params")
_LARGEST_HEADER = 100_000_000  # of a safetensors file, by its specification


def kind_of(path: Path) -> str:
    """Return what a file is: "safetensors", "torch" or "caffe".

    Raises:
        DataError: there is no such file, it is empty, or it is nothing of the kind.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(32)
    except OSError as error:
        raise DataError(f"{path} must be a file that can be read: {error.strerror}") from error
    if not size:
        raise DataError(f"{path} must hold weights, but is empty; fetch or copy it again")
    for start, meaning in _STRANGERS.items():
        if head.startswith(start):
            raise DataError(f"{path} must hold weights, but is {meaning}")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LARGEST_HEADER:
        return "safetensors"
    if head.startswith((b"PK", b"\x80")):  # a zip archive, or a bare pickle as before torch 1.6
        return "torch"
    if path.suffix == ".caffemodel" or head[:1] in (b"\x0a", b"\x12") or head[:2] == b"\xa2\x06":
        return "caffe"
    raise DataError(
        f"{path} must be a .safetensors, .pth or .caffemodel file, but begins with "
        f"{head[:8].hex(' ')}; fetch or copy it again"
    )


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file, mapped from the disk, and its metadata.

    Raises:
        DataError: the file is cut off or broken.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{path} must be a whole safetensors file: {_line(error)}; fetch or copy it again"
        ) from error


def read_torch(path: Path) -> dict[str, Tensor]:
    """Return the state dict in a file of `torch.save`, without running anything in it.

    Taken out of the entry `state_dict`, `model`, ... of a checkpoint.

    Raises:
        DataError: the file is cut off or broken, holds something else than tensors and plain
            containers, or no state dict.
    """
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    except (KeyError, IndexError, TypeError, AttributeError, AssertionError) as error:
        # What the unpickler meets in the middle of a file that ends too early.
        raise _unreadable(path, error) from error
    return _state_dict(loaded, path)


def _unreadable(path: Path, error: Exception) -> DataError:
    text = str(error)
    wanted = re.search(r"(?:GLOBAL|[Uu]nsupported class) +([\w.]+)", text)
    if isinstance(error, pickle.UnpicklingError) and wanted:
        return DataError(
            f"{path} must hold tensors only, but asks to run {wanted[1]}; it was refused, and "
            "nothing of it was run. If you trust where it comes from, save its state dict again"
        )
    return DataError(
        f"{path} must be a whole file of torch.save, but is cut off or broken "
        f"({_line(error) or type(error).__name__}); fetch or copy it again"
    )


def _state_dict(loaded: Any, path: Path) -> dict[str, Tensor]:
    candidates = [loaded]
    if isinstance(loaded, Mapping):
        candidates = [loaded[name] for name in _NESTED if name in loaded] + candidates
    for candidate in candidates:
        if isinstance(candidate, Mapping):
            tensors = {str(k): v for k, v in candidate.items() if isinstance(v, Tensor)}
            if tensors:
                return tensors
    what = list(loaded)[:5] if isinstance(loaded, Mapping) else type(loaded).__name__
    raise DataError(f"{path} must hold a state dict, names with tensors, but holds {what}")


def sha256_in_name(path: Path) -> str | None:
    """Return the head of the sha256 that a file name carries as on torch's hub, else None.

    Example:
        >>> sha256_in_name(Path("resnet20-12fca82f.th")), sha256_in_name(Path("run-20260101.pth"))
        ('12fca82f', None)
    """
    found = re.search(r"-([0-9a-f]{8,64})\.", path.name)
    # Digits alone are a date or a step more often than the head of a sum.
    return None if found is None or found[1].isdigit() else found[1]


def check_sha256(path: Path, expected: str) -> str:
    """Return the sha256 of a file whose sum must begin with `expected`.

    Raises:
        ConfigError: `expected` is not the head of a sum.
        DataError: the file has another sum.
    """
    if not re.fullmatch(r"[0-9a-fA-F]{8,64}", expected):
        raise ConfigError(f"sha256 must be 8 to 64 hexadecimal digits, got {expected!r}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(expected.lower()):
        raise DataError(
            f"{path} must have a sha256 that begins with {expected}, has {found[: len(expected)]}: "
            "it is cut off, broken or another file; fetch it again, or rename it if it is yours"
        )
    return found


def _line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return str(error).strip().partition("\n")[0][:200]
