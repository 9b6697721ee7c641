"""Images with boxes, from COCO's JSON or the XML files of Pascal VOC; every box is checked.

Boxes are (x1, y1, x2, y2) in pixels, x to the right and y down, class indices from 1 on (0 is the
background). VOC's corners are taken as they are written, as torchvision takes them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, final
from xml.etree import ElementTree as ET

from senet.errors import DataError, first_line

__all__ = ["BoxSplit", "ImageBoxes", "Object", "open_boxes"]

_SEVERAL = 5  # how many of the boxes that are left out a message names


class Object(NamedTuple):
    """One object that is annotated."""

    label: int
    """The class index, from 1 on."""
    box: tuple[float, float, float, float]
    """(x1, y1, x2, y2) within the image."""
    area: float
    """In square pixels: of the outline where there is one."""
    crowd: bool = False
    """Many objects in one box: not trained on; in a test, what lies in it counts for nothing."""
    difficult: bool = False
    """VOC's mark: not counted in a test."""


@final
@dataclass(frozen=True)
class ImageBoxes:
    """An image and what is annotated in it.

    Attributes:
        id: of the image, as in the annotations; a running number for VOC.
        file: of the image.
        size: (width, height) as annotated; None where nothing is said.
        objects: that are left of the annotated ones.
    """

    id: int
    file: Path
    size: tuple[int, int] | None
    objects: tuple[Object, ...]


@final
@dataclass(frozen=True)
class BoxSplit:
    """The images of one split.

    Attributes:
        name: of the split.
        classes: names of the classes; class index k is classes[k - 1].
        category_ids: the number that the annotations give to each class.
        images: in the order of the annotations; those without boxes are background.
        left_out: a line for each kind of boxes that were left out or clipped, with the first ones.
    """

    name: str
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: tuple[ImageBoxes, ...]
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)


def open_boxes(
    root: str | Path, split: str, *, classes: Sequence[str] = (), images: str | Path | None = None
) -> BoxSplit:
    """Read the annotations of a split.

    Boxes that are empty, inverted, not finite, outside of their image, or of a class that is not
    among `classes` are left out and named; those that are partly outside are clipped. Images are
    not opened, but for a size that is not annotated.

    Args:
        root: a folder in the layout of Pascal VOC (`Annotations`, `JPEGImages`,
            `ImageSets/Main/SPLIT.txt`) or of COCO (`annotations/instances_SPLIT.json`, or
            `SPLIT/_annotations.coco.json`, with the images in `SPLIT` or `images`); or a JSON file.
        split: name of the split, such as train, val or train2017.
        classes: names of the classes, in their order. If not given, all of a JSON file's
            categories, by their numbers; for VOC, all names in the split, sorted.
        images: the folder of the images, where it is another one.

    Raises:
        DataError: there is no such split, the annotations cannot be read, or no box of the split
            can be used.
    """
    path = Path(root)
    if path.is_dir() and (path / "Annotations").is_dir():
        annotated = _voc(path, split, images)
    else:
        annotated = _coco(_coco_file(path, split), path, split, images)
    names = tuple(classes) or annotated.classes
    checks = _Checks(split)
    kept = tuple(_checked(image, names, checks) for image in annotated.images)
    if not any(not each.crowd for image in kept for each in image.objects):
        why = f"; {checks.lines()[0]}" if checks.lines() else ""
        raise DataError(
            f"the {split} split of {root} must have a box that can be used, and has none in "
            f"{len(kept)} images{why}"
        )
    ids = dict(zip(annotated.classes, annotated.category_ids, strict=True))
    spare = max(ids.values(), default=0)
    category_ids = tuple(ids.get(name, spare + k) for k, name in enumerate(names, 1))
    return BoxSplit(split, names, category_ids, kept, tuple(checks.lines()))


# ---- what the files say, before any check


class _RawObject(NamedTuple):
    name: str
    box: tuple[float, ...]  # x1, y1, x2, y2
    area: float | None = None
    crowd: bool = False
    difficult: bool = False


class _RawImage(NamedTuple):
    id: int
    file: Path
    size: tuple[int, int] | None
    objects: list[_RawObject]


class _Raw(NamedTuple):
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: list[_RawImage]


def _coco_file(root: Path, split: str) -> Path:
    """Return the JSON file of a split."""
    if root.is_file():
        return root
    places = [
        root / "annotations" / f"instances_{split}.json",
        root / "annotations" / f"{split}.json",
        root / split / "_annotations.coco.json",
        root / f"{split}.json",
    ]
    there = next((place for place in places if place.is_file()), None)
    if there is None:
        tried = ", ".join(str(place.relative_to(root)) for place in places)
        raise DataError(
            f"{root} holds no annotations of a split {split!r}: neither {tried} nor the folders "
            "Annotations, ImageSets and JPEGImages of Pascal VOC"
        )
    return there


def _coco(file: Path, root: Path, split: str, images: str | Path | None) -> _Raw:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        categories = sorted((int(each["id"]), str(each["name"])) for each in content["categories"])
        listed = {int(each["id"]): each for each in content["images"]}
        objects: dict[int, list[_RawObject]] = {number: [] for number in listed}
        names = dict(categories)
        for each in content.get("annotations", ()):
            given = each.get("bbox") or (math.nan,) * 4
            x, y, width, height = (_number(value) for value in given)
            objects.setdefault(int(each["image_id"]), []).append(
                _RawObject(
                    names.get(int(each["category_id"]), f"category {each['category_id']}"),
                    (x, y, x + width, y + height),
                    _number(each["area"]) if "area" in each else None,
                    bool(each.get("iscrowd", 0)),
                )
            )
        missing = [number for number in objects if number not in listed]
        if len(listed) < len(content["images"]) or missing:
            what = f"boxes of image {missing[0]}, which is not listed" if missing else "twice an id"
            raise ValueError(f"it has {what}")
        folder = _images_of(root, split, file, images)
        raw = [
            _RawImage(number, folder / str(each["file_name"]), _size(each), objects[number])
            for number, each in listed.items()
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file} cannot be read as COCO's annotations: {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error
    return _Raw(
        tuple(name for _, name in categories), tuple(number for number, _ in categories), raw
    )


def _images_of(root: Path, split: str, file: Path, images: str | Path | None) -> Path:
    if images is not None:
        return Path(images)
    if root.is_file():
        return root.parent
    places = (root / split, root / "images" / split, root / "images", file.parent)
    return next((place for place in places if place.is_dir()), root)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    width, height = (_number(image.get(name)) for name in ("width", "height"))
    return (int(width), int(height)) if width >= 1 and height >= 1 else None


def _voc(root: Path, split: str, images: str | Path | None) -> _Raw:
    sets = root / "ImageSets" / "Main"
    listing = sets / f"{split}.txt"
    if not listing.is_file():
        there = ", ".join(sorted(path.stem for path in sets.glob("*.txt"))[:12]) or "none"
        raise DataError(f"{root} has no split {split!r}; its splits are: {there}")
    folder = root / "JPEGImages" if images is None else Path(images)
    names = [line.split()[0] for line in listing.read_text("utf-8").splitlines() if line.strip()]
    raw = [_voc_image(root, folder, name, number) for number, name in enumerate(names, 1)]
    classes = tuple(sorted({each.name for image in raw for each in image.objects}))
    return _Raw(classes, tuple(range(1, len(classes) + 1)), raw)


def _voc_image(root: Path, folder: Path, name: str, number: int) -> _RawImage:
    file = root / "Annotations" / f"{name}.xml"
    try:
        tree = ET.parse(file).getroot()
    except (OSError, ET.ParseError) as error:
        raise DataError(
            f"{file} cannot be read as VOC's annotation: {first_line(error)}"
        ) from error
    objects = []
    for each in tree.findall("object"):
        corners = each.find("bndbox")
        sides = ("xmin", "ymin", "xmax", "ymax")
        box = [_number(None if corners is None else corners.findtext(side)) for side in sides]
        difficult = each.findtext("difficult", "0").strip() == "1"
        objects.append(
            _RawObject(each.findtext("name", "").strip(), tuple(box), difficult=difficult)
        )
    given = tree.findtext("filename", "").strip()
    image = folder / given
    if not given or not image.is_file():
        matches = sorted(folder.glob(f"{name}.*"))
        image = matches[0] if matches else folder / f"{name}.jpg"
    size = {side: tree.findtext(f"size/{side}") for side in ("width", "height")}
    return _RawImage(number, image, _size(size), objects)


# ---- checks


@final
@dataclass
class _Checks:
    """What is wrong with boxes: kind -> the first ones, and how many."""

    split: str
    seen: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, image: _RawImage, raw: _RawObject) -> None:
        box = ", ".join(f"{value:g}" for value in raw.box)
        self.seen.setdefault(kind, []).append(f"{image.file.name}: {raw.name} [{box}]")

    def lines(self) -> list[str]:
        return [
            f"{self.split}: {len(examples)} {'box' if len(examples) == 1 else 'boxes'} {kind}: "
            f"{'; '.join(examples[:_SEVERAL])}{'; ...' * (len(examples) > _SEVERAL)}"
            for kind, examples in self.seen.items()
        ]


def _wrong(raw: _RawObject, size: tuple[int, int], names: Sequence[str]) -> str | None:
    """Return why a box cannot be used, None if it can."""
    x1, y1, x2, y2 = raw.box
    if raw.name not in names:
        return "of no known class left out"
    if not all(map(math.isfinite, raw.box)):
        return "with sides that are no numbers left out"
    if x2 < x1 or y2 < y1:
        return "with corners the wrong way round left out"
    if x2 == x1 or y2 == y1:
        return "without an area left out"
    if x2 <= 0 or y2 <= 0 or x1 >= size[0] or y1 >= size[1]:
        return "outside of the image left out"
    return None


def _checked(image: _RawImage, names: Sequence[str], checks: _Checks) -> ImageBoxes:
    size = image.size
    if size is None and image.objects:
        size = _opened_size(image.file)
    objects = []
    for raw in image.objects:
        edges = size or (math.inf, math.inf)  # of an image that cannot be read
        wrong = _wrong(raw, edges, names)  # type: ignore[arg-type]
        if wrong is not None:
            checks.add(wrong, image, raw)
            continue
        x1, y1, x2, y2 = raw.box
        box = max(0.0, x1), max(0.0, y1), min(float(edges[0]), x2), min(float(edges[1]), y2)
        area = raw.area
        if box != raw.box:
            checks.add("partly outside of the image clipped", image, raw)
            area = None
        area = (box[2] - box[0]) * (box[3] - box[1]) if area is None else area
        label = names.index(raw.name) + 1
        objects.append(Object(label, box, area, raw.crowd, raw.difficult))
    return ImageBoxes(image.id, image.file, size, tuple(objects))


def _opened_size(file: Path) -> tuple[int, int] | None:
    from senet.training.data import opened_image

    try:
        return opened_image(file).size
    except Exception:  # noqa: BLE001 - it is named when it is to be read
        return None
