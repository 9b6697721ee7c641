"""Checkpoints that are whole or not there, and that say so themselves.

A file's name carries the head of its own sha256, `step-00001200-1f0c...ckpt`: so the rename that
puts it in place commits the data and their checksum in one, and a file that was cut off or changed
since is noticed when it is read.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import torch
from lightning.fabric.plugins.io import CheckpointIO
from torch import nn

from senet.errors import DataError, TrainingError
from senet.files import write_whole

__all__ = [
    "CheckpointFiles",
    "keep_best",
    "kept_checkpoint",
    "last_good",
    "load_weights",
    "newest_checkpoint",
    "read_checkpoint",
    "step_of",
    "weights_of",
]

_NAME = re.compile(r"step-(\d{8,})-([0-9a-f]{16})\.ckpt")
_BEST = "best-"
_log = logging.getLogger("senet")


def _listed(folder: Path) -> list[tuple[int, str, Path]]:
    """Return step, checksum and path of each checkpoint, the newest first."""
    matches = [(path, _NAME.fullmatch(path.name)) for path in folder.glob("step-*.ckpt")]
    return sorted(
        [(int(match[1]), match[2], path) for path, match in matches if match], reverse=True
    )


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that is whole; None where there is none.

    One that is not is named in a warning and set aside as `*.damaged`.
    """
    for _, checksum, path in _listed(folder):
        try:
            if hashlib.sha256(path.read_bytes()).hexdigest().startswith(checksum):
                return path
            path.replace(path.with_name(path.name + ".damaged"))
        except FileNotFoundError:  # another process of the same run has set it aside
            continue
        _log.warning(
            "%s is damaged: cut off or changed since it was written; going on from the checkpoint "
            "before it",
            path,
        )
    return None


def keep_best(folder: Path, step: int) -> None:
    """Keep the checkpoint of a step as that of the best epoch, in the place of the one before."""
    source = next((path for at, _, path in _listed(folder) if at == step), None)
    if source is None:
        return
    content = source.read_bytes()
    kept = source.with_name(source.name.replace("step-", _BEST, 1))
    write_whole(kept, lambda partial: partial.write_bytes(content))
    for path in folder.glob(f"{_BEST}*.ckpt"):
        if path != kept:
            path.unlink(missing_ok=True)


def kept_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint whose weights a run has come to: of the best epoch, or the newest."""
    for path in folder.glob(f"{_BEST}*.ckpt"):
        checksum = path.stem.rpartition("-")[2]
        if hashlib.sha256(path.read_bytes()).hexdigest().startswith(checksum):
            return path
        _log.warning("%s is damaged; the weights are those of the last epoch", path)
    return newest_checkpoint(folder)


def weights_of(source: str) -> str:
    """Return the checkpoint that stands for the folder of a run, or its network; else the source.

    Raises:
        DataError: a folder with neither.
    """
    folder = Path(source)
    if not folder.is_dir():
        return source
    saved = folder / "model.safetensors"
    path = saved if saved.is_file() else kept_checkpoint(folder)
    if path is None:
        raise DataError(f"{source} holds neither a run nor a saved network; give a file of weights")
    return str(path)


def last_good(folder: Path) -> str:
    """Return for a message which checkpoint a run can go on from."""
    listed = _listed(folder)
    return f"the last good checkpoint is {listed[0][2]}" if listed else "there is no checkpoint yet"


def step_of(path: Path) -> int:
    """Return the number of optimizer steps before a checkpoint."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else -1


@final
class CheckpointFiles(CheckpointIO):
    """How Lightning writes and reads checkpoints of a run.

    Args:
        folder: of the run.
        keep: how many to keep; one is the last, the others are there in case it is damaged.
    """

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep

    def save_checkpoint(
        self, checkpoint: Mapping[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint and remove those that are no longer needed.

        Raises:
            TrainingError: it cannot be written; those before are kept.
        """
        step = int(checkpoint["global_step"])
        buffer = io.BytesIO()
        torch.save(dict(checkpoint), buffer)
        data = buffer.getbuffer()
        checksum = hashlib.sha256(data).hexdigest()[:16]
        target = self.folder / f"step-{step:08}-{checksum}.ckpt"
        for stale in self.folder.glob("step-*.partial"):  # of a run that was killed while it wrote
            stale.unlink(missing_ok=True)
        try:
            write_whole(target, lambda partial: partial.write_bytes(data))
        except OSError as error:
            raise TrainingError(
                f"the checkpoint of step {step} cannot be written to {self.folder}: "
                f"{error.strerror or error}; {last_good(self.folder)}; make room, then --resume"
            ) from error
        for _, _, path in _listed(self.folder)[self.keep :]:
            path.unlink(missing_ok=True)

    def load_checkpoint(
        self,
        path: Any,
        map_location: Any | None = None,
        weights_only: bool | None = None,  # noqa: FBT001 - the name and place are Lightning's
    ) -> dict[str, Any]:
        """Read a checkpoint; nothing in it is executed."""
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint."""
        Path(path).unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what is in a checkpoint; nothing in it is executed.

    Raises:
        DataError: it cannot be read.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip files, pickles and disks fail in many ways
        raise DataError(f"{path} is no checkpoint that can be read: {error}") from error
    return content


def load_weights(net: nn.Module, folder: Path) -> nn.Module:
    """Load the weights that a run has come to into the network, and return it.

    Where averaged weights were kept, it is those.

    Raises:
        DataError: there is no checkpoint, or it is that of another network.
    """
    path = kept_checkpoint(folder)
    if path is None:
        raise DataError(f"{folder} holds no checkpoint; train first")
    state = read_checkpoint(path)["state_dict"]
    averaged = any(key.startswith("ema.") for key in state)
    prefix = "ema.module." if averaged else "net."
    weights = {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
    }
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        first = "; ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise DataError(f"{path} holds the weights of another network: {first}") from error
    return net
