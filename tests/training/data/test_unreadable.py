"""Images that cannot be read are named, counted and left out up to a limit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from senet.cli.train import _summary
from senet.errors import DataError
from senet.schema import overridden
from senet.training import DataConfig, TrainConfig
from senet.training.config.run_config import RunConfig
from senet.training.data import ImageData, Unreadable, left_out, load_data
from senet.training.job import train as train_job
from senet.training.loop.checkpoints import newest_checkpoint, read_checkpoint
from training.tiny import CPU, image_folder


def broken_folder(root: Path, *, size: int) -> Path:
    """Two training images and one test image that cannot be read: empty, cut off, no image."""
    folder = image_folder(root / "images", train=8, test=4, size=size)
    whole = (folder / "train" / "blue" / "0003.png").read_bytes()
    (folder / "train" / "blue" / "0003.png").write_bytes(whole[: len(whole) // 2])
    (folder / "train" / "red" / "0005.png").write_bytes(b"")
    (folder / "test" / "red" / "1001.png").write_bytes(b"no image")
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
    (here / "notes.txt").write_text("no image, and not meant to be one")
    changes = {"model": "resnet20", "data.name": str(folder), "epochs": 1, "image_size": 72}
    changes |= {"batch_size": 22, "workers": 0, "max_bad_images": 4}
    config = overridden(RunConfig(), changes)
    result = train_job(config, out=tmp_path / "run", placement=CPU)

    assert result["data"]["train_images"] == 16 + 6
    passed_over = "passed over in train: 1 of no image format (.txt 1)"
    assert result["data"]["passed_over"] == [passed_over]
    assert passed_over in _summary(result, tmp_path)
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


def test_an_image_counts_once() -> None:
    unreadable = Unreadable(1)
    unreadable.add("a")
    unreadable.add("a")

    assert len(unreadable) == 1
    assert left_out([]) == ""
    with pytest.raises(DataError, match=r"^b; mend or remove it, or .* max_bad_images$"):
        Unreadable().add("b")
