"""Images in tar files, read in place: each can be read by itself, so that the order is free.

Two layouts are known by what is inside. Class folders, as `tar cf train.tar n01440764 ...` makes
them, or one tar for each class, `train/n01440764.tar`. And WebDataset's shards, in which `key.jpg`
has its label in `key.cls` (a number) or `key.json` (`{"label": 7}`).
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, final

from senet.errors import DataError
from senet.training.data.image_files import SUFFIXES

__all__ = ["Shards", "find_shards"]


class Place(NamedTuple):
    """Where the bytes of a file are: in which tar, from which byte, how many."""

    shard: int
    offset: int
    size: int
    name: str


@final
class Shards:
    """The images in some tar files; `shards[index]` is a file, `labels` and `classes` as a split's.

    Only the headers are read when it is made.

    Args:
        paths: of the tar files.

    Raises:
        DataError: a tar file cannot be read, holds no images, or an image has no label.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        images: list[Place] = []
        labels: dict[tuple[int, str], Any] = {}
        for number, path in enumerate(self.paths):
            for place, label in _members(number, path):
                if label is None:
                    images.append(place)
                else:
                    labels[number, _key(place.name)] = label
        if not images:
            raise DataError(f"{self.paths[0]} holds no images")
        self.samples = sorted(images, key=lambda place: (place.shard, place.offset))
        self.classes: tuple[str, ...] = ()
        if labels:
            self.labels = [self._label(place, labels) for place in self.samples]
        else:
            names = [self._folder(place) for place in self.samples]
            self.classes = tuple(sorted(set(names)))
            index = {name: label for label, name in enumerate(self.classes)}
            self.labels = [index[name] for name in names]

    def _label(self, place: Place, labels: dict[tuple[int, str], Any]) -> Any:
        try:
            return labels[place.shard, _key(place.name)]
        except KeyError:
            raise DataError(
                f"{place.name} in {self.paths[place.shard]} has no label: neither "
                f"{_key(place.name)}.cls nor {_key(place.name)}.json is there"
            ) from None

    def _folder(self, place: Place) -> str:
        """Return the class: the folder inside of the tar, or else the name of the tar."""
        parent = Path(place.name).parent.name
        return parent or self.paths[place.shard].stem

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> io.BytesIO:
        place = self.samples[index]
        with self.paths[place.shard].open("rb") as file:
            file.seek(place.offset)
            data = file.read(place.size)
        if len(data) < place.size:
            raise DataError(f"{self.paths[place.shard]} is cut off")
        return io.BytesIO(data)

    def filename(self, index: int) -> str:
        """Return the name of an image, with that of its tar."""
        place = self.samples[index]
        return f"{self.paths[place.shard].name}:{place.name}"


def _key(name: str) -> str:
    """Return what the files of a sample share: the path up to the first dot of the name."""
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{base.partition('.')[0]}"


def _members(number: int, path: Path) -> Iterator[tuple[Place, Any]]:
    """Yield the images of a tar file with None, and the labels in it with their sample's place."""
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                suffix = Path(member.name).suffix.lower()
                place = Place(number, member.offset_data, member.size, member.name)
                if not member.isfile():
                    continue
                if suffix in SUFFIXES:
                    yield place, None
                elif suffix in (".cls", ".json"):
                    file = tar.extractfile(member)
                    yield place, _read_label(file.read() if file else b"", suffix, member.name)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{path} is no tar file that can be read: {error}") from error


def _read_label(data: bytes, suffix: str, name: str) -> Any:
    try:
        found = json.loads(data)
        label = found["label"] if suffix == ".json" else found
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{name} holds no label: {data[:40]!r}") from error
    if not isinstance(label, int | str) or isinstance(label, bool):
        raise DataError(f"{name} must hold a number or a name, holds {label!r}")
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
        if (root / f"{name}.tar").is_file():
            return name, [root / f"{name}.tar"]
        for pattern in (f"{name}/*.tar", f"*{name}*.tar"):
            found = sorted(root.glob(pattern))
            if found:
                return name, found
    listed = ", ".join(sorted(path.name for path in root.iterdir())[:5]) or "nothing"
    raise DataError(
        f"{root} needs {names[0]}.tar, {names[0]}/*.tar or *{names[0]}*.tar (or another usual name "
        f"of the split); it holds {listed}"
    )
