"""The folder of a run or an experiment: what may be there, and what its result says of itself."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import tempfile
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from senet import __version__
from senet.errors import ConfigError, DataError
from senet.files import write_text
from senet.schema import Config, differences

__all__ = [
    "check_data",
    "check_same",
    "check_writable",
    "device_name",
    "has_content",
    "now",
    "read_result",
    "versions",
    "write_result",
]

_PACKAGES = ("torch", "torchvision", "timm", "lightning", "torchmetrics")


def has_content(
    folder: Path,
    *,
    resume: bool,
    cure: str = "go on with what is there by --resume, or choose another folder",
) -> bool:
    """Return whether there is something in the folder to go on with; nothing is left written.

    Args:
        folder: of the results.
        resume: whether to go on with what is there.
        cure: what to try where it is not to be resumed.

    Raises:
        ConfigError: it is a file, cannot be written to, or is not empty and not to be resumed.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"out must be a folder, {folder} is a file")
    check_writable(folder)
    if not folder.exists() or not any(folder.iterdir()):
        return False
    if not resume:
        raise ConfigError(f"out must be a new or an empty folder, {folder} is not empty; {cure}")
    return True


def check_writable(folder: Path) -> None:
    """Raise `ConfigError` if no file can be written to the folder; nothing is left in it."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    made: list[Path] = []
    try:
        for path in reversed(missing):
            path.mkdir()
            made.append(path)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"out must be a folder that can be written to, {folder} gives: "
            f"{error.strerror or error}; name another place"
        ) from error
    finally:
        for path in reversed(made):
            path.rmdir()


def check_same(
    before: Config | Mapping[str, Any],
    now: Config | Mapping[str, Any],
    *,
    free: Collection[str] = (),
    where: str = "--resume goes on with the same options, but ",
) -> None:
    """Raise `ConfigError` if options differ from those that a folder was begun with.

    Args:
        before: the options in the folder.
        now: those that are given.
        free: full names of options that may change.
        where: how the message begins.
    """
    changed = [
        f"{name} was {old}, is {new}"
        for name, (old, new) in differences(before, now).items()
        if name not in free
    ]
    if changed:
        raise ConfigError(f"{where}{'; '.join(changed)}; give the old ones, or another out folder")


def check_data(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Raise `DataError` if the data are others than before: the classes, their order, the images.

    Args:
        before: what a run was begun with, as `ImageData.fingerprint` gives it.
        now: that of the data as they are.
        folder: of the run.
    """
    cure = "give the data as they were, or another out folder"
    old, new = list(before["classes"]), list(now["classes"])
    if old != new:
        pairs = zip_longest(map(repr, old), map(repr, new), fillvalue="none")
        place, (was, is_now) = next((k, pair) for k, pair in enumerate(pairs) if len({*pair}) > 1)
        raise DataError(
            f"{folder} was begun with {len(old)} classes, the data have {len(new)}; class "
            f"{place} was {was}, is {is_now}; {cure}"
        )
    counts = differences(before.get("images_per_class") or {}, now["images_per_class"])
    if counts and before.get("images_per_class"):
        changed = [f"{name} had {was}, has {is_now}" for name, (was, is_now) in counts.items()]
        more = f"; and {len(changed) - 3} more" * (len(changed) > 3)
        raise DataError(
            f"{folder} was begun with other images: {'; '.join(changed[:3])}{more}; {cure}"
        )


def read_result(path: Path, schema: str, *older: str) -> dict[str, Any]:
    """Return the result in a file.

    Raises:
        DataError: it cannot be read, or is of another schema.
    """
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known = result["schema"] in (schema, *older) and isinstance(result["config"], Mapping)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"there is nothing to resume in {path.parent}: its {path.name} cannot be read "
            f"({type(error).__name__})"
        ) from error
    if not known:
        raise DataError(f"{path} must be of schema {schema!r}, is of {result['schema']!r}")
    return result


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result as JSON, whole or not at all."""
    write_text(path, json.dumps(result, indent=1, allow_nan=False))


def versions() -> dict[str, str]:
    """Return the versions that a result names."""
    known = {"senet": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            known[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return known


def now() -> str:
    """Return the date that a result names, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def device_name(device: torch.device) -> str:
    """Return the device with its hardware, as results name it."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({_processor()}, {torch.get_num_threads()} threads)"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
