"""A changed model on disk: weights as safetensors, the sites and the configuration as JSON.

Nothing is pickled. The plan is in the header of the weights as well: that file alone is the model,
and a folder in which a save was interrupted holds the one model or the other, never a mixture.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from senet.errors import DataError, InsertionError, first_line
from senet.files import write_text, write_whole
from senet.insertion.config import SEConfig
from senet.insertion.facts import block_kinds, facts_of, keep_fact
from senet.insertion.folded import (
    Folded,
    folded_blocks,
    put_back,
    read_folded,
    take_out_again,
)
from senet.insertion.graft import grafts
from senet.insertion.guard import settle
from senet.insertion.site_plan import Site
from senet.insertion.surgery import attach, se_modules, undone

__all__ = [
    "FORMAT",
    "Plan",
    "has_written_blocks",
    "load",
    "plan_of",
    "read_plan",
    "save",
    "write_model",
    "write_tensors",
    "write_weights",
]

FORMAT = "senet.insertion/1"
_USE = ("classes", "preprocessing")  # facts that belong to the weights
_WEIGHTS, _PLAN = "model.safetensors", "senet.json"


def save(model: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Save a model with inserted SE blocks: `model.safetensors` and `senet.json` in a folder.

    Each file is written whole or not at all, and both belong together: what `senet.load` reads is
    this model, or, if writing was interrupted, the one that was there before.

    Args:
        model: a model after `senet.insert` or `senet.fold`.
        folder: where; made if it does not exist.

    Raises:
        InsertionError: the model has no inserted blocks and no folded ones, or has lost some; see
            `senet.insert`.
        DataError: the folder cannot be written; what was there before is kept.
    """
    try:
        write_model(model, Path(folder))
    except OSError as error:
        raise DataError(
            f"{folder} must be a folder that can be written: {first_line(error)}; give another one"
        ) from error


def write_model(model: nn.Module, folder: Path) -> None:
    """Do what `save` does; that the folder cannot be written stays an OSError."""
    settle(model)
    plan = plan_of(model)
    if plan is None:
        raise InsertionError(
            "the model must have SE blocks from senet.insert, but has none; call senet.insert first"
        )
    facts = {"format": FORMAT, "model": type(model).__name__, **plan, **facts_of(model)}
    facts |= {"written": has_written_blocks(model), "blocks": block_kinds(model)}
    text = json.dumps(facts, indent=1) + "\n"
    write_weights(model, folder / _WEIGHTS, senet=text)
    write_text(folder / _PLAN, text)


def has_written_blocks(model: nn.Module) -> bool:
    """Whether a network is built with SE blocks, which no plan of inserted blocks holds."""
    built_in = len(se_modules(model)) > len(grafts(model))
    return built_in or any(not each.inserted for each in folded_blocks(model))


def plan_of(model: nn.Module) -> dict[str, Any] | None:
    """Return configuration and sites of the inserted blocks, and the folded blocks, JSON-able.

    None without any of them.
    """
    present, folded = grafts(model), folded_blocks(model)
    if not present and not folded:
        return None
    config = present[0].config if present else SEConfig()
    plan = {"config": config.to_dict(), "sites": [graft.site.to_dict() for graft in present]}
    return {**plan, "folded": [each.to_dict() for each in folded]} if folded else plan


def write_weights(model: nn.Module, path: Path, **header: str) -> None:
    """Write the weights and buffers of a model as a safetensors file, whole or not at all.

    A tensor with several names (tied weights) is written under the first. Views of one buffer, as
    `torch.nn.utils.vector_to_parameters` leaves them, are written each for itself, also where they
    overlap.

    Args:
        model: any.
        path: the file.
        header: texts to keep in the file's header.
    """
    weights, storages = {}, set()
    for name, tensor in _distinct(model.state_dict()).items():
        own = tensor.detach().cpu().contiguous()
        storage = own.untyped_storage()
        if storage.nbytes() != own.nbytes or storage.data_ptr() in storages:
            own = own.clone()
        storages.add(own.untyped_storage().data_ptr())
        weights[name] = own
    write_tensors(path, weights, {"format": "pt", **header})


def write_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """Write a safetensors file, whole or not at all.

    Raises:
        OSError: it cannot be written, as where the disk is full; what was there before is kept.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    def write(partial: Path) -> None:
        try:
            save_file(tensors, partial, header)
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            code = int(number[1]) if number else errno.EIO
            raise OSError(code, os.strerror(code), str(path)) from error

    write_whole(path, write)


def _distinct(state: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of a state dict, each under its first name only (tied weights)."""
    seen: dict[tuple[Any, ...], str] = {}
    kept: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            continue
        key = (tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
        if tensor.numel() == 0 or seen.setdefault(key, name) == name:
            kept[name] = tensor
    return kept


def load(model: nn.Module, folder: str | os.PathLike[str]) -> tuple[Site, ...]:
    """Rebuild a saved model on a fresh base network, in place.

    The same blocks go to the same sites, then the weights are loaded. The classes and the images
    that were kept with the model are kept with this one.

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
    source = Path(folder)
    header, state = _read_weights(source)
    facts = _read_plan(source / _PLAN, header)
    plan = read_plan(facts, source / _PLAN)
    settle(model)
    if grafts(model):
        raise InsertionError(
            "the model must be the plain base network, but has inserted SE blocks; "
            "call senet.remove(model) first"
        )
    with put_back(model), undone(model):
        take_out_again(model, plan.folded)
        attach(model, plan.sites, plan.config)
        _load_state(model, state, source)
    for name in _USE:
        if facts.get(name) is not None:
            keep_fact(model, name, facts[name])
    return plan.sites


def _read_weights(source: Path) -> tuple[str | None, dict[str, Tensor]]:
    """The plan in the weights' header (an older version wrote none), and the weights."""
    from safetensors import SafetensorError, safe_open

    path = source / _WEIGHTS
    if not path.exists():
        raise DataError(
            f"{source} must hold {_PLAN} and {_WEIGHTS} as senet.save writes them, "
            f"but there is no {path}; save the model again"
        )
    try:
        with safe_open(path, "pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return (file.metadata() or {}).get("senet"), state
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{path} must be a whole safetensors file: {error}; save the model again"
        ) from error


def _read_plan(path: Path, header: str | None) -> dict[str, Any]:
    """The plan that belongs to the weights: the one in their header, else that of the file."""
    if header is None or path.exists():
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise DataError(
                f"{path.parent} must hold {_PLAN} and {_WEIGHTS} as senet.save writes them: {error}"
            ) from error
        plan = _parsed(text, path)
    return plan if header is None else _parsed(header, path)


def _parsed(text: str, path: Path) -> dict[str, Any]:
    try:
        plan = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path} must be JSON as senet.save writes it: {error}") from error
    if not isinstance(plan, dict) or plan.get("format") != FORMAT:
        given = plan.get("format") if isinstance(plan, dict) else type(plan).__name__
        raise DataError(
            f"{path} must have the format {FORMAT!r}, got {given!r}; "
            "was it written by another version?"
        )
    read_plan(plan, path)
    return plan


class Plan(NamedTuple):
    """What a network is made from its base by."""

    config: SEConfig
    sites: tuple[Site, ...]
    folded: tuple[Folded, ...]


def read_plan(plan: Mapping[str, Any], path: Path) -> Plan:
    """Return what `plan_of` wrote down.

    Args:
        plan: with `config` and `sites`.
        path: of the file, for the message.

    Raises:
        DataError: a site is not as `plan_of` writes it.
    """
    try:
        sites = tuple(Site(**(site | {"size": tuple(site["size"])})) for site in plan["sites"])
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{path} has a site that cannot be read: {error}; save the model again"
        ) from error
    return Plan(SEConfig.from_dict(plan["config"]), sites, read_folded(plan.get("folded", ())))


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
