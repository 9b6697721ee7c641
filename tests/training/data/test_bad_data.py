"""Pictures that are unusual are read, those that are broken are named, counted and left out."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from senet.errors import DataError
from senet.schema import overridden
from senet.training import DataConfig, TrainConfig
from senet.training.config import RunConfig
from senet.training.data import ImageData, Share, Unreadable, left_out, load_data, opened_image
from senet.training.data.dataset import InMemory
from senet.training.data.loading import _class_names
from senet.training.job import train as train_job
from senet.training.loop.checkpoints import newest_checkpoint, read_checkpoint
from training.tiny import CPU, image_folder, picture


def saved(image: Image.Image, kind: str, **options: object) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


def pixel(file: io.BytesIO) -> tuple[int, ...]:
    found = opened_image(file)
    assert found.mode == "RGB"
    value = found.getpixel((1, 1))
    assert isinstance(value, tuple)
    return value


def test_grey_becomes_rgb() -> None:
    assert pixel(saved(Image.new("L", (4, 4), 77), "png")) == (77, 77, 77)


def test_sixteen_bits_become_eight_and_are_not_cut_off() -> None:
    """0 is black, 65535 white, 257 * 100 is 100: Pillow alone would give 255 for all but black."""
    for level, expected in ((0, 0), (257 * 100, 100), (65535, 255)):
        grey = Image.fromarray(np.full((4, 4), level, np.uint16))
        assert pixel(saved(grey, "png")) == (expected,) * 3
        assert pixel(saved(grey, "tiff")) == (expected,) * 3


def test_cmyk_palette_transparency_and_animation() -> None:
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    assert pixel(saved(red.convert("CMYK"), "tiff")) == (255, 0, 0)
    assert pixel(saved(red.convert("P"), "png")) == (255, 0, 0)
    assert pixel(saved(Image.new("RGBA", (4, 4), (255, 0, 0, 9)), "png")) == (255, 0, 0)
    blue = Image.new("RGB", (4, 4), (0, 0, 255))
    animated = saved(red, "gif", save_all=True, append_images=[blue])
    assert pixel(animated) == (255, 0, 0)


def test_floating_point_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="floating point numbers, which are no picture"):
        opened_image(Image.new("F", (4, 4)))


def broken_folder(root: Path, *, size: int) -> Path:
    """Two training images and one test image that cannot be read: empty, cut off, no picture."""
    folder = image_folder(root / "pictures", train=8, test=4, size=size)
    whole = (folder / "train" / "blue" / "0003.png").read_bytes()
    (folder / "train" / "blue" / "0003.png").write_bytes(whole[: len(whole) // 2])
    (folder / "train" / "red" / "0005.png").write_bytes(b"")
    (folder / "test" / "red" / "1001.png").write_bytes(b"no picture")
    return folder


def loaded(folder: Path, *, size: int, limit: int) -> ImageData:
    config = DataConfig(str(folder), image_size=size, max_bad_images=limit)
    return load_data(config, input_size=(3, size, size))


@pytest.mark.parametrize("size", [8, 72])
def test_broken_images_are_left_out_up_to_the_limit(tmp_path: Path, size: int) -> None:
    data = loaded(broken_folder(tmp_path, size=size), size=size, limit=3)
    train = TrainConfig(batch_size=8, workers=0)
    seen = sum(len(labels) for _, labels in data.train_batches(train, epoch=0))
    seen += sum(len(labels) for _, labels in data.train_batches(train, epoch=1))
    tested = sum(len(labels) for _, labels in data.test_batches(train))

    assert tested == 7
    # in memory, 14 images fill one batch; read when needed, 16 fill two, of which 2 are missing
    assert seen == (2 * 8 if size == 8 else 2 * 14)
    said = left_out(list(data.unreadable.seen))
    assert said.startswith("3 images could not be read and were left out: image ")
    for name in ("blue/0003.png", "red/0005.png", "red/1001.png"):
        assert f"{name}: " in said


@pytest.mark.parametrize("workers", [0, 1])
def test_limit_is_a_limit(tmp_path: Path, workers: int) -> None:
    folder = broken_folder(tmp_path, size=72)
    data = loaded(folder, size=72, limit=1)
    train = TrainConfig(batch_size=16, workers=workers)

    with pytest.raises(DataError, match=r"^2 images cannot be read, and max_bad_images is 1; the"):
        list(data.train_batches(train, epoch=0))
    with pytest.raises(DataError, match=r"2 images cannot be read, and max_bad_images is 1"):
        loaded(folder, size=8, limit=1)


def test_run_over_a_folder_with_everything_in_it(tmp_path: Path) -> None:
    """Kinds of files beside jpg and png too; what is broken is named at the end of a real run."""
    folder = broken_folder(tmp_path, size=72)
    red, blue = Image.new("RGB", (90, 80), (200, 60, 40)), Image.new("RGB", (90, 80), (0, 0, 255))
    here = folder / "train" / "red"
    red.convert("CMYK").save(here / "cmyk.jpg")
    red.convert("L").save(here / "grey.JPG")
    Image.fromarray(np.full((80, 90), 40000, np.uint16)).save(here / "deep.png")
    red.save(here / "moving.gif", save_all=True, append_images=[blue])
    red.save(here / "photo.webp")
    Image.fromarray(np.full((80, 90), 0.5, np.float32)).save(here / "float.tiff")
    (here / "notes.txt").write_text("no picture, and not meant to be one")
    changes = {"model": "resnet20", "data.name": str(folder), "epochs": 1, "image_size": 72}
    changes |= {"batch_size": 22, "workers": 0, "max_bad_images": 4}
    config = overridden(RunConfig(), changes)
    result = train_job(config, out=tmp_path / "run", placement=CPU)

    assert result["data"]["train_images"] == 16 + 6
    left_out = "\n".join(result["data"]["left_out"])
    assert len(result["data"]["left_out"]) == 4
    for name in ("blue/0003.png", "red/0005.png", "red/1001.png", "float.tiff: DataError: values"):
        assert name in left_out
    message = r"^4 images cannot be read, and max_bad_images is 3; the last one: [^\n]*$"
    with pytest.raises(DataError, match=message):
        train_job(overridden(config, {"max_bad_images": 3}), out=tmp_path / "no", placement=CPU)


def test_what_was_left_out_is_remembered(tmp_path: Path) -> None:
    changes = {"model": "resnet20", "data.name": str(broken_folder(tmp_path, size=8)), "epochs": 1}
    changes |= {"image_size": 8, "batch_size": 7, "max_bad_images": 3}
    config, out = overridden(RunConfig(), changes), tmp_path / "run"
    result = train_job(config, out=out, placement=CPU)
    assert len(result["data"]["left_out"]) == 3
    kept = read_checkpoint(newest_checkpoint(out) or out)["callbacks"]["History"]["left_out"]
    assert kept == result["data"]["left_out"]
    before = (out / "run.json").read_text()
    assert train_job(config, out=out, placement=CPU, resume=True) == json.loads(before)
    assert (out / "run.json").read_text() == before


def test_a_negative_label_without_a_name_is_refused() -> None:
    unnamed = SimpleNamespace(classes=())
    with pytest.raises(DataError, match="must be 0 or more, or have names, got -1"):
        _class_names(DataConfig(), unnamed, unnamed, [0, 1, -1])  # type: ignore[arg-type]
    assert _class_names(DataConfig(), unnamed, unnamed, [0, 5]) == ("0", "5")  # type: ignore[arg-type]


def test_an_image_counts_once() -> None:
    found = Unreadable(1)
    found.add("a")
    found.add("a")

    assert len(found) == 1
    assert left_out([]) == ""
    with pytest.raises(DataError, match=r"^b; mend or remove it, or .* max_bad_images$"):
        Unreadable().add("b")


def test_class_without_images_is_named(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "pictures", train=2, test=1)
    (folder / "train" / "yellow").mkdir()

    (folder / "train" / "yellow" / "notes.txt").write_text("no picture")
    (folder / "train" / ".cache").mkdir()

    with pytest.raises(DataError, match=r"train has classes without images: yellow; add some"):
        loaded(folder, size=8, limit=0)


# ---- tar files


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def png(colour: str, index: int, *, size: int = 8) -> bytes:
    return saved(picture(colour, index, size=size), "png").getvalue()


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
    """What the pictures of the training split are, by the channel that is largest."""
    assert isinstance(data.train, InMemory)
    largest = data.train.images.float().mean((2, 3)).argmax(1).tolist()
    return ["blue" if channel == 2 else "red" for channel in largest]


def test_tar_of_class_folders_and_tar_per_class(tmp_path: Path) -> None:
    folder = folder_tars(tmp_path / "tars")
    data = load_data(DataConfig(f"tar/{folder}", image_size=8), input_size=(3, 8, 8))

    assert data.classes == ("blue", "red")
    assert isinstance(data.train, InMemory)
    assert isinstance(data.test, InMemory)
    assert [data.classes[label] for label in data.train.labels] == colours(data)
    assert data.test.labels.tolist() == [0, 1]


@pytest.mark.parametrize("prefix", ["tar", "wds"])
def test_webdataset_shards_need_no_other_package(tmp_path: Path, prefix: str) -> None:
    folder = shards(tmp_path / "shards")
    data = load_data(DataConfig(f"{prefix}/{folder}", image_size=8), input_size=(3, 8, 8))

    assert data.classes == ("0", "1")
    assert isinstance(data.train, InMemory)
    assert data.train.labels.tolist() == [0, 1, 0, 0, 1, 0]
    assert colours(data) == ["blue", "red", "blue", "blue", "red", "blue"]


def test_shards_are_read_when_needed_shared_and_gone_on_with(tmp_path: Path) -> None:
    folder = shards(tmp_path / "shards")
    data = load_data(DataConfig(f"wds/{folder}", image_size=72), input_size=(3, 72, 72))
    train = TrainConfig(batch_size=2, workers=1)
    whole = torch.cat([images for images, _ in data.train_batches(train, epoch=0)])
    halves = [
        torch.cat([i for i, _ in data.train_batches(train, epoch=0, share=Share(rank, 2))])
        for rank in (0, 1)
    ]

    assert torch.equal(torch.stack(halves, 1).flatten(0, 1), whole)


def test_what_is_wrong_with_a_tar_is_said(tmp_path: Path) -> None:
    def opened(folder: Path) -> None:
        load_data(DataConfig(f"tar/{folder}", image_size=8), input_size=(3, 8, 8))

    with pytest.raises(DataError, match=r"11.png in .*data-train-001.tar has no label: neither 11"):
        opened(shards(tmp_path / "unlabelled", broken="11"))
    with pytest.raises(DataError, match=r"the folder of tar/.*gone does not exist"):
        opened(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"needs train.tar, train/\*.tar or .*; it holds nothing"):
        opened(tmp_path / "empty")
    (tmp_path / "empty" / "train.tar").write_bytes(b"no tar")
    with pytest.raises(DataError, match=r"train.tar is no tar file that can be read"):
        opened(tmp_path / "empty")
