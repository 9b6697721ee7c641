"""A changed model on disk: weights as safetensors, the sites and the configuration as JSON.

Nothing is pickled.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from senet.errors import DataError, InsertionError
from senet.insertion.config import SEConfig
from senet.insertion.graft import attach, detach, grafts
from senet.insertion.plan import Site

__all__ = ["load", "save"]

_FORMAT = "senet.insertion/1"
_WEIGHTS, _PLAN = "model.safetensors", "senet.json"


def save(model: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Save a model with inserted SE blocks: `model.safetensors` and `senet.json` in a folder.

    Each file is written whole or not at all.

    Args:
        model: a model after `senet.insert`.
        folder: where; made if it does not exist.

    Raises:
        InsertionError: the model has no inserted blocks.
    """
    from safetensors.torch import save_file

    found = grafts(model)
    if not found:
        raise InsertionError(
            "the model must have SE blocks from senet.insert, but has none; call senet.insert first"
        )
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    plan = {
        "format": _FORMAT,
        "model": type(model).__name__,
        "config": found[0].config.to_dict(),
        "sites": [graft.site.to_dict() for graft in found],
    }
    weights = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in _distinct(model.state_dict()).items()
    }
    _write(target / _WEIGHTS, lambda path: save_file(weights, path, metadata={"format": "pt"}))
    _write(
        target / _PLAN,
        lambda path: path.write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8"),
    )


def _distinct(state: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of a state dict, each storage under its first name only (tied weights)."""
    seen: dict[tuple[Any, ...], str] = {}
    kept: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            continue
        key = (tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
        if tensor.numel() == 0 or seen.setdefault(key, name) == name:
            kept[name] = tensor
    return kept


def _write(path: Path, writer: Any) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        writer(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load(model: nn.Module, folder: str | os.PathLike[str]) -> tuple[Site, ...]:
    """Rebuild a saved model on a fresh base network, in place.

    The same blocks go to the same sites, then the weights are loaded.

    Args:
        model: the base network, with any weights.
        folder: what `save` wrote.

    Returns:
        The sites.

    Raises:
        DataError: the files are missing, broken, or of another base network. The model is then as
            before.
        InsertionError: the model has inserted blocks already.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    source = Path(folder)
    config, sites = _read_plan(source / _PLAN)
    if grafts(model):
        raise InsertionError(
            "the model must be the plain base network, but has inserted SE blocks; "
            "call senet.remove(model) first"
        )
    try:
        state = load_file(source / _WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{source / _WEIGHTS} must be a whole safetensors file: {error}; save the model again"
        ) from error
    attach(model, sites, config)
    try:
        _load_state(model, state, source)
    except BaseException:
        detach(model)
        raise
    return sites


def _read_plan(path: Path) -> tuple[SEConfig, tuple[Site, ...]]:
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{path.parent} must hold {_PLAN} and {_WEIGHTS} as senet.save writes them: {error}"
        ) from error
    except ValueError as error:
        raise DataError(f"{path} must be JSON as senet.save writes it: {error}") from error
    if not isinstance(plan, dict) or plan.get("format") != _FORMAT:
        given = plan.get("format") if isinstance(plan, dict) else type(plan).__name__
        raise DataError(
            f"{path} must have the format {_FORMAT!r}, got {given!r}; "
            "was it written by another version?"
        )
    try:
        sites = tuple(Site(**(site | {"size": tuple(site["size"])})) for site in plan["sites"])
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{path} has a site that cannot be read: {error}; save the model again"
        ) from error
    return SEConfig.from_dict(plan["config"]), sites


def _load_state(model: nn.Module, state: dict[str, Tensor], source: Path) -> None:
    own = model.state_dict()
    expected = set(_distinct(own))
    wrong = [f"{name} is missing" for name in expected - set(state)]
    wrong += [f"{name} is not of this network" for name in set(state) - set(own)]
    wrong += [
        f"{name} must be {list(own[name].shape)}, is {list(tensor.shape)}"
        for name, tensor in state.items()
        if name in own and own[name].shape != tensor.shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        listed = "; ".join(sorted(wrong)[:3])
        raise DataError(f"{source} must fit this {type(model).__name__}, but {listed}{more}")
    versioned = OrderedDict(state)
    # modules read their versions from here; a fresh network of this program has the versions that
    # were saved
    versioned._metadata = getattr(own, "_metadata", None)  # type: ignore[attr-defined]
    with torch.no_grad():
        model.load_state_dict(versioned, strict=False)
