"""Tar files of class folders, and WebDataset's shards."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
import torch

from senet.errors import DataError
from senet.training import DataConfig, TrainConfig
from senet.training.data import ImageData, Split, load_data
from senet.training.data.memory import MemoryImages
from senet.training.data.shards import tar_split
from training.tiny import coloured_image


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def png(colour: str, index: int, *, size: int = 8) -> bytes:
    file = io.BytesIO()
    coloured_image(colour, index, size=size).save(file, "png")
    return file.getvalue()


def folder_tars(root: Path) -> Path:
    """train.tar with class folders, and a tar for each class of the test."""
    (root / "val").mkdir(parents=True)
    with tarfile.open(root / "train.tar", "w") as tar:
        for index in range(4):
            for colour in ("red", "blue"):
                add(tar, f"some/{colour}/{index}.png", png(colour, index))
    for colour in ("red", "blue"):
        with tarfile.open(root / "val" / f"{colour}.tar", "w") as tar:
            add(tar, "10.png", png(colour, 10))
    return root


def shards(root: Path, *, broken: str = "") -> Path:
    """WebDataset's shards: labels as numbers in training, as JSON in the test."""
    root.mkdir()
    for shard in range(2):
        with tarfile.open(root / f"data-train-{shard:03}.tar", "w") as tar:
            for index in range(3):
                key = f"{shard}{index}"
                add(tar, f"{key}.png", png(("blue", "red")[index % 2], index))
                if key != broken:
                    add(tar, f"{key}.cls", str(index % 2).encode())
    with tarfile.open(root / "data-val-000.tar", "w") as tar:
        for index in range(2):
            add(tar, f"{index}.json", json.dumps({"label": index}).encode())
            add(tar, f"{index}.png", png(("blue", "red")[index], index))
    return root


def colours(data: ImageData) -> list[str]:
    """What the images of the training split are, by the channel that is largest."""
    assert isinstance(data.train, MemoryImages)
    largest = data.train.images.float().mean((2, 3)).argmax(1).tolist()
    return ["blue" if channel == 2 else "red" for channel in largest]


def test_tar_of_class_folders_and_tar_per_class(tmp_path: Path) -> None:
    folder = folder_tars(tmp_path / "tars")
    data = load_data(DataConfig(f"tar/{folder}", image_size=8), input_size=(3, 8, 8))

    assert data.classes == ("blue", "red")
    assert isinstance(data.train, MemoryImages)
    assert isinstance(data.test, MemoryImages)
    assert [data.classes[label] for label in data.train.labels] == colours(data)
    assert data.test.labels.tolist() == [0, 1]


@pytest.mark.parametrize("prefix", ["tar", "wds"])
def test_webdataset_shards_need_no_other_package(tmp_path: Path, prefix: str) -> None:
    folder = shards(tmp_path / "shards")
    data = load_data(DataConfig(f"{prefix}/{folder}", image_size=8), input_size=(3, 8, 8))

    assert data.classes == ("0", "1")
    assert isinstance(data.train, MemoryImages)
    assert data.train.labels.tolist() == [0, 1, 0, 0, 1, 0]
    assert colours(data) == ["blue", "red", "blue", "blue", "red", "blue"]


def test_shards_are_read_when_needed_shared_and_gone_on_with(tmp_path: Path) -> None:
    folder = shards(tmp_path / "shards")
    data = load_data(DataConfig(f"wds/{folder}", image_size=72), input_size=(3, 72, 72))
    train = TrainConfig(batch_size=2, workers=1)
    whole = torch.cat([images for images, _ in data.train_batches(train, epoch=0)])
    halves = [
        torch.cat([i for i, _ in data.train_batches(train, epoch=0, rank=rank, world_size=2)])
        for rank in (0, 1)
    ]

    assert torch.equal(torch.stack(halves, 1).flatten(0, 1), whole)


def test_what_is_wrong_with_a_tar_is_said(tmp_path: Path) -> None:
    def load(folder: Path) -> None:
        load_data(DataConfig(f"tar/{folder}", image_size=8), input_size=(3, 8, 8))

    with pytest.raises(DataError, match=r"11.png in .*data-train-001.tar has no label: neither 11"):
        load(shards(tmp_path / "unlabelled", broken="11"))
    with pytest.raises(DataError, match=r"the folder of tar/.*gone does not exist"):
        load(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"needs train.tar, train/\*.tar or .*; it holds nothing"):
        load(tmp_path / "empty")
    (tmp_path / "empty" / "train.tar").write_bytes(b"no tar")
    with pytest.raises(DataError, match=r"train.tar is no tar file that can be read"):
        load(tmp_path / "empty")


def opened(path: Path, members: dict[str, bytes]) -> Split:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            add(tar, name, content)
    return tar_split("train", [path])


def test_a_folder_that_holds_all_class_folders_is_passed_through(tmp_path: Path) -> None:
    red, blue = png("red", 0), png("blue", 0)
    inside = {"./data/train/red/a.png": red, "./data/train/blue/b/c.png": blue, "data/x.txt": b""}
    split = opened(tmp_path / "train.tar", inside)

    assert (split.classes, split.labels) == (("blue", "red"), [1, 0])
    assert split.passed_over == "passed over in train: 1 of no image format (.txt 1)"
    split = opened(tmp_path / "train.tar", {"data/red/a.png": red, "data/b.png": blue})
    assert split.classes == ("data",)  # a class with an image of its own


def test_hidden_files_of_macos_are_no_samples(tmp_path: Path) -> None:
    """Its tar writes ._NAME beside each file."""
    members = {}
    for key in ("0", "1"):
        for name, content in ((f"{key}.png", png("red", 0)), (f"{key}.cls", key.encode())):
            members |= {f"._{name}": b"Mac OS X", name: content}
    split = opened(tmp_path / "train.tar", members)

    assert split.labels == [0, 1]
    assert split.passed_over == "passed over in train: 4 hidden"


def test_files_that_describe_class_folders_are_no_labels(tmp_path: Path) -> None:
    members = {"red/0.png": png("red", 0), "blue/0.png": png("blue", 0), "about.json": b"{}"}
    split = opened(tmp_path / "train.tar", members)

    assert split.labels == [1, 0]
    assert split.passed_over == "passed over in train: 1 of no image format (.json 1)"


def test_links_in_a_tar(tmp_path: Path) -> None:
    """A hard link is the file that it links to; a symbolic one is counted."""
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        add(tar, "red/0.png", png("red", 0))
        for name, kind in (("blue/0.png", tarfile.LNKTYPE), ("red/1.png", tarfile.SYMTYPE)):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "red/0.png"
            tar.addfile(link)
    split = tar_split("train", [tmp_path / "train.tar"])

    assert [split.named(k) for k in range(2)] == ["train.tar:red/0.png", "train.tar:blue/0.png"]
    assert split.image(1).tobytes() == coloured_image("red", 0).tobytes()
    assert split.passed_over == "passed over in train: 1 of no image format (symbolic links 1)"


def test_a_compressed_tar_is_refused(tmp_path: Path) -> None:
    """Its images cannot be read in place."""
    with tarfile.open(tmp_path / "train.tar", "w:gz") as tar:
        add(tar, "red/0.png", png("red", 0))
    with pytest.raises(DataError, match=r"train.tar is no tar file that can be read"):
        tar_split("train", [tmp_path / "train.tar"])


def test_a_tar_that_is_cut_off_is_named_with_its_image(tmp_path: Path) -> None:
    split = opened(tmp_path / "train.tar", {"red/0.png": png("red", 0)})
    content = (tmp_path / "train.tar").read_bytes()
    (tmp_path / "train.tar").write_bytes(content[:600])
    with pytest.raises(DataError, match=r"image 0 .* read: train.tar:red/0.png: .* is cut off"):
        split.image(0)
