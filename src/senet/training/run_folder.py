"""The folder of a run or an experiment: what may be there, and what its result says of itself."""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import json
import platform
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch

from senet import __version__
from senet.errors import ConfigError, DataError, optional
from senet.files import write_text
from senet.schema import Config, differences, overridden
from senet.training.config import read_yaml
from senet.training.loop.checkpoints import newest_checkpoint
from senet.training.loop.placement import Placement, is_first_process

__all__ = [
    "begun_with",
    "check_data",
    "check_same",
    "check_writable",
    "circumstances",
    "device_name",
    "done_result",
    "exclusive",
    "has_content",
    "locked",
    "now",
    "read_result",
    "versions",
    "write_result",
]

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C", bound=Config)
_LOCK = ".lock"
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
    check_writable(folder)
    if not folder.exists() or not any(path.name != _LOCK for path in folder.iterdir()):
        return False
    if not resume:
        raise ConfigError(f"out must be a new or an empty folder, {folder} is not empty; {cure}")
    return True


def check_writable(folder: Path) -> None:
    """Raise `ConfigError` if no file can be written to the folder; nothing is left in it."""
    with _made(folder):
        pass


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder; one that ends, however it does, keeps nobody out.

    The folder is made, and goes again where nothing was written to it.

    Raises:
        ConfigError: another process works in it, or it cannot be written to.
    """
    with optional("a folder for results"):
        from filelock import FileLock, Timeout

    with _made(folder), ExitStack() as stack:
        try:
            stack.enter_context(FileLock(folder / _LOCK, timeout=0))
        except Timeout as error:
            raise ConfigError(
                f"out must be a folder that no other run writes to, one works in {folder}; wait "
                "until it has ended, or choose another folder"
            ) from error
        stack.callback((folder / _LOCK).unlink, missing_ok=True)  # while the lock is held
        yield


def exclusive(job: Callable[P, T]) -> Callable[P, T]:
    """Let a function keep other processes out of the folder that is its option `out`.

    Of the processes of one run, the first holds the folder for all.
    """
    signature = inspect.signature(job)

    @functools.wraps(job)
    def alone(*args: P.args, **options: P.kwargs) -> T:
        given = signature.bind(*args, **options)
        given.apply_defaults()
        out = Path(given.arguments["out"])
        with locked(out) if is_first_process() else nullcontext():
            return job(*args, **options)

    return alone


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a folder that can be written to; what was made goes again where it stays empty."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"out must be a folder, {folder} is a file")
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    made: list[Path] = []
    try:
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
        yield
    finally:
        with suppress(OSError):  # not empty
            for path in reversed(made):
                path.rmdir()


def begun_with(folder: Path, blank: C, *, resume: bool) -> C | None:
    """Return the configuration that the run in a folder was begun with; None where none was.

    Args:
        folder: of the run.
        blank: a configuration of the same kind, for what is not written there.
        resume: whether to go on with what is there.

    Raises:
        ConfigError: see `has_content`.
        DataError: there are checkpoints, but not the configuration.
    """
    if not has_content(folder, resume=resume):
        return None
    path = folder / "config.yaml"
    if path.exists():
        return overridden(blank, read_yaml(path))
    if any(folder.glob("step-*.ckpt")):
        raise DataError(f"{folder} has checkpoints but no config.yaml; choose another folder")
    return None


def done_result(
    folder: Path, ended: Callable[[list[dict[str, Any]]], bool] = bool
) -> dict[str, Any] | None:
    """Return the result of a run that is done; None where there is still something to train.

    Args:
        folder: of the run.
        ended: says of its epochs whether no more are wanted.
    """
    try:
        result: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        done = result["state"] == "done" and ended(result["epochs"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return result if done and newest_checkpoint(folder) is not None else None


def circumstances(config: Config, where: Placement) -> dict[str, Any]:
    """Return what was computed with what, where and when, as a result has it."""
    return {
        "versions": versions(),
        "placement": asdict(where),
        "date": now(),
        "config": config.to_dict(),
    }


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
        raise DataError(
            f"{folder} was begun with {len(old)} classes, the data have {len(new)}; "
            f"{_changed_classes(old, new)}; {cure}"
        )
    counts = differences(before.get("images_per_class") or {}, now["images_per_class"])
    if counts and before.get("images_per_class"):
        changed = [f"{name} had {was}, has {is_now}" for name, (was, is_now) in counts.items()]
        more = f"; and {len(changed) - 3} more" * (len(changed) > 3)
        raise DataError(
            f"{folder} was begun with other images: {'; '.join(changed[:3])}{more}; {cure}"
        )


def _changed_classes(old: Sequence[str], new: Sequence[str]) -> str:
    """Return which classes are gone and new; else which one has another index."""
    gone, added = ([each for each in a if each not in b] for a, b in ((old, new), (new, old)))
    parts = [
        f"{', '.join(map(repr, names[:3]))}{', ...' * (len(names) > 3)} "
        f"{'is' if len(names) == 1 else 'are'} {what}"
        for names, what in ((gone, "gone"), (added, "new"))
        if names
    ]
    if parts:
        return ", ".join(parts)
    place, (was, is_now) = next(
        (k, pair) for k, pair in enumerate(zip(old, new, strict=True)) if len({*pair}) > 1
    )
    return f"class {place} was {was!r}, is {is_now!r}"


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
