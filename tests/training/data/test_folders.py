"""One rule for classes: the folders right under the split, in the order of torchvision."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from senet.errors import DataError
from senet.training import DataConfig
from senet.training.data import Split, load_data, open_split
from training.tiny import image_folder


def folder(root: Path, *paths: str) -> Path:
    """A folder with images of 8 px; a path without an ending is an empty folder."""
    for path in paths:
        target = root / path
        (target.parent if target.suffix else target).mkdir(parents=True, exist_ok=True)
        if target.suffix:
            Image.new("RGB", (8, 8)).save(target, "png")
    return root


def tarred(root: Path) -> DataConfig:
    """The data of a tar file of a folder's training split."""
    (root.parent / "tars").mkdir()
    with tarfile.open(root.parent / "tars" / "train.tar", "w") as tar:
        tar.add(root / "train", arcname=".")
    return DataConfig(f"tar/{root.parent / 'tars'}")


def both(root: Path) -> list[Split]:
    """The training split of a folder, and of a tar file of it."""
    splits = [open_split(each, training=True) for each in (DataConfig(str(root)), tarred(root))]
    assert all(isinstance(each, Split) for each in splits)
    return splits  # type: ignore[return-value]


@pytest.mark.parametrize(
    "names",
    [[str(k) for k in range(12)], ["apple", "Banana", "cherry"], ["e2", "e10", "_", "\u00e9"]],
)
def test_classes_have_the_order_of_torchvision(tmp_path: Path, names: list[str]) -> None:
    root = folder(tmp_path / "f", *(f"train/{name}/a.png" for name in names))
    there = ImageFolder(root / "train")

    for split in both(root):
        assert split.classes == tuple(there.classes)
        by_name = dict(zip(map(split.named, range(len(split))), split.labels, strict=True))
        expected = {Path(path).parent.name: label for path, label in there.samples}
        # a tar's names are train.tar:CLASS/a.png
        assert {k.split(":")[-1].split("/")[0]: v for k, v in by_name.items()} == expected


def test_folders_right_under_the_split_are_the_classes(tmp_path: Path) -> None:
    paths = [
        f"train/{c}/{s}/{k}.png" for c in ("cat", "dog") for s in ("day", "night") for k in "ab"
    ]
    root = folder(tmp_path / "f", *paths, "train/dog/c.png")

    for split in both(root):
        assert split.classes == ("cat", "dog")
        assert sorted(split.labels) == [0] * 4 + [1] * 5


def test_hidden_files_and_folders_are_skipped_at_every_depth(tmp_path: Path) -> None:
    hidden = [
        "._a.png",
        ".ipynb_checkpoints/a.png",
        ".ipynb_checkpoints/b.png",
        "__MACOSX/cat/a.png",
    ]
    deeper = ["cat/._a.png", "cat/.cache/deep/a.png", "dog/day/.x/a.png"]
    seen = ["cat/a.png", "dog/day/a.png"]
    root = folder(tmp_path / "f", *(f"train/{path}" for path in (*hidden, *deeper, *seen)))
    for name in (".DS_Store", "Thumbs.db", "cat/.DS_Store", "cat/Thumbs.db", "cat/desktop.ini"):
        (root / "train" / name).write_bytes(b"")

    for split in both(root):
        assert split.classes == ("cat", "dog")
        names = [split.named(k).removeprefix("train.tar:") for k in range(len(split))]
        assert sorted(names) == seen
        assert split.passed_over == "passed over in train: 11 hidden"


def test_every_format_that_pillow_reads_is_read(tmp_path: Path) -> None:
    root = folder(tmp_path / "f", "train/cat", "train/dog/a.png")
    kinds = {".jfif": "JPEG", ".jpe": "JPEG", ".PGM": "PPM", ".avif": "AVIF", ".Tga": "TGA"}
    kinds |= {".jp2": "JPEG2000", ".webp": "WEBP", ".ico": "ICO", ".dib": "DIB", ".sgi": "SGI"}
    for suffix, kind in kinds.items():
        Image.new("L" if kind == "PPM" else "RGB", (16, 16)).save(
            root / "train" / "cat" / f"a{suffix}", kind
        )

    for split in both(root):
        assert split.labels.count(0) == len(kinds)
        assert all(split.image(k).mode == "RGB" for k in range(len(split)))
        assert split.passed_over == ""


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    root = folder(tmp_path / "f", "train/cat/a.png", "train/dog/a.png", "train/loose.png")
    for name in ("notes.txt", "cat/b.TXT", "cat/c.csv", "dog/README", "dog/features.h5"):
        (root / "train" / name).write_bytes(b"")

    for split in both(root):
        assert len(split) == 2
        assert split.passed_over == (
            "passed over in train: 5 of no image format (.txt 2, .csv 1, .h5 1, no ending 1), "
            "1 outside of the class folders"
        )


def test_it_is_said_by_the_data(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "f", train=2, test=1)
    (root / "train" / "red" / "notes.txt").write_text("no image")
    data = load_data(DataConfig(str(root), image_size=8), input_size=(3, 8, 8))

    assert data.passed_over == ("passed over in train: 1 of no image format (.txt 1)",)


def test_class_without_images_is_named(tmp_path: Path) -> None:
    root = folder(tmp_path / "f", "train/blue/a.png", "train/red/a.png", "train/yellow", "train/.x")
    (root / "train" / "yellow" / "notes.txt").write_text("no image")

    for config in (DataConfig(str(root)), tarred(root)):
        with pytest.raises(DataError, match=r"has classes without images: yellow; add some"):
            open_split(config, training=True)


def test_images_in_no_class_folder_are_no_split(tmp_path: Path) -> None:
    root = folder(tmp_path / "f", "train/a.png", "train/b.png")

    with pytest.raises(DataError, match="train holds 2 images in no folder; it needs one folder"):
        open_split(DataConfig(str(root)), training=True)


def test_a_folder_that_cannot_be_read_is_no_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's walk steps over it without a word."""
    root = folder(tmp_path / "f", "train/cat/a.png", "train/dog/a.png", "train/dog/deep/a.png")
    scandir = os.scandir

    def guarded(path: str) -> Any:
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", guarded)
    with pytest.raises(DataError, match=r"deep cannot be read: Permission denied"):
        open_split(DataConfig(str(root)), training=True)


def test_images_have_the_order_of_their_numbers(tmp_path: Path) -> None:
    root = folder(tmp_path / "f", *(f"train/cat/{k}.png" for k in (10, 9, 1)), "train/b/A.png")
    split = open_split(DataConfig(str(root)), training=True)

    assert [split.named(k) for k in range(4)] == [
        *("b/A.png", "cat/1.png", "cat/9.png", "cat/10.png")
    ]
