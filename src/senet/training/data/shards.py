"""Images in tar files, read in place: each can be read by itself, so that the order is free.

Two layouts are known by what is inside. Class folders, as `tar cf train.tar n01440764 ...` makes
them (a folder that holds all of them is passed through), or one tar for each class,
`train/n01440764.tar`. And WebDataset's shards, in which `key.jpg` has its label in `key.cls` (a
number) or `key.json` (`{"label": 7}`).
"""

from __future__ import annotations

import io
import json
import posixpath
import tarfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from senet.errors import DataError
from senet.training.data.dataset import Split
from senet.training.data.folders import PassedOver, class_indices
from senet.training.data.image_files import is_hidden, suffix_of

__all__ = ["find_shards", "tar_split"]

_LABELS = (".cls", ".json")


class Member(NamedTuple):
    """A file in a tar: in which, its path there, from which byte, how many."""

    tar: Path
    path: str
    offset: int
    size: int

    def read(self) -> io.BytesIO:
        """Return the content.

        Raises:
            DataError: the tar is shorter than its headers say.
        """
        with self.tar.open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise DataError(f"{self.tar} is cut off")
        return io.BytesIO(content)


def tar_split(name: str, tars: Sequence[Path]) -> Split:
    """Return the split in some tar files, of which only the headers are read.

    Raises:
        DataError: a tar file cannot be read, holds no images, or an image has no label.
    """
    passed_over, folders = PassedOver(), set[str]()
    images: list[Member] = []
    label_files: dict[tuple[Path, str], Member] = {}
    for tar in tars:
        members, folders_inside = _members(tar, passed_over)
        folders |= folders_inside
        visible = passed_over.visible(members)
        here = passed_over.images(path for path in visible if suffix_of(path) not in _LABELS)
        keys = {_key(path) for path in here}
        others = [path for path in visible if suffix_of(path) in _LABELS]
        label_files |= {(tar, _key(path)): members[path] for path in others if _key(path) in keys}
        passed_over.images(path for path in others if _key(path) not in keys)
        images += [members[path] for path in here]
    if not images:
        raise DataError(f"{tars[0]} holds no images")
    classes: list[str] = []
    labels: list[Any]
    if label_files:
        labels = [_label(image, label_files) for image in images]
    else:
        classes, labels = class_indices(*_from_the_split_on(images, folders), where=str(tars[0]))
    chosen = [image for image, label in zip(images, labels, strict=True) if label is not None]
    passed_over.outside = len(images) - len(chosen)
    return Split(
        *(name, classes, [label for label in labels if label is not None]),
        partial(_read, chosen),
        partial(_name, chosen),
        passed_over=passed_over.sentence(name),
    )


def _read(images: Sequence[Member], index: int) -> io.BytesIO:
    return images[index].read()


def _name(images: Sequence[Member], index: int) -> str:
    return f"{images[index].tar.name}:{images[index].path}"


def _members(tar: Path, passed_over: PassedOver) -> tuple[dict[str, Member], set[str]]:
    """Return the files of a tar in the order of their bytes, and the paths of its folders."""
    try:
        with tarfile.open(tar, "r:") as opened:  # not compressed: read in place
            entries = [(entry, posixpath.normpath(entry.name).lstrip("/")) for entry in opened]
            files = {
                path: opened.getmember(entry.linkname) if entry.islnk() else entry
                for entry, path in entries
                if entry.isfile() or entry.islnk()
            }
    except (tarfile.TarError, OSError, EOFError, KeyError) as error:
        raise DataError(f"{tar} is no tar file that can be read: {error}") from error
    links = sum(entry.issym() for entry, _ in entries)
    passed_over.unknown.update({"symbolic links": links} if links else {})
    ordered = sorted(files.items(), key=lambda item: item[1].offset_data)
    folders = {path for entry, path in entries if entry.isdir() and path != "."}
    return {path: Member(tar, path, e.offset_data, e.size) for path, e in ordered}, folders


def _from_the_split_on(images: Sequence[Member], folders: set[str]) -> tuple[list[str], set[str]]:
    """Return the images' paths below the split, and the names of the folders right under it.

    A tar with images at its top is one class, named like the tar. A folder that holds all images,
    and none of them itself, is the split.
    """
    flat = {image.tar for image in images} - {image.tar for image in images if "/" in image.path}
    paths = [f"{each.tar.stem}/{each.path}" if each.tar in flat else each.path for each in images]
    while min(path.count("/") for path in paths) > 1 and len({p.split("/")[0] for p in paths}) == 1:
        paths = [path.partition("/")[2] for path in paths]
        folders = {path.partition("/")[2] for path in folders} - {""}
    return paths, {path.split("/")[0] for path in folders}


def _key(path: str) -> str:
    """Return what the files of a sample share: the path up to the first dot of the name."""
    folder, slash, base = path.rpartition("/")
    return f"{folder}{slash}{base.partition('.')[0]}"


def _label(image: Member, label_files: dict[tuple[Path, str], Member]) -> Any:
    key = _key(image.path)
    member = label_files.get((image.tar, key))
    if member is None:
        raise DataError(
            f"{image.path} in {image.tar} has no label: neither {key}.cls nor {key}.json is there"
        )
    content = member.read().getvalue()
    try:
        label = json.loads(content)
        label = label["label"] if suffix_of(member.path) == ".json" else label
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{member.path} holds no label: {content[:40]!r}") from error
    if not isinstance(label, int | str) or isinstance(label, bool):
        raise DataError(f"{member.path} must hold a number or a name, holds {label!r}")
    return label


def find_shards(root: Path, names: Sequence[str]) -> tuple[str, list[Path]]:
    """Return the split's name and its tar files.

    It is `NAME.tar`, the tar files in a folder `NAME`, or those with NAME in their name
    (`imagenet-train-000000.tar`).

    Args:
        root: the folder.
        names: of the split, the first that is there counts.

    Raises:
        DataError: there is none.
    """
    for name in names:
        for pattern in (f"{name}.tar", f"{name}/*.tar", f"*{name}*.tar"):
            tars = sorted(p for p in root.glob(pattern) if p.is_file() and not is_hidden(p.name))
            if tars:
                return name, tars
    listed = ", ".join(sorted(path.name for path in root.iterdir())[:5]) or "nothing"
    raise DataError(
        f"{root} needs {names[0]}.tar, {names[0]}/*.tar or *{names[0]}*.tar (or another usual name "
        f"of the split); it holds {listed}"
    )
