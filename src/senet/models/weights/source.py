"""Where weights come from: a file, or a name that a hub knows. The hubs' own clients fetch them."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, final
from urllib.parse import urlparse

from torch import Tensor

from senet.errors import DataError, unknown_name
from senet.models.weights.caffe_names import read_caffe
from senet.models.weights.formats import (
    check_sha256,
    kind_of,
    read_safetensors,
    read_torch,
    sha256_in_name,
)
from senet.models.weights.keys import common_prefix, is_legacy
from senet.models.weights.preprocess import CAFFE, CIFAR, IMAGENET, Preprocessing, of_timm

__all__ = ["FORMAT", "Source", "read_source"]

FORMAT = "senet.weights/1"  # the entry "senet" in the metadata of what `senet convert` writes
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_TIMM_SE = re.compile(r"^layer\d+\.\d+\.se\.(fc1|conv_reduce)\.weight$")
# Heads of the sums of resnet20 and resnet32 of github.com/akamaster/pytorch_resnet_cifar10.
_CIFAR = ("12fca82f", "d509ac18")

T = TypeVar("T")


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
        preprocessing: what pictures it was trained with; None: not known.
        sha256: of the file, if it was known before and is right.
    """

    name: str
    state: Mapping[str, Tensor]
    kind: str = ""
    origin: Mapping[str, str] = field(default_factory=dict)
    layout: str | None = None
    preprocessing: Preprocessing | None = None
    sha256: str | None = None


def read_source(source: str | os.PathLike[str], *, sha256: str | None = None) -> Source:
    """Read weights from a file or a hub; see `senet.load_weights`."""
    text = os.fspath(source)
    scheme = next((s for s in _HUBS if text.startswith(s)), None)
    if scheme is None or Path(text).exists():
        return _read_file(Path(text), text, sha256=sha256)
    return _HUBS[scheme](text, text.removeprefix(scheme), sha256)


def _read_file(
    path: Path,
    name: str,
    *,
    sha256: str | None,
    layout: str | None = None,
    preprocessing: Preprocessing | None = None,
) -> Source:
    """Read a file; what is told about it comes before what it looks like."""
    kind = kind_of(path)
    expected = sha256 or sha256_in_name(path)
    found = None if expected is None else check_sha256(path, expected)
    if kind == "caffe":
        state, origin = read_caffe(path)
        return Source(name, state, "caffe", origin, "authors", CAFFE, found)
    state, metadata = read_safetensors(path) if kind == "safetensors" else (read_torch(path), {})
    prefix = common_prefix(state)
    state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    if "senet" in metadata:
        layout, preprocessing = _described(metadata["senet"], path)
        return Source(name, state, "senet", {}, layout, preprocessing, found)
    if is_legacy(state):
        return Source(name, state, "legacy", {}, "authors", preprocessing or IMAGENET, found)
    if found is not None and found[:8] in _CIFAR:
        preprocessing = CIFAR
    elif layout is None and any(_TIMM_SE.match(key) for key in state):
        layout = "torchvision"
    elif layout is None:
        entry = _torchvision_weights(path.name)
        if entry is not None:
            layout, preprocessing = "torchvision", _of_torchvision(entry)
    return Source(name, state, "", {}, layout, preprocessing, found)


def _described(text: str, path: Path) -> tuple[str | None, Preprocessing | None]:
    """Return layout and preprocessing out of the metadata that `senet convert` wrote."""
    try:
        facts = json.loads(text)
        if facts["format"] != FORMAT:
            raise DataError(
                f"{path} must have the format {FORMAT!r}, has {facts['format']!r}; "
                "was it written by another version?"
            )
        known = facts.get("preprocessing")
        return facts.get("layout"), None if known is None else Preprocessing.from_dict(known)
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} has metadata that senet convert did not write: {error}") from error


def _from_hub(name: str, rest: str, sha256: str | None) -> Source:
    """hf://OWNER/REPOSITORY[@REVISION][/FILE]."""
    found = re.fullmatch(r"([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.+))?", rest)
    if found is None:
        raise DataError(f"{name} must be hf://OWNER/REPOSITORY[@REVISION][/FILE]")
    repository, revision, file = found.groups()
    path = _fetch_from_hub(name, repository, (file,) if file else _HUB_FILES, revision)
    blob = path.resolve().name  # the cache names a large file by its sha256
    expected = sha256 or (blob if re.fullmatch(r"[0-9a-f]{64}", blob) else None)
    layout, pictures = _of_repository(name, repository, revision)
    return _read_file(path, name, sha256=expected, layout=layout, preprocessing=pictures)


def _of_repository(
    name: str, repository: str, revision: str | None
) -> tuple[str | None, Preprocessing | None]:
    """Return the layout and the pictures that a repository in timm's form describes."""
    try:
        path = _fetch_from_hub(name, repository, ("config.json",), revision)
        config = json.loads(path.read_text("utf-8"))
        return _of_timm(config["architecture"], config["pretrained_cfg"])
    except (DataError, KeyError, ValueError, TypeError):
        return None, None  # of another form: nothing more is known


def _from_timm(name: str, rest: str, sha256: str | None) -> Source:
    """timm/NAME[.TAG]: the weights that timm publishes for a network."""
    import timm

    if not timm.is_model(rest.split(".")[0]):
        raise unknown_name("timm model", rest, timm.list_models())
    config = timm.get_pretrained_cfg(rest)
    layout, pictures = (
        (None, None) if config is None else _of_timm(rest, dataclasses.asdict(config))
    )
    if config is not None and config.hf_hub_id:
        files = (config.hf_hub_filename,) if config.hf_hub_filename else _HUB_FILES
        path = _fetch_from_hub(name, config.hf_hub_id, files, None)
    elif config is not None and isinstance(config.url, str) and config.url:
        path = _fetch_url(name, config.url)
    else:
        raise DataError(f"{name} must have published weights, but timm knows of none")
    return _read_file(path, name, sha256=sha256, layout=layout, preprocessing=pictures)


def _from_torchvision(name: str, rest: str, sha256: str | None) -> Source:
    """torchvision/NAME[.TAG]: the weights that torchvision publishes for a network."""
    from torchvision import models

    network, _, tag = rest.partition(".")
    if network not in models.list_models():
        raise unknown_name("torchvision model", network, models.list_models())
    entries = models.get_model_weights(network)
    known = {entry.name: entry for entry in entries} | {"": entries.DEFAULT}
    if tag not in known:
        raise unknown_name("torchvision weights", tag, [entry.name for entry in entries])
    entry = known[tag]
    path = _fetch_url(name, entry.url)
    pictures = _of_torchvision(entry)
    return _read_file(path, name, sha256=sha256, layout="torchvision", preprocessing=pictures)


_HUBS: dict[str, Callable[[str, str, str | None], Source]] = {
    "hf://": _from_hub,
    "timm/": _from_timm,
    "torchvision/": _from_torchvision,
}


def _fetch_from_hub(
    name: str, repository: str, files: tuple[str, ...], revision: str | None
) -> Path:
    """Return where the first of these files is that a repository has, fetched if need be."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    def missing(file: str) -> bool:
        return not isinstance(try_to_load_from_cache(repository, file, revision=revision), str)

    for file in sorted(files, key=missing):  # what is in the cache needs no network
        try:
            return Path(hf_hub_download(repository, file, revision=revision))
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError):  # not in the cache, and no network
                raise _unreachable(name, "huggingface.co", error) from error
        except Exception as error:
            raise _unreachable(name, "huggingface.co", error) from error
    raise DataError(f"{name} must have a file {' or '.join(files)}, and {repository} has none")


def _fetch_url(name: str, url: str) -> Path:
    """Return where a file of torch's hub is, fetched if need be and checked by its name."""
    import torch

    file = Path(urlparse(url).path).name
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), sha256_in_name(path), progress=False)
        except Exception as error:
            raise _unreachable(name, urlparse(url).netloc, error) from error
    return path


def _unreachable(name: str, host: str, error: Exception) -> DataError:
    what = str(error).strip().partition("\n")[0].rstrip(".")[:160] or type(error).__name__
    return DataError(
        f"{name} must be in the cache or be fetched from {host}, which failed: {what}; "
        "connect to the network, or give the path of a file"
    )


def _of_timm(name: str, described: Mapping[str, Any]) -> tuple[str | None, Preprocessing]:
    """Return the layout and the pictures of a network of timm."""
    family = name.split(".")[0]
    residual = re.match(r"(legacy_)?(se)?(resnet|resnext|net154)", family)
    layout = ("authors" if residual[1] else "torchvision") if residual else None
    return layout, of_timm(described)


def _torchvision_weights(file: str) -> Any:
    """Return the entry of torchvision's list that has this file name, or None."""
    if sha256_in_name(Path(file)) is None:
        return None
    from torchvision import models

    for network in models.list_models(module=models):
        for entry in models.get_model_weights(network):
            if entry.url.endswith(f"/{file}"):
                return entry
    return None


def _of_torchvision(entry: Any) -> Preprocessing:
    """Return the evaluation pictures of torchvision's weights."""
    used = entry.transforms()
    return Preprocessing(
        tuple(used.mean),
        tuple(used.std),
        crop=used.crop_size[0],
        resize=used.resize_size[0],
        interpolation=used.interpolation.value,
    )
