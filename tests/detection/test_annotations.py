"""Boxes from COCO and VOC: what is kept, clipped, left out and said."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from detection.shapes import Box, write_coco, write_voc, write_xml
from senet.detection.annotations import open_boxes
from senet.errors import DataError

SIZE = (80, 60)
GOOD: Box = ("red", (10, 5, 30, 25))
OTHER: Box = ("green", (40, 20, 70, 50))
WRITERS = pytest.mark.parametrize("write", [write_coco, write_voc], ids=["coco", "voc"])


@WRITERS
def test_the_same_boxes_from_both(write, tmp_path: Path) -> None:
    root = write(tmp_path, {"train": [[GOOD, OTHER], [], [OTHER]]}, SIZE)

    split = open_boxes(root, "train")

    assert set(split.classes) == {"red", "green"}
    red, green = (split.classes.index(name) + 1 for name in ("red", "green"))
    assert [[(o.label, o.box) for o in image.objects] for image in split.images] == [
        [(red, GOOD[1]), (green, OTHER[1])],
        [],
        [(green, OTHER[1])],
    ]
    assert split.images[0].objects[0].area == 400
    assert all(image.file.is_file() for image in split.images)
    assert split.left_out == ()


def test_numbers_of_coco_stay(tmp_path: Path) -> None:
    split = open_boxes(write_coco(tmp_path, {"val": [[GOOD]]}, SIZE), "val")
    assert split.classes == ("red", "green")
    assert split.category_ids == (5, 9)
    assert split.images[0].id == 40


@WRITERS
def test_classes_that_are_given(write, tmp_path: Path) -> None:
    split = open_boxes(
        write(tmp_path, {"train": [[GOOD, OTHER]]}, SIZE), "train", classes=("green", "red")
    )
    assert [o.label for o in split.images[0].objects] == [2, 1]
    if write is write_coco:
        assert split.category_ids == (9, 5)


BAD = {
    "without an area": ("red", (10, 10, 10, 30)),
    "with corners the wrong way round": ("red", (30, 10, 20, 30)),
    "outside of the image": ("green", (90, 10, 120, 30)),
    "with sides that are no numbers": ("green", (math.nan, 10, 20, 30)),
    "of no known class": ("blue", (10, 10, 20, 30)),
}


@WRITERS
@pytest.mark.parametrize("kind", BAD)
def test_boxes_that_are_left_out(write, kind: str, tmp_path: Path) -> None:
    root = write(tmp_path, {"train": [[GOOD], []]}, SIZE)
    name, box = BAD[kind]
    if write is write_voc:
        write_xml(root / "Annotations/train_1.xml", "train_1.png", [BAD[kind]], SIZE)
    else:
        file = root / "annotations/instances_train.json"
        content = json.loads(file.read_text())
        x1, y1, x2, y2 = box
        content["annotations"].append(
            {"image_id": 41, "category_id": {"red": 5, "green": 9}.get(name, 77),
             "bbox": [x1, y1, x2 - x1, y2 - y1]}
        )  # fmt: skip
        file.write_text(json.dumps(content))

    split = open_boxes(root, "train", classes=("green", "red"))

    assert [len(image.objects) for image in split.images] == [1, 0]
    [line] = split.left_out
    assert line.startswith(f"train: 1 box {kind} left out: ")
    assert "1.png" in line


@WRITERS
def test_box_that_is_partly_outside_is_clipped(write, tmp_path: Path) -> None:
    root = write(tmp_path, {"train": [[("red", (-5, 30, 20, 70))]]}, SIZE)
    split = open_boxes(root, "train")
    [only] = split.images[0].objects
    assert only.box == (0, 30, 20, 60)
    assert only.area == 600
    assert "1 box partly outside of the image clipped" in split.left_out[0]


def test_crowds_and_difficult_objects(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "a", {"train": [[GOOD]]}, SIZE, iscrowd=1, area=7.5)
    file = root / "annotations/instances_train.json"
    with pytest.raises(DataError, match="must have a box that can be used, and has none in 1"):
        open_boxes(root, "train")
    content = json.loads(file.read_text())
    content["annotations"].append({**content["annotations"][0], "id": 2, "iscrowd": 0})
    file.write_text(json.dumps(content))
    objects = open_boxes(root, "train").images[0].objects
    assert [(o.crowd, o.area) for o in objects] == [(True, 7.5), (False, 7.5)]

    root = write_voc(tmp_path / "b", {"train": [[GOOD]]}, SIZE)
    xml = root / "Annotations/train_0.xml"
    xml.write_text(xml.read_text().replace("<difficult>0", "<difficult>1"))
    assert open_boxes(root, "train").images[0].objects[0].difficult


def test_size_that_is_not_annotated_is_that_of_the_file(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"train": [[GOOD]]}, SIZE)
    write_xml(root / "Annotations/train_0.xml", "train_0.png", [("red", (60, 10, 99, 30))], None)
    assert open_boxes(root, "train").images[0].objects[0].box == (60, 10, 80, 30)


@WRITERS
def test_no_box_can_be_used(write, tmp_path: Path) -> None:
    root = write(tmp_path, {"train": [[BAD["without an area"]], []]}, SIZE)
    with pytest.raises(DataError, match=r"has none in 2 images; train: 1 box without an area"):
        open_boxes(root, "train")


def test_what_is_not_there(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "voc", {"train": [[GOOD]]}, SIZE)
    with pytest.raises(DataError, match="has no split 'val'; its splits are: train"):
        open_boxes(root, "val")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no annotations of a split 'train'"):
        open_boxes(tmp_path / "empty", "train")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"images": []}', '{"images": [{}], "categories": []}',
             '{"images": [], "categories": [], "annotations": [{"image_id": 3}]}'],
)  # fmt: skip
def test_files_that_cannot_be_read(text: str, tmp_path: Path) -> None:
    file = tmp_path / "some.json"
    file.write_text(text)
    with pytest.raises(DataError, match="cannot be read as COCO's annotations"):
        open_boxes(file, "train")
    root = write_voc(tmp_path / "voc", {"train": [[GOOD]]}, SIZE)
    (root / "Annotations/train_0.xml").write_text("<annotation><")
    with pytest.raises(DataError, match=r"train_0.xml cannot be read as VOC's annotation"):
        open_boxes(root, "train")


def test_real_annotations(shared_data: Path) -> None:
    """BCCD has one box without an area in the training and one in the validation images."""
    split = open_boxes(shared_data / "bccd", "train")
    assert split.classes == ("Platelets", "RBC", "WBC")
    assert len(split) == 205
    assert any("BloodImage_00343.jpg" in line and "1 box" in line for line in split.left_out)
