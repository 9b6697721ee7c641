"""Images with boxes as batches: what is read, mirrored, left out, and in which order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from detection.shapes import Box, scene, write_coco, write_voc
from senet.detection.annotations import open_boxes
from senet.detection.box_data import BoxData, BoxImages, load_boxes, read_image
from senet.detection.config import BoxDataConfig, DetectTrainConfig
from senet.errors import DataError

SIZE = (80, 60)
RED: Box = ("red", (10, 5, 30, 25))


def loaded(root: Path, data: dict[str, Any] | None = None, **train: Any) -> BoxData:
    options = {"steps": 12, "test_every": 4, "batch_size": 2, "warmup_steps": 0, "workers": 0}
    recipe = DetectTrainConfig(**{**options, **train})
    return load_boxes(BoxDataConfig(root=str(root), **(data or {})), recipe)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    scenes = {"train": [scene(k, SIZE) for k in range(7)], "val": [[RED], []]}
    return write_voc(tmp_path, scenes, SIZE)


def positions(data: BoxData, **place: int) -> list[list[int]]:
    train = data.recipe.loop()
    batches: list[Any] = [
        batch for epoch in range(3) for batch in data.train_batches(train, epoch=epoch, **place)
    ]
    return [[int(target["position"]) for target in targets] for _, targets in batches]


def test_steps_go_through_the_images_again_and_again(root: Path) -> None:
    """Three steps of two images are a pass over seven; the parts of four steps do not matter."""
    order = positions(loaded(root))
    assert len(order) == 12
    passes = [[p for each in order[k : k + 3] for p in each] for k in range(0, 12, 3)]
    assert all(len(set(each)) == 6 for each in passes)
    assert len({tuple(each) for each in passes}) == 4
    longer = loaded(root, test_every=6)
    assert positions(longer)[:12] == order


def test_two_devices_share_each_batch(root: Path) -> None:
    data = loaded(root)
    parts = [positions(data, rank=rank, world_size=2) for rank in (0, 1)]
    assert [a + b for a, b in zip(*parts, strict=True)] == positions(data)


def test_going_on_in_the_middle(root: Path) -> None:
    data, train = loaded(root), loaded(root).recipe.loop()
    whole = list(data.train_batches(train, epoch=1))
    rest = list(data.train_batches(train, epoch=1, skip=3))
    assert torch.equal(whole[3][0][0], rest[0][0][0])


def test_mirrored_boxes_are_where_the_objects_are(tmp_path: Path) -> None:
    root = write_coco(tmp_path, {"train": [[RED]]}, SIZE)
    images = BoxImages(open_boxes(root, "train"), seed=3)
    seen = set()
    for turn in range(12):
        image, target = images[turn]
        [(x1, y1, x2, y2)] = target["boxes"].int().tolist()
        inside = image[:, y1:y2, x1:x2]
        assert (inside[0] > 0.8).all()
        assert (inside[1] < 0.2).all()
        seen.add(x1)
    assert seen == {10, SIZE[0] - 30}


def test_crowds_are_not_trained_on(tmp_path: Path) -> None:
    root = write_coco(tmp_path, {"train": [[RED]]}, SIZE)
    split = open_boxes(root, "train")
    [object_] = split.images[0].objects
    crowd = replace(split.images[0], objects=(object_, object_._replace(crowd=True)))
    _, target = BoxImages(replace(split, images=(crowd,)))[0]
    assert len(target["boxes"]) == 1


def test_unreadable_images(root: Path) -> None:
    file = root / "JPEGImages/train_2.png"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match=r"train_2.png cannot be read: .* max_bad_images"):
        positions(loaded(root))
    data = loaded(root, {"max_bad_images": 1})
    assert all(2 not in batch for batch in positions(data))
    assert "train_2.png" in data.summary()["left_out"][0]


def test_image_of_another_size_than_annotated(root: Path) -> None:
    Image.new("RGB", (50, 50)).save(root / "JPEGImages/val_0.png")
    with pytest.raises(DataError, match=r"it is \(50, 50\), \(80, 60\) is annotated"):
        read_image(open_boxes(root, "val").images[0])


@pytest.mark.parametrize("annotated", [(80, 60), (60, 80)])
def test_orientation_is_that_of_the_annotation(tmp_path: Path, annotated: tuple[int, int]) -> None:
    """Boxes of some data are drawn on the image as it is stored, of others on the upright one."""
    root = write_coco(tmp_path, {"train": [[RED]]}, annotated)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (80, 60)).save(root / "train/0.png", exif=exif)
    assert read_image(open_boxes(root, "train").images[0]).size == annotated


def test_what_is_left_out_is_in_the_summary(tmp_path: Path) -> None:
    scenes = {"train": [[RED, ("red", (5, 5, 5, 9))]], "val": [[RED], []]}
    data = loaded(write_voc(tmp_path, scenes, SIZE))
    assert data.summary()["images_per_class"] == {"red": 1}
    assert "1 box without an area left out" in data.summary()["passed_over"][0]
    batches: list[Any] = list(data.test_batches(data.recipe.loop()))
    assert [len(t["boxes"]) for _, targets in batches for t in targets] == [1, 0]
