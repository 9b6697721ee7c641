"""Data are opened by name; what cannot be opened gives one line that says why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from senet.errors import DataError, MissingPackageError, UnknownNameError
from senet.training import DataConfig
from senet.training.data import Split, Stream, load_data, open_splits, register_data
from training.tiny import coloured_image, image_folder, parquet_folder


def indexed(config: DataConfig) -> tuple[Split, Split]:
    train, test = open_splits(config)
    assert isinstance(train, Split)
    assert isinstance(test, Split)
    return train, test


def test_digits_are_split_the_same_way_each_time() -> None:
    train, test = indexed(DataConfig())

    assert (len(train), len(test)) == (1198, 599)
    assert train.classes == test.classes == tuple("0123456789")
    assert (train.image(0).mode, train.image(0).size) == ("L", (8, 8))
    assert train.labels[:8] == indexed(DataConfig())[0].labels[:8]
    shares = [test.labels.count(digit) / 599 for digit in range(10)]
    assert max(shares) - min(shares) < 0.01


@pytest.mark.parametrize("names", [("train", "test"), ("training", "val"), ("train", "validation")])
def test_image_folder(tmp_path: Path, names: tuple[str, str]) -> None:
    folder = image_folder(tmp_path / "f", train=2, test=1, names=names)
    for config in (DataConfig(str(folder)), DataConfig("folder", root=str(folder))):
        train, test = indexed(config)

        assert train.classes == ("blue", "red")
        assert (train.labels, test.labels) == ([0, 0, 1, 1], [0, 1])
        assert train.image(3).tobytes() == coloured_image("red", 1).tobytes()


def test_prefix_comes_before_a_folder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_folder(tmp_path / "torch" / "mnist", train=1, test=1)
    monkeypatch.chdir(tmp_path)

    with pytest.raises(DataError, match="torch/mnist has no readable split"):
        open_splits(DataConfig("torch/mnist", root="torch"))
    assert indexed(DataConfig("./torch/mnist"))[0].classes == ("blue", "red")


def test_hugging_face_folder(tmp_path: Path) -> None:
    folder = parquet_folder(tmp_path / "parquet", train=2, test=1)
    train, test = indexed(DataConfig(f"hfds/{folder}", root=str(tmp_path / "cache")))

    assert train.classes == ("blue", "red")
    assert (train.labels, test.labels) == ([0, 1, 0, 1], [0, 1])
    assert train.image(3).tobytes() == coloured_image("red", 1).tobytes()


def test_hugging_face_columns_are_named_where_they_have_other_names(tmp_path: Path) -> None:
    folder, cache = parquet_folder(tmp_path / "parquet", train=2, test=1), str(tmp_path / "cache")

    for option, name in (("image_key", "img"), ("label_key", "fine")):
        with pytest.raises(
            DataError,
            match=f"'train' has no column '{name}', it has image, label; name it by {option}",
        ):
            open_splits(DataConfig(f"hfds/{folder}", root=cache, **{option: name}))
    named = DataConfig(f"hfds/{folder}", root=cache, image_key="image", label_key="label")
    assert indexed(named)[0].labels == [0, 1, 0, 1]


def test_stream(tmp_path: Path) -> None:
    folder = parquet_folder(tmp_path / "parquet", train=4, test=1)
    config = DataConfig(f"hfids/{folder}", root=str(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"length is unknown|has no readable split"):
        open_splits(config)  # a folder of parquet files does not say how many images it has

    load_dataset = pytest.importorskip("datasets", reason="streams a data set").load_dataset

    load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))  # now it does
    train, test = open_splits(config)

    assert isinstance(train, Stream)
    assert (len(train), len(test)) == (8, 2)
    assert train.classes == ("blue", "red")
    assert [label for _, label in train] == [0, 1] * 4
    orders = [
        [image.tobytes() for image, _ in replace(train, key=(0, epoch))] for epoch in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]


def test_torchvision_data_that_are_not_there(tmp_path: Path) -> None:
    for name in ("cifar10", "torch/cifar10"):
        with pytest.raises(DataError, match=r"has no readable split 'train': .*be downloaded"):
            open_splits(DataConfig(name, root=str(tmp_path)))


def test_a_server_out_of_reach_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def unreachable(_name: str, *, split: str, **_: object) -> None:
        asked.append(split)
        raise ConnectionError("no network")

    monkeypatch.setattr("timm.data.dataset_factory.create_dataset", unreachable)
    with pytest.raises(DataError, match=r"'training': ConnectionError: no network$"):
        open_splits(DataConfig("hfds/some/name"))
    assert asked == ["train"]


def test_torchvision_data(tmp_path: Path) -> None:
    """Three grey images of two classes in the format of MNIST, for each split."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix in ("train", "t10k"):
        images, labels = bytes(range(3 * 4)), bytes([7, 2, 7])
        head = b"".join(n.to_bytes(4, "big") for n in (0x803, 3, 2, 2))
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(head + images)
        head = b"".join(n.to_bytes(4, "big") for n in (0x801, 3))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(head + labels)

    train, test = indexed(DataConfig("torch/mnist", root=str(tmp_path)))

    assert train.labels == test.labels == [7, 2, 7]
    assert train.classes[7] == "7 - seven"
    assert (train.image(1).mode, train.image(1).tobytes()) == ("L", bytes([4, 5, 6, 7]))


class Folders:
    """torchvision's ImageNet, as far as it is used: files with a loader, names in tuples."""

    classes = (("crane", "bird"), ("tench",), ("crane",))
    targets = (0, 2)

    def __init__(self, path: Path) -> None:
        self.path = path
        self.loader = Image.open

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.loader(self.path), self.targets[index]


def test_torchvision_files_are_opened_as_all_others_and_classes_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ImageNet has two classes called crane; one took the images of both."""
    deep = Image.fromarray(np.full((4, 4), 257 * 100, np.uint16))
    deep.save(tmp_path / "a.png")
    monkeypatch.setattr(
        "timm.data.dataset_factory.create_dataset", lambda *_, **__: Folders(tmp_path / "a.png")
    )
    split, _ = indexed(DataConfig("torch/imagenet", root=str(tmp_path)))

    assert split.classes == ("crane (0)", "tench", "crane (2)")
    assert split.labels == [0, 2]
    assert split.image(1).getpixel((0, 0)) == (100, 100, 100)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'datasets'", name="datasets")

    monkeypatch.setattr("timm.data.dataset_factory.create_dataset", missing)
    with pytest.raises(MissingPackageError, match=r"data named hfds/x/y needs the package datas"):
        open_splits(DataConfig("hfds/x/y"))


def test_unreadable_image_is_named(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "f", train=2, test=1)
    (folder / "train" / "red" / "0000.png").write_bytes(b"no image")
    train, _ = indexed(DataConfig(str(folder)))

    with pytest.raises(DataError, match=r"image 2 of the train split cannot be read: .*0000.png"):
        train.image(2)


def test_image_with_palette_or_grey_becomes_rgb(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "f", train=1, test=1)
    Image.new("P", (8, 8)).save(folder / "train" / "red" / "0000.png")
    train, _ = indexed(DataConfig(str(folder)))

    assert train.image(1).mode == "RGB"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", "unknown data 'digit'; did you mean: digits"),
        ("cifar", "unknown data 'cifar'; did you mean: .*torch/cifar10"),
        ("torch/cifar1", "unknown torchvision data 'cifar1'; did you mean: cifar10"),
    ],
)
def test_unknown_name_lists_near_ones(name: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        open_splits(DataConfig(name))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no/such/folder", "the image folder no/such/folder does not exist"),
        ("./folder", "the image folder ./folder does not exist"),
        ("hfds//no/such", "the folder of hfds//no/such does not exist"),
        ("folder", "need the path of the image folder as their root"),
    ],
)
def test_missing_folder(name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_splits(DataConfig(name))


def test_missing_root_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the image folder .*gone does not exist"):
        open_splits(DataConfig("folder", root=str(tmp_path / "gone")))


def test_folder_without_a_test_split(tmp_path: Path) -> None:
    """timm would take the whole folder, and so test on what was trained on."""
    folder = image_folder(tmp_path / "f", train=1, test=1, names=("train", "others"))

    with pytest.raises(DataError, match=r"needs a folder test or val, .*; it holds others, train"):
        open_splits(DataConfig(str(folder)))
    assert len(indexed(DataConfig(str(folder), test_split="others"))[1]) == 2


def test_folder_without_images(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "f", train=1, test=0)

    with pytest.raises(DataError, match="test holds no images; it needs one folder"):
        open_splits(DataConfig(str(folder)))


def test_own_datasets_have_a_name(tmp_path: Path) -> None:
    """A list of pairs, and torchvision's ImageFolder: the same images as from the folder."""
    folder = image_folder(tmp_path / "f")
    parts = [ImageFolder(folder / name) for name in ("train", "test")]
    register_data("own", *parts)
    register_data("pairs", *(list(part) for part in parts))
    options: Any = {"image_size": 8}
    wanted = load_data(DataConfig(str(folder), **options), input_size=(3, 8, 8))
    for name, classes in (("own", ("blue", "red")), ("pairs", ("0", "1"))):
        data = load_data(DataConfig(name, **options), input_size=(3, 8, 8))
        assert data.classes == classes
        for ours, theirs in ((data.train, wanted.train), (data.test, wanted.test)):
            assert torch.equal(ours.labels, theirs.labels)  # type: ignore[union-attr, arg-type]
            assert torch.equal(ours.images, theirs.images)  # type: ignore[union-attr, arg-type]
    with pytest.raises(DataError, match="must be map-style datasets with a length, got a tup"):
        register_data("none", iter(()), [])
