"""Which class a file belongs to: one rule for folders on the disk and in tar files.

It is that of torchvision's `ImageFolder`: the folders right under the split are the classes, in the
order of their names' code points; what lies deeper belongs to its class. In addition hidden files
and folders are skipped at every depth, and what is passed over is counted.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, final

from senet.errors import DataError
from senet.training.data.dataset import Split
from senet.training.data.image_files import image_suffixes, is_hidden, suffix_of

__all__ = ["PassedOver", "class_indices", "folder_split", "images_below"]


@final
@dataclass
class PassedOver:
    """The files of a split that are not used.

    Attributes:
        unknown: how many files of which ending are no image that Pillow reads.
        hidden: hidden files, and hidden folders with all that is in them.
        outside: images that lie in no class folder.
    """

    unknown: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    outside: int = 0

    def visible(self, paths: Iterable[str]) -> list[str]:
        """Return the paths ("/" between the parts) without a hidden part, and count the others."""
        visible, hidden = [], set()
        for path in paths:
            parts = path.split("/")
            first = next((k for k, part in enumerate(parts) if is_hidden(part)), None)
            if first is None:
                visible.append(path)
            else:
                hidden.add(tuple(parts[: first + 1]))
        self.hidden += len(hidden)
        return visible

    def images(self, paths: Iterable[str]) -> list[str]:
        """Return the paths that are images by their ending, and count the others."""
        suffixes, images = image_suffixes(), []
        for path in paths:
            if suffix_of(path) in suffixes:
                images.append(path)
            else:
                self.unknown[suffix_of(path) or "no ending"] += 1
        return images

    def sentence(self, name: str) -> str:
        """Return one line for people, empty where nothing was passed over.

        Example:
            >>> PassedOver(Counter({".txt": 2}), hidden=1).sentence("train")
            'passed over in train: 2 of no image format (.txt 2), 1 hidden'
        """
        commonest = sorted(self.unknown.items(), key=lambda item: (-item[1], item[0]))[:5]
        kinds = ", ".join(f"{suffix} {count}" for suffix, count in commonest)
        kinds += ", ..." if len(self.unknown) > 5 else ""
        counts = {
            f"of no image format ({kinds})": self.unknown.total(),
            "hidden": self.hidden,
            "outside of the class folders": self.outside,
        }
        listed = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        return f"passed over in {name}: {listed}" if listed else ""


def class_indices(
    paths: Sequence[str], folders: Iterable[str], where: str
) -> tuple[list[str], list[int | None]]:
    """Return the classes, and for each image the index of its class; None if it is in no folder.

    Args:
        paths: of the images from the split on, "/" between the parts.
        folders: names of all folders right under the split.
        where: names the split in messages.

    Raises:
        DataError: no image in a class folder, or a class without images.
    """
    labels = [path.split("/")[0] if "/" in path else None for path in paths]
    classes = sorted({label for label in labels if label is not None})
    if not classes:
        there = f"{len(paths)} images in no folder" if paths else "no images"
        raise DataError(f"{where} holds {there}; it needs one folder of images for each class")
    empty = sorted({name for name in folders if not is_hidden(name)} - set(classes))
    if empty:
        raise DataError(
            f"{where} has classes without images: {', '.join(empty[:5])}; add some, or remove the "
            "folders"
        )
    index = {name: number for number, name in enumerate(classes)}
    return classes, [None if label is None else index[label] for label in labels]


def folder_split(folder: Path) -> Split:
    """Return the split in a folder of class folders; the images in natural order of their paths.

    Raises:
        DataError: see `class_indices`; or a folder cannot be read.
    """
    passed_over = PassedOver()
    paths = sorted(passed_over.images(passed_over.visible(_files(folder))), key=_natural)
    folders = [entry.name for entry in os.scandir(folder) if entry.is_dir()]
    classes, labels = class_indices(paths, folders, str(folder))
    names = [path for path, label in zip(paths, labels, strict=True) if label is not None]
    passed_over.outside = len(paths) - len(names)
    return Split(
        *(folder.name, classes, [label for label in labels if label is not None]),
        partial(_path, str(folder), names),
        names.__getitem__,
        passed_over=passed_over.sentence(folder.name),
    )


def images_below(folder: Path) -> tuple[list[Path], str]:
    """Return the images in a folder and its folders, in natural order, and what was passed over.

    Raises:
        DataError: there is none, or a folder cannot be read.
    """
    passed_over = PassedOver()
    paths = sorted(passed_over.images(passed_over.visible(_files(folder))), key=_natural)
    sentence = passed_over.sentence(str(folder))
    if not paths:
        raise DataError(f"{folder} holds no images{sentence and '; '}{sentence}")
    return [folder / path for path in paths], sentence


def _path(folder: str, names: Sequence[str], index: int) -> str:
    return f"{folder}/{names[index]}"


def _files(root: Path) -> Iterator[str]:
    """Yield the path of each file below a folder; of a hidden folder its own, not what is in it."""

    def unreadable(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error

    for folder, subfolders, names in os.walk(root, onerror=unreadable, followlinks=True):
        hidden = [name for name in subfolders if is_hidden(name)]
        subfolders[:] = [name for name in subfolders if not is_hidden(name)]
        below = Path(folder).relative_to(root).as_posix()
        yield from (name if below == "." else f"{below}/{name}" for name in (*names, *hidden))


def _natural(path: str) -> tuple[list[Any], str]:
    """Return the key that sorts a2 before a10; the path itself decides between A2 and a2."""
    parts = re.split(r"(\d+)", path.lower())
    return [int(part) if k % 2 else part for k, part in enumerate(parts)], path
