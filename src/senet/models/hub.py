"""Networks on the Hugging Face Hub, and in folders of its form.

A folder holds `model.safetensors`; `config.json`, from which the network is built again; for a
network that `senet.insert` changed, `senet.json` with the sites; and a model card, `README.md`. The
card and the description in `config.json` are those that timm reads.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from senet.errors import DataError, InputError, MissingPackageError, optional
from senet.files import write_text
from senet.insertion import load
from senet.insertion.facts import keep_fact
from senet.insertion.folded import folded_blocks
from senet.insertion.graft import grafts
from senet.insertion.saving import write_model, write_weights
from senet.models.description import base_network, described, rebuilt
from senet.models.origin import Origin, origin_of
from senet.models.timm_registry import timm_description, timm_names
from senet.models.weights.hubs import read_source
from senet.models.weights.load import load_source
from senet.models.weights.preprocess import Preprocessing, preprocessing, remember
from senet.models.weights.source import FORMAT, Source

__all__ = ["from_pretrained", "network_of", "push_to_hub", "save_pretrained"]

_FORMAT = "senet.hub/1"
_WEIGHTS, _CONFIG, _PLAN, _CARD = "model.safetensors", "config.json", "senet.json", "README.md"


def save_pretrained(model: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Save a network so that `senet.from_pretrained` builds it again.

    The folder is written whole or not at all: if that fails, what was in it is there as before. A
    `README.md` and other files of the user stay. Where timm is installed, `config.json` describes
    the network for timm as well.

    Args:
        model: a network of `senet.create_model`, changed by `senet.insert` or not.
        folder: where; made if it does not exist.

    Raises:
        ConfigError: the network is of another origin.
        OSError: the folder cannot be written.
    """
    config = _config(model)
    target = Path(folder)

    def write(made: Path) -> None:
        if grafts(model) or folded_blocks(model):
            write_model(model, made)
        else:
            facts = {**config["senet"], "format": FORMAT}
            write_weights(model, made / _WEIGHTS, senet=json.dumps(facts))
        write_text(made / _CONFIG, json.dumps(config, indent=1) + "\n")
        if not (target / _CARD).exists():
            write_text(made / _CARD, _card(config["senet"]["network"]["name"]))

    _write_together(target, write)


def _write_together(folder: Path, write: Callable[[Path], None]) -> None:
    """Replace the files of a network in a folder by those that `write` makes: all or none."""
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    before = made / "before"
    moves: list[tuple[Path, Path]] = []
    try:
        before.mkdir()
        write(made)
        for name in (_WEIGHTS, _PLAN, _CARD, _CONFIG):
            if (made / name).exists() or name == _PLAN:  # a plan of another network goes
                for move in ((folder / name, before / name), (made / name, folder / name)):
                    if move[0].exists():
                        move[0].replace(move[1])
                        moves.append(move)
    except BaseException:
        for source, target in reversed(moves):
            target.replace(source)
        shutil.rmtree(made, ignore_errors=True)
        with suppress(OSError):
            for each in new:
                each.rmdir()
        raise
    shutil.rmtree(made)


def from_pretrained(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> nn.Module:
    """Build a network from a folder of `senet.save_pretrained`, or from a repository of the Hub.

    Any other file of weights that this project writes says as well which network it is, and is
    taken too: a checkpoint of a run, a file of `senet convert`, a folder of `senet.save`.

    Args:
        source: a folder, a file, or "OWNER/REPOSITORY". What exists comes first.
        revision: branch, tag or commit of the repository.
        token: for a private repository; the one that `hf auth login` stored if not given.
        cache_dir: where the Hub's client keeps files, if not where it always does.
        local_files_only: do not ask the Hub; take what the cache has.

    Returns:
        The network, in evaluation mode.

    Raises:
        DataError: the files are missing, broken or do not fit, or cannot be fetched; or they do
            not say which network they are of.
        MissingPackageError: the Hub's client is not installed, and the source is no folder.
    """
    folder = Path(source)
    if folder.is_file() or ((folder / _PLAN).is_file() and not (folder / _CONFIG).exists()):
        return network_of(read_source(folder if folder.is_file() else folder / _WEIGHTS))
    if not folder.is_dir():
        folder = _fetched(
            str(source),
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
    facts = _read(folder / _CONFIG)
    model = _rebuilt(folder, facts)
    images = facts.get("preprocessing")
    if images is not None:
        remember(model, Preprocessing.from_dict(images))
    if facts.get("classes") is not None:
        keep_fact(model, "classes", facts["classes"])
    return model.eval()


def network_of(source: Source) -> nn.Module:
    """Return the network that weights say they are of, with these weights, in evaluation mode.

    Raises:
        DataError: they do not say it, or do not fit what they say.
    """
    model = rebuilt(source.facts, source.name)
    load_source(model, source)
    return model.eval()


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    commit_message: str = "Upload a network with senet",
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> str:
    """Save a network into a repository of the Hub, which is made if it does not exist.

    As in a folder of `save_pretrained`, a card that is there stays, and no plan of an earlier
    network is left.

    Args:
        model: a network of `senet.create_model`, changed by `senet.insert` or not.
        repo_id: "OWNER/REPOSITORY".
        commit_message: of the commit.
        private: whether a new repository is; the owner's default if not given.
        revision: the branch to commit to.
        token: of the owner; the one that `hf auth login` stored if not given.

    Returns:
        The address of the commit.

    Raises:
        ConfigError: the network is of another origin.
        DataError: the Hub cannot be reached, or refuses.
        MissingPackageError: the Hub's client is not installed.
    """
    with optional("senet.push_to_hub"):
        from huggingface_hub import HfApi

    hub = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder)
        try:
            hub.create_repo(repo_id, private=private, exist_ok=True)
            has_card = hub.file_exists(repo_id, _CARD, revision=revision)
            commit = hub.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                ignore_patterns=[_CARD] if has_card else None,
                delete_patterns=[_PLAN],  # what is uploaded is not deleted
                commit_message=commit_message,
                revision=revision,
            )
        except Exception as error:
            raise DataError(
                f"{repo_id} must be a repository of huggingface.co that can be written to, but: "
                f"{_line(error)}; connect to the network, and log in with `hf auth login`"
            ) from error
    return str(commit.commit_url)


def _config(model: nn.Module) -> dict[str, Any]:
    """Return what `config.json` holds: how the network is built, and timm's description of it."""
    origin = origin_of(model)
    facts = {"format": _FORMAT, **described(model)}
    del facts["plan"]  # in `senet.json`
    description = dict(getattr(model, "pretrained_cfg", None) or {})
    description.pop("file", None)  # where timm read weights on this machine
    with suppress(InputError):  # of random weights, nothing is known
        images = preprocessing(model)
        facts["preprocessing"] = images.to_dict()
        description |= images.for_timm()
    timms: dict[str, Any] = {}
    if not folded_blocks(model):  # timm would build it with all its blocks
        with suppress(MissingPackageError):  # which names are timm's, timm alone knows
            timms = _for_timm(model, origin, description)
    return {**timms, "senet": facts}


def _for_timm(model: nn.Module, origin: Origin, described: dict[str, Any]) -> dict[str, Any]:
    """Return timm's fields, for `timm.create_model("hf-hub:OWNER/REPOSITORY")`."""
    library, slash, bare = origin.name.partition("/")
    arguments: dict[str, Any] = {}
    if not slash:
        names = timm_names()
        architecture = next(entry for entry, name in names.items() if name == origin.name)
        given = {"se": origin.se, "layout": origin.layout}
        arguments = {option: value for option, value in given.items() if value is not None}
        described = {**timm_description(origin.name), **described}
    elif library == "timm":
        architecture = bare
    else:
        return {}
    return {
        "architecture": architecture,
        "num_classes": origin.num_classes,
        "num_features": getattr(model, "num_features", None),
        "model_args": {"in_chans": origin.in_chans, **arguments},
        "pretrained_cfg": {**described, "num_classes": origin.num_classes},
    }


def _fetched(source: str, *, local_files_only: bool, **options: Any) -> Path:
    """Return the folder in the cache of the Hub's client, filled if need be."""
    with optional(f"the network {source}, which is no folder,"):
        from huggingface_hub import snapshot_download

    files = [_WEIGHTS, _CONFIG, _PLAN]
    try:
        return Path(
            snapshot_download(
                source, allow_patterns=files, local_files_only=local_files_only, **options
            )
        )
    except Exception as error:
        raise DataError(
            f"{source} must be a folder, a repository in the cache, or one that can be fetched "
            f"from huggingface.co, but: {_line(error)}; connect to the network, or save it first"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))["senet"]
        if facts["format"] != _FORMAT:
            raise DataError(
                f"{path} must have the format {_FORMAT!r}, has {facts['format']!r}; "
                "was it written by another version?"
            )
    except OSError as error:
        raise DataError(f"{path} must be there, as senet.save_pretrained writes it") from error
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path} must be as senet.save_pretrained writes it, but has no part for senet; "
            "weights of other libraries are read by senet.load_weights"
        ) from error
    return dict(facts)


def _rebuilt(folder: Path, facts: Mapping[str, Any]) -> nn.Module:
    """Build the network that a folder describes, and load its weights."""
    from safetensors.torch import load_model

    model = base_network(facts, str(folder))
    if (folder / _PLAN).exists():
        load(model, folder)
    else:
        try:
            load_model(model, folder / _WEIGHTS)
        except Exception as error:
            raise DataError(
                f"{folder / _WEIGHTS} must be a whole safetensors file with the weights of "
                f"{facts['network']['name']}, but: {_line(error)}"
            ) from error
    return model


def _line(error: Exception) -> str:
    """Return what an error says in one line."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."


def _card(name: str) -> str:
    return f"""---
library_name: senet
pipeline_tag: image-classification
tags:
- senet
- squeeze-and-excitation
---
# {name}

```python
import senet

model = senet.from_pretrained("OWNER/REPOSITORY")
```

Squeeze-and-Excitation Networks: https://arxiv.org/abs/1709.01507
"""
