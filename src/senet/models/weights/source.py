"""Weights as they are in a file, with what the file tells about them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from torch import Tensor

from senet.errors import DataError, MissingPackageError, optional
from senet.insertion.saving import FORMAT as INSERTED
from senet.models.weights.caffe_names import read_caffe
from senet.models.weights.checkpoint import weights_in
from senet.models.weights.formats import check_sha256, kind_of, read_safetensors, sha256_in_name
from senet.models.weights.inert import read_torch
from senet.models.weights.keys import is_legacy
from senet.models.weights.preprocess import CAFFE, CIFAR, IMAGENET, Preprocessing, of_torchvision

__all__ = ["FORMAT", "Source", "read_file", "weights_of_run"]

# Formats of the entry "senet" in the metadata of a safetensors file and in a checkpoint.
FORMAT = "senet.weights/1"
_FORMATS = (FORMAT, INSERTED)
_TIMM_SE = re.compile(r"(^|\.)layer\d+\.\d+\.se\.(fc1|conv_reduce)\.weight$")
# Heads of the sums of resnet20 and resnet32 of github.com/akamaster/pytorch_resnet_cifar10.
_CIFAR = ("12fca82f", "d509ac18")


@final
@dataclass(frozen=True)
class Source:
    """Weights as they were read, before they meet a network.

    Attributes:
        name: what was asked for.
        state: name -> tensor, as in the file (a Caffe model: as `read_caffe` names them).
        kind: "caffe", "legacy" (Cadene, timm's `legacy_*`), "senet" (`senet convert`) or "".
        origin: name -> where in the file it stands, if it is called otherwise there.
        layout: the network it was trained in: "authors", "torchvision", or None: not known.
        preprocessing: what images it was trained with; None: not known.
        sha256: of the file, if it was known before and is right.
        ema: whether an average of the weights is taken where there is one beside them.
        taken: which of the two was taken; "" where there was no choice.
        facts: what the file says of its network; see `senet.models.description.described`.
    """

    name: str
    state: Mapping[str, Tensor]
    kind: str = ""
    origin: Mapping[str, str] = field(default_factory=dict)
    layout: str | None = None
    preprocessing: Preprocessing | None = None
    sha256: str | None = None
    ema: bool = True
    taken: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


def read_file(
    path: Path,
    name: str,
    *,
    sha256: str | None = None,
    ema: bool = True,
    layout: str | None = None,
    preprocessing: Preprocessing | None = None,
) -> Source:
    """Read a file; the layout and the images that are given come before what it looks like.

    Raises:
        DataError: the file is missing, cut off, broken, something else, or has another sum.
    """
    kind = kind_of(path)
    expected = sha256 or sha256_in_name(path)
    compared = None if expected is None else check_sha256(path, expected)
    if kind == "caffe":
        state, origin = read_caffe(path)
        return Source(name, state, "caffe", origin, "authors", CAFFE, compared)
    taken, facts = "", {}
    if kind == "safetensors":
        state, metadata = read_safetensors(path)
        facts = _described(metadata.get("senet"), path)
    else:
        checkpoint = read_torch(path)
        facts = _described(
            checkpoint.get("senet") if isinstance(checkpoint, Mapping) else None, path
        )
        if facts:
            state = weights_of_run(checkpoint["state_dict"], ema=ema)
        else:
            state, taken = weights_in(checkpoint, path, ema=ema)
    kind = ""
    if facts:
        kind, layout, known = "senet", facts.get("layout"), facts.get("preprocessing")
        preprocessing = None if known is None else Preprocessing.from_dict(known)
    elif is_legacy(state):
        kind, layout, preprocessing = "legacy", "authors", preprocessing or IMAGENET
    elif compared is not None and compared[:8] in _CIFAR:
        preprocessing = CIFAR
    elif layout is None and any(_TIMM_SE.search(key) for key in state):
        layout = "torchvision"
    elif layout is None and (entry := _torchvision_weights(path.name)) is not None:
        layout, preprocessing = "torchvision", of_torchvision(entry)
    return Source(name, state, kind, {}, layout, preprocessing, compared, ema, taken, facts)


def weights_of_run(state: Mapping[str, Tensor], *, ema: bool = True) -> dict[str, Tensor]:
    """Return the weights of the network in a checkpoint of `senet train`.

    Args:
        state: its "state_dict".
        ema: take the averaged ones, where there are some.
    """
    averaged = ema and any(name.startswith("ema.module.") for name in state)
    prefix = "ema.module." if averaged else "net."
    return {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}


def _described(entry: Any, path: Path) -> dict[str, Any]:
    """Return what a file of this project says of its network; empty where it is of another one."""
    if entry is None:
        return {}
    try:
        facts = json.loads(entry) if isinstance(entry, str) else dict(entry)
        if facts["format"] not in _FORMATS:
            raise DataError(
                f"{path} must have the format {FORMAT!r}, has {facts['format']!r}; "
                "was it written by another version?"
            )
        if facts["format"] == INSERTED:
            plan = {name: facts[name] for name in ("config", "sites")}
            return {**facts, "plan": {**plan, "folded": facts.get("folded", ())}}
        return dict(facts)
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} has metadata that senet convert did not write: {error}") from error


def _torchvision_weights(file: str) -> Any:
    """Return the entry of torchvision's list that has this file name, or None."""
    if sha256_in_name(Path(file)) is None:
        return None
    try:
        with optional("the layout of weights that torchvision publishes"):
            from torchvision import models
    except MissingPackageError:
        return None  # then it is not known, as the report says
    entries = (
        entry
        for network in models.list_models(module=models)
        for entry in models.get_model_weights(network)
    )
    return next((entry for entry in entries if entry.url.endswith(f"/{file}")), None)
