"""Blocks that are gone because their gate was a constant, and what a network notes of them.

Who builds the network again, from a folder or from a run, takes the same blocks out before the
weights are loaded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from senet.blocks import (
    SEBatchNorm1d,
    SEBatchNorm2d,
    SEBatchNorm3d,
    SESyncBatchNorm,
)
from senet.blocks.channel_scale import ChannelScale
from senet.errors import DataError
from senet.insertion.graft import MARK, carry, grafts_of, strip
from senet.schema import Record

__all__ = [
    "Folded",
    "folded_blocks",
    "note_folded",
    "put_back",
    "read_folded",
    "take_out",
    "take_out_again",
]

_NOTE = "_senet_folded"
_PLAIN: dict[type[nn.Module], type[nn.Module]] = {
    SEBatchNorm1d: nn.BatchNorm1d,
    SEBatchNorm2d: nn.BatchNorm2d,
    SEBatchNorm3d: nn.BatchNorm3d,
    SESyncBatchNorm: nn.SyncBatchNorm,
}


@final
@dataclass(frozen=True)
class Folded(Record):
    """A block that is gone.

    Attributes:
        path: where it was.
        channels: C.
        scale: whether a `ChannelScale` stands in its place; else the weights around it hold its
            constant.
        inserted: whether `senet.insert` had put it there: the base network does not have it.
    """

    path: str
    channels: int
    scale: bool
    inserted: bool


def folded_blocks(model: nn.Module) -> tuple[Folded, ...]:
    """Return the blocks of a model that `senet.fold` took out."""
    folded: tuple[Folded, ...] = vars(model).get(_NOTE, ())
    return folded


def note_folded(model: nn.Module, folded: tuple[Folded, ...]) -> None:
    """Note with a model which blocks are gone."""
    if folded:
        vars(model)[_NOTE] = folded
    else:
        vars(model).pop(_NOTE, None)


def read_folded(entries: Iterable[Mapping[str, Any]]) -> tuple[Folded, ...]:
    """Return what `Folded.to_dict` gave.

    Raises:
        DataError: the fields are others.
    """
    try:
        return tuple(Folded(**entry) for entry in entries)
    except TypeError as error:
        names = [field.name for field in dataclasses.fields(Folded)]
        raise DataError(f"a folded block must have the fields {names}: {error}") from error


def take_out(model: nn.Module, path: str, channels: int, factor: Tensor | None) -> None:
    """Take a block out of a network, and note that it is gone.

    Args:
        model: the network.
        path: of the block.
        channels: C.
        factor: [C], where the weights around the block do not hold it.
    """
    parent, _, name = path.rpartition(".")
    host = model.get_submodule(parent)
    marks = [graft for graft in grafts_of(host) if graft.child == name]
    rest: nn.Module | None = None
    if factor is not None:
        rest = ChannelScale(channels, device=factor.device, dtype=factor.dtype)
        rest.train(host.training)
        with torch.no_grad():
            rest.weight.copy_(factor)
    if rest is not None:
        host._modules[name] = rest
        if marks:
            _note_scale(host, name)
    elif marks:
        _drop_graft(host, name)
    elif name == "se" and type(host) in _PLAIN:
        del host._modules[name]
        host.__class__ = _PLAIN[type(host)]
    else:
        host._modules[name] = nn.Identity()
    entry = Folded(path, channels, factor is not None, bool(marks))
    note_folded(model, (*folded_blocks(model), entry))


def _note_scale(host: nn.Module, name: str) -> None:
    """A site of a scale has no hidden layer."""
    marks = tuple(
        dataclasses.replace(graft, site=_without_layers(graft.site))
        if graft.child == name
        else graft
        for graft in grafts_of(host)
    )
    vars(host)[MARK] = marks


def _without_layers(site: Any) -> Any:
    return dataclasses.replace(site, hidden=0, parameters=site.channels, macs=0)


def _drop_graft(host: nn.Module, name: str) -> None:
    others = tuple(graft for graft in grafts_of(host) if graft.child != name)
    if not others:
        strip(host)
        return
    del host._modules[name]
    carry(host, others)


@contextmanager
def put_back(model: nn.Module) -> Iterator[None]:
    """If what is inside fails, put back the blocks of the network that it took out."""
    classes = {module: type(module) for module in model.modules()}
    children = {module: dict(module._modules) for module in classes}
    note = folded_blocks(model)
    try:
        yield
    except BaseException:
        for module, kind in classes.items():
            if type(module) is not kind:
                module.__class__ = kind
            module._modules.clear()
            module._modules.update(children[module])
        note_folded(model, note)
        raise


def take_out_again(model: nn.Module, folded: Iterable[Folded]) -> None:
    """Take the blocks out of a network that was built anew; its weights are loaded afterwards.

    Raises:
        DataError: the network has no block where one must be.
    """
    for each in folded:
        if each.inserted:  # the sites that are left say where blocks are
            note_folded(model, (*folded_blocks(model), each))
            continue
        try:
            block = model.get_submodule(each.path)
        except AttributeError as error:
            raise DataError(
                f"the network must have a block at {each.path!r}, to take it out as when it was "
                f"saved, but this {type(model).__name__} has none; build the same network"
            ) from error
        like = next(block.parameters(), torch.empty(0))
        factor = torch.ones(each.channels).to(like) if each.scale else None
        take_out(model, each.path, each.channels, factor)
