"""Detectors in files of other engines: written whole, run there, and their boxes compared."""

from __future__ import annotations

import copy
import tempfile
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet import __version__
from senet.deploy import Loaded, deploy, load_exported
from senet.deploy.exporting import move, target_of
from senet.deploy.traced_files import write_traced
from senet.detection.config import DetectConfig
from senet.detection.detector_runs import TrainedDetector
from senet.errors import DataError, ExportError, InputError
from senet.schema import Record

__all__ = ["DetectorFile", "export_detector", "load_exported_detector"]

SCHEMA = "senet.detector/1"
_OUTPUTS = ("boxes", "labels", "scores")
# What is taken for rounding: of an image's longer side, and of a score.
_SIDE, _SCORE = 1e-3, 1e-3
# The least share of boxes that both must find. Where two boxes overlap as much as is allowed, or a
# score is at its limit, a rounding decides.
_SHARE = 0.98


@final
@dataclass(frozen=True)
class DetectorFile(Record):
    """What was written, and how its boxes compare with PyTorch's.

    Attributes:
        path: the file.
        engine: the engine that ran it, with its version.
        nodes: operators in the file.
        images: how many images were compared.
        boxes: how many boxes PyTorch found in them.
        same_boxes: the share of the boxes of both that the other has as well, of the same class,
            their sides within 1e-3 of the image's longer side and their scores within 1e-3; boxes
            as low in score as the lowest that are returned do not count.
        pixels: the largest difference of a side between such boxes.
    """

    schema = SCHEMA

    path: str
    engine: str
    nodes: int
    images: int
    boxes: int
    same_boxes: float
    pixels: float


def export_detector(
    trained: TrainedDetector, path: str | Path, images: Sequence[Tensor]
) -> DetectorFile:
    """Write a whole detector, from pixels to boxes, for ONNX Runtime or OpenVINO; compare it there.

    The file takes one image [3, H, W] in [0, 1] of any size, and returns boxes [n, 4] in its
    pixels, labels [n] from 1 on, and scores [n]. It scales the image, squeezes over the image's own
    pixels, and suppresses overlapping boxes, as the detector does. (In the rounding of the scaled
    size, torchvision makes some images a pixel shorter than they should be; OpenVINO files do not.)

    Args:
        trained: the detector; it is not touched.
        path: NAME.onnx or NAME.xml (with NAME.bin beside it).
        images: on which both are compared, [3, H, W] in [0, 1], one at least.

    Raises:
        ExportError: another format, a network that cannot be traced, or a file whose boxes are
            not the detector's; no file is left then, and one that was there before stays.
        MissingPackageError: the engine is not installed.
        UnknownNameError: the name of the file has an ending of no engine.

    Source: docs/detection.md.
    """
    target, engine = target_of(path)
    if engine.name not in ("onnx", "openvino"):
        raise ExportError(
            "a detector is written as NAME.onnx or NAME.xml: torch.export, which writes "
            f"{engine.suffix}, cannot follow how many boxes there are; for {engine.suffix} export "
            "the backbone, senet.export(trained.net.backbone.body, ...)"
        )
    if not images:
        raise InputError("a detector is compared on images, and none was given")
    # OpenVINO takes no size that was computed in floating point
    given, resize = copy.deepcopy(trained.net).eval(), _resize
    if engine.name == "openvino":
        given, resize = _resizing(given, _resize_exactly), _resize_exactly
    net = _resizing(deploy(trained.net, ([images[0]],)), resize)
    metadata = {
        "schema": SCHEMA,
        "senet": __version__,
        "classes": list(trained.classes),
        "config": trained.config.to_dict(),
    }
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / target.name
        write_traced(_OneImage(net), images[0], written, _OUTPUTS, metadata)
        loaded = load_exported(written)
        report = _compared(given, loaded, images, target)
        if report.same_boxes < _SHARE:
            raise ExportError(
                f"the exported file must find the detector's boxes, but in {loaded.version} "
                f"{100 * report.same_boxes:.0f} % of {report.boxes} are the same; {target} was not "
                "written"
            )
        move(engine, written, target)
    return report


@final
class _OneImage(nn.Module):
    """An image [3, H, W] to its boxes, labels and scores."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        [detected] = self.net([image])
        return tuple(detected[name] for name in _OUTPUTS)


def _resizing(net: Any, resize: Callable[..., Any]) -> Any:
    """Return the detector, whose transform scales images by a function from now on."""
    net.transform.resize = types.MethodType(resize, net.transform)
    return net


def _resize(transform: Any, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
    """Scale an image as torchvision does outside of a trace, in which it computes in float32."""
    shape = torch._shape_as_tensor(image)[-2:].double()
    sides = torch.tensor((transform.min_size[-1], transform.max_size), dtype=shape.dtype)
    scale = (sides / torch.stack((shape.min(), shape.max()))).min()
    return _scaled(image, torch.floor(shape * scale).long()), target


def _resize_exactly(transform: Any, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
    """Scale an image to the size that float64 would give without rounding, in integers alone."""
    shape = torch._shape_as_tensor(image)[-2:]
    sides = torch.tensor((transform.min_size[-1], transform.max_size))
    shorter = sides[0] * shape.max() <= sides[1] * shape.min()  # it sets the scale
    own = torch.where(shorter, shape.min(), shape.max())
    return _scaled(image, shape * torch.where(shorter, sides[0], sides[1]) // own), target


def _scaled(image: Tensor, size: Tensor) -> Tensor:
    height, width = size  # which a trace keeps as variables
    return F.interpolate(image[None], (height, width), mode="bilinear", align_corners=False)[0]


@torch.no_grad()
def _compared(
    net: nn.Module, loaded: Loaded, images: Sequence[Tensor], target: Path
) -> DetectorFile:
    """Run the detector and the file on the same images.

    Where the lowest scores are alike, it is a rounding which of their boxes are returned: those are
    not compared.
    """
    boxes, same, total, pixels = 0, 0, 0, 0.0
    for image in images:
        [expected] = net([image])
        pair = [[expected[name].cpu() for name in _OUTPUTS], loaded.run(image.cpu())]
        lowest = max((float(scores.min()) for *_, scores in pair if len(scores)), default=0.0)
        alike, apart = _alike(*pair, side=max(image.shape[-2:]))
        for scores, partners in zip((pair[0][2], pair[1][2]), (alike, alike.t()), strict=True):
            counted = scores > lowest + _SCORE
            same += int(partners[counted].any(1).sum())
            total += int(counted.sum())
        boxes += len(pair[0][0])
        pixels = max(pixels, float(apart[alike].max())) if alike.any() else pixels
    place = str(target), loaded.version, loaded.nodes, len(images)
    return DetectorFile(*place, boxes, same / total if total else 1.0, pixels)


def _alike(ours: list[Tensor], theirs: list[Tensor], *, side: int) -> tuple[Tensor, Tensor]:
    """Return which boxes are the same [n, m], and how many pixels apart their sides are at most."""
    apart = (ours[0][:, None] - theirs[0][None]).abs().amax(2)
    alike = apart <= _SIDE * side
    alike &= ours[1][:, None] == theirs[1][None]
    return alike & ((ours[2][:, None] - theirs[2][None]).abs() <= _SCORE), apart


@final
class _InEngine(nn.Module):
    """An exported detector, called as torchvision's are."""

    def __init__(self, loaded: Loaded) -> None:
        super().__init__()
        self.loaded = loaded

    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        outputs = (self.loaded.run(image.cpu().contiguous()) for image in images)
        return [
            {name: t.to(image.device) for name, t in zip(_OUTPUTS, each, strict=True)}
            for image, each in zip(images, outputs, strict=True)
        ]


def load_exported_detector(path: str | Path) -> TrainedDetector:
    """Return the detector in a file of `export_detector`, to be used as that of a run.

    Raises:
        DataError: no such file, or it is of something else.
        MissingPackageError: its engine is not installed.
    """
    loaded = load_exported(path)
    try:
        classes = tuple(loaded.metadata["classes"])
        config = DetectConfig.from_dict(loaded.metadata["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} must be a detector that `senet export` wrote, but does not say its classes "
            "and configuration; export the run again"
        ) from error
    return TrainedDetector(_InEngine(loaded).eval(), classes, config)
