"""Weights by the name that a hub knows; the hubs' own clients fetch them."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from senet.errors import DataError, first_line, optional, unknown_name
from senet.models.weights.formats import sha256_in_name
from senet.models.weights.preprocess import of_timm, of_torchvision
from senet.models.weights.source import Source, read_file

__all__ = ["read_source"]

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def read_source(
    source: str | os.PathLike[str], *, sha256: str | None = None, ema: bool = True
) -> Source:
    """Read weights from a file or a hub; see `senet.load_weights`."""
    name = os.fspath(source)
    scheme = next((each for each in _HUBS if name.startswith(each)), None)
    if scheme is None or Path(name).exists():
        return read_file(Path(name), name, sha256=sha256, ema=ema)
    path, known = _HUBS[scheme](name, name.removeprefix(scheme))
    blob = path.resolve().name  # the cache of the Hub's client names a large file by its sha256
    expected = sha256 or (blob if re.fullmatch(r"[0-9a-f]{64}", blob) else None)
    return read_file(path, name, sha256=expected, ema=ema, **known)


def _from_hub(name: str, rest: str) -> tuple[Path, dict[str, Any]]:
    """hf://OWNER/REPOSITORY[@REVISION][/FILE]."""
    parts = re.fullmatch(r"([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.+))?", rest)
    if parts is None:
        raise DataError(f"{name} must be hf://OWNER/REPOSITORY[@REVISION][/FILE]")
    repository, revision, file = parts.groups()
    path = _fetch_from_hub(name, repository, (file,) if file else _HUB_FILES, revision)
    try:
        described = _fetch_from_hub(name, repository, ("config.json",), revision)
        config = json.loads(described.read_text("utf-8"))
        return path, _of_timm(config["architecture"], config["pretrained_cfg"])
    except (DataError, KeyError, ValueError, TypeError):
        return path, {}  # not in timm's form: nothing more is known


def _from_timm(name: str, rest: str) -> tuple[Path, dict[str, Any]]:
    """timm/NAME[.TAG]: the weights that timm publishes for a network."""
    with optional(f"the source {name}"):
        import timm

    if not timm.is_model(rest.split(".")[0]):
        raise unknown_name("timm model", rest, timm.list_models())
    config = timm.get_pretrained_cfg(rest)
    if config is not None and config.hf_hub_id:
        files = (config.hf_hub_filename,) if config.hf_hub_filename else _HUB_FILES
        path = _fetch_from_hub(name, config.hf_hub_id, files, None)
    elif config is not None and isinstance(config.url, str) and config.url:
        path = _fetch_url(name, config.url)
    else:
        raise DataError(f"{name} must have published weights, but timm knows of none")
    return path, _of_timm(rest, dataclasses.asdict(config))


def _from_torchvision(name: str, rest: str) -> tuple[Path, dict[str, Any]]:
    """torchvision/NAME[.TAG]: the weights that torchvision publishes for a network."""
    with optional(f"the source {name}"):
        from torchvision import models

    network, _, tag = rest.partition(".")
    if network not in models.list_models():
        raise unknown_name("torchvision model", network, models.list_models())
    entries = models.get_model_weights(network)
    known = {entry.name: entry for entry in entries} | {"": entries.DEFAULT}
    if tag not in known:
        raise unknown_name("torchvision weights", tag, [entry.name for entry in entries])
    path = _fetch_url(name, known[tag].url)
    return path, {"layout": "torchvision", "preprocessing": of_torchvision(known[tag])}


# The beginning of a name -> where the file is, and what is known of it beside its contents.
_HUBS: dict[str, Callable[[str, str], tuple[Path, dict[str, Any]]]] = {
    "hf://": _from_hub,
    "timm/": _from_timm,
    "torchvision/": _from_torchvision,
}


def _fetch_from_hub(
    name: str, repository: str, files: tuple[str, ...], revision: str | None
) -> Path:
    """Return where the first of these files is that a repository has, fetched if need be."""
    with optional(f"the source {name}"):
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    def missing(file: str) -> bool:
        return not isinstance(try_to_load_from_cache(repository, file, revision=revision), str)

    for file in sorted(files, key=missing):  # what is in the cache needs no network
        try:
            with _without_warnings("huggingface_hub"):  # a line for each of its attempts
                return Path(hf_hub_download(repository, file, revision=revision))
        except Exception as error:
            absent = isinstance(error, EntryNotFoundError)
            if not absent or isinstance(error, LocalEntryNotFoundError):  # not cached, no network
                raise _unreachable(name, "huggingface.co", error) from error
    raise DataError(f"{name} must have a file {' or '.join(files)}, and {repository} has none")


@contextmanager
def _without_warnings(library: str) -> Iterator[None]:
    """Let a library log errors only, inside."""
    log = logging.getLogger(library)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _fetch_url(name: str, url: str) -> Path:
    """Return where a file of torch's hub is, fetched if need be and checked by its name."""
    import torch

    address = urlparse(url)
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(address.path).name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), sha256_in_name(path), progress=False)
        except Exception as error:
            raise _unreachable(name, address.netloc, error) from error
    return path


def _unreachable(name: str, host: str, error: Exception) -> DataError:
    return DataError(
        f"{name} must be in the cache or be fetched from {host}, which failed: "
        f"{first_line(error).rstrip('.')[:160]}; connect to the network, or give the path of a file"
    )


def _of_timm(name: str, described: Mapping[str, Any]) -> dict[str, Any]:
    """Return the layout and the images of a network of timm."""
    residual = re.match(r"(legacy_)?(se)?(resnet|resnext|net154)", name.split(".")[0])
    layout = ("authors" if residual[1] else "torchvision") if residual else None
    return {"layout": layout, "preprocessing": of_timm(described)}
