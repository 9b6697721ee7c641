"""Published weights into a network: read, check everything, copy, say what was done."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from senet.errors import ConfigError, DataError, unknown_name
from senet.insertion.facts import block_kinds, keep_fact
from senet.models.weights.hubs import read_source
from senet.models.weights.identity import IdentityStart, make_identity, plan_identity
from senet.models.weights.matching import counted, match
from senet.models.weights.preprocess import Preprocessing, remember
from senet.models.weights.source import Source
from senet.models.weights.strides import check_layout

__all__ = ["WeightsReport", "load_source", "load_weights"]

_STARTS = ("identity", "keep")
_log = logging.getLogger("senet")


@final
@dataclass(frozen=True)
class WeightsReport:
    """What `senet.load_weights` did.

    Attributes:
        source: what was asked for.
        tensors: how many tensors were copied.
        identity: paths of the SE blocks that the source lacks and that are the identity now.
        doubled: paths of the batch norms whose gamma and beta were doubled for that, because the
            gate of their SE block is 1/2.
        kept: paths of the SE blocks that the source lacks and that are as they were.
        ignored: names in the source that were not needed: counters, auxiliary classifiers, with
            head=False the last layer.
        foreign: names in the source that are not of this network, such as a loss's class weights,
            and were passed over; the network is complete without them.
        taken: which copy of the weights was taken, where the source has an average (EMA) as well;
            "" where there was no choice.
        head: whether the last layer was loaded.
        layout: the layout that the weights were trained in, and that the network was found to have;
            None: not known, not compared.
        preprocessing: the images that the weights expect; None: not known.
        sha256: of the file, if it was known and compared.
    """

    source: str
    tensors: int
    identity: tuple[str, ...]
    doubled: tuple[str, ...]
    kept: tuple[str, ...]
    ignored: tuple[str, ...]
    foreign: tuple[str, ...]
    taken: str
    head: bool
    layout: str | None
    preprocessing: Preprocessing | None
    sha256: str | None

    def __str__(self) -> str:
        """Return the report as lines."""
        lines = [f"{self.source}: {self.tensors} tensors loaded"]
        if self.taken:
            lines.append(f"taken: {self.taken}")
        if self.identity:
            how = (
                f" (gates of 1/2; gamma and beta of {len(self.doubled)} batch norms doubled)"
                if self.doubled
                else " (gates of 1)"
            )
            lines.append(f"SE: {len(self.identity)} blocks not in the source, identity now{how}")
        if self.kept:
            lines.append(f"SE: {len(self.kept)} blocks not in the source, left as they were")
        if self.ignored:
            lines.append(f"ignored: {counted(self.ignored)}")
        if self.foreign:
            lines.append(f"not of this network, passed over: {counted(self.foreign)}")
        if not self.head:
            lines.append("last layer: left as it was")
        lines.append(f"layout: {self.layout or 'not known, not compared'}")
        lines.append(f"sha256: {self.sha256 or 'not known, not compared'}")
        lines.append(f"images: {_images(self.preprocessing)}")
        return "\n".join(lines)


def load_weights(
    model: nn.Module,
    source: str | os.PathLike[str],
    *,
    head: bool = True,
    se: str = "identity",
    sha256: str | None = None,
    ema: bool = True,
) -> WeightsReport:
    """Load published weights into a network, in place. A source that does not fit changes nothing.

    Read are the authors' `.caffemodel` files (channels and classes are brought into PyTorch's
    order), files of Cadene's `senet`, of timm and of torchvision, checkpoints of training programs
    (timm, torchvision, lightning, MMPretrain, ...), state dicts of this project, and what
    `senet convert` writes. Weights of a plain network go into its SE form, whose blocks then are
    the identity. Files are data: nothing in them is run.

    Args:
        model: the network, with memory (not on the meta device); of this project, or any other with
            the same tensors.
        source: a file; `hf://OWNER/REPOSITORY[@REVISION][/FILE]`; `timm/NAME[.TAG]` or
            `torchvision/NAME[.TAG]`, the weights that these libraries publish. What is fetched
            stays in the caches of Hugging Face and of torch.hub.
        head: load the last layer too; False leaves it as it is, for other classes.
        se: for SE blocks that the source lacks: "identity" makes them compute y = x exactly, with a
            centred gate by a zero last layer, with the paper's gate of 1/2 by gamma and beta of
            their batch norm doubled as well; "keep" leaves them as they are.
        sha256: the sum of the file, or its first 8 digits or more; by default what its name says
            (`resnet50-0676ba61.pth`).
        ema: of a checkpoint with an average of the weights beside them, take the average, as timm
            does; False takes the weights.

    Returns:
        What was done, with the images that the weights expect; `senet.preprocessing(model)` gives
        these later. Which average was taken, and what was passed over, is logged as a warning too.

    Raises:
        DataError: the file is missing, cut off, broken, of another program, holds code, has another
            sum, or does not fit: the message names the layer, the shape that was expected and the
            one that is there; or its SE blocks compute another function than the network's; or it
            cannot be fetched. The network is as before.
        MissingPackageError: a hub whose client is not installed.
        ConfigError: an option that cannot be, or a network without memory.
        InputError: an SE block that cannot be the identity. The network is as before.
        UnknownNameError: no such network or weights in timm or torchvision.
    """
    if se not in _STARTS:
        raise unknown_name("se", se, _STARTS)
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        raise ConfigError(
            "the network must have memory, but is on the meta device; build it elsewhere, or call "
            'model.to_empty(device="cpu") first'
        )
    return load_source(model, read_source(source, sha256=sha256, ema=ema), head=head, se=se)


def load_source(
    model: nn.Module, read: Source, *, head: bool = True, se: str = "identity"
) -> WeightsReport:
    """Do what `load_weights` does, with weights that are read already."""
    check_layout(model, read)
    matched = match(model, read, head=head)
    _check_blocks(model, read)
    plan: list[IdentityStart] = []
    if se == "identity":
        plan = plan_identity(model, matched.absent_se)
    state = model.state_dict()
    with torch.no_grad():
        for name, tensor in matched.tensors.items():
            state[name].copy_(tensor)
    make_identity(plan)
    if read.preprocessing is not None:
        remember(model, read.preprocessing)
    if head and read.facts.get("classes") is not None:
        keep_fact(model, "classes", list(read.facts["classes"]))
    if matched.taken:
        _log.warning("%s: taken was %s", read.name, matched.taken)
    if matched.foreign:
        _log.warning(
            "%s: passed over, not of this network: %s", read.name, counted(matched.foreign)
        )
    return WeightsReport(
        source=read.name,
        tensors=len(matched.tensors),
        identity=tuple(each.path for each in plan),
        doubled=tuple(each.path.rpartition(".")[0] for each in plan if each.doubled is not None),
        kept=() if se == "identity" else tuple(matched.absent_se),
        ignored=tuple(matched.ignored),
        foreign=tuple(matched.foreign),
        taken=matched.taken,
        head=head,
        layout=read.layout,
        preprocessing=read.preprocessing,
        sha256=read.sha256,
    )


def _check_blocks(model: nn.Module, source: Source) -> None:
    """Raise `DataError` if the SE blocks of a file compute another function than the network's."""
    theirs, ours = source.facts.get("blocks"), block_kinds(model)
    if theirs and ours and list(theirs) != ours:
        raise DataError(
            f"{source.name} has SE blocks of the kind {' and '.join(theirs)}, this "
            f"{type(model).__name__} has {' and '.join(ours)}. Nothing was loaded; "
            "senet.from_pretrained(file) builds the network that the file is of"
        )


def _images(expected: Preprocessing | None) -> str:
    if expected is None:
        return "not known"
    mean, std = (" ".join(f"{v:.4g}" for v in values) for values in (expected.mean, expected.std))
    size = f"crop {expected.crop}"
    if expected.resize is not None:
        size = f"shorter side {expected.resize} ({expected.interpolation}), {size}"
    return f"{size}; RGB in [0, 1], mean {mean}, std {std}"
