"""torchvision's detectors on any backbone that `senet.backbone` gives."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from senet.detection.frozen import freeze_batchnorm
from senet.detection.pyramid import (
    Pyramid,
    SingleMap,
    freeze_stages,
    mask_padding_in,
    split_at,
)
from senet.detection.source_network import classifier_for, is_run
from senet.errors import ConfigError, unknown_name
from senet.insertion import SEConfig, convert_sync_batchnorm
from senet.models.features import features_of

__all__ = ["NECKS", "NORMS", "faster_rcnn", "mask_rcnn", "retinanet"]

NECKS = {
    "fpn": "a feature pyramid on the maps 4, 8, 16 and 32 times smaller than the image",
    "c4": "the map 16 times smaller alone; the layers behind it are the head of the boxes",
}
NORMS = {
    "frozen": "fixed statistics, gammas and betas",
    "train": "trained, with the statistics of the batch of each device",
    "sync": "trained, with the statistics of the batch of all devices",
}
_SIZES = (32, 64, 128, 256, 512)  # of anchors, one per level
_RATIOS = (0.5, 1.0, 2.0)  # height to width
Anchors = Sequence[float] | Sequence[Sequence[float]] | None


def faster_rcnn(
    network: str | nn.Module,
    num_classes: int,
    *,
    se: SEConfig | Mapping[str, Any] | None = None,
    weights: str | os.PathLike[str] | None = None,
    neck: str = "fpn",
    norm: str | None = None,
    trainable_stages: int | None = None,
    anchors: Anchors = None,
    ratios: Sequence[float] = _RATIOS,
    min_size: int | Sequence[int] = 800,
    max_size: int = 1333,
    out_channels: int = 256,
    box_width: int = 1024,
    mask_padding: bool = True,
    **options: Any,
) -> FasterRCNN:
    """Return torchvision's Faster R-CNN on a backbone with or without SE blocks.

    It is called as torchvision's detectors are: a list of images [3, H, W] in [0, 1], and in
    training a list of targets {"boxes": [n, 4] as (x1, y1, x2, y2) in pixels, "labels": [n] from 1
    on}; in training it returns the losses, else {"boxes", "labels", "scores"} per image.

    Args:
        network: a name that `senet.create_model` takes; a network, with weights perhaps and used,
            not copied; or the folder of a run of `senet train`.
        num_classes: of the objects and the background, class 0, as in torchvision.
        se: blocks for a network that has none by its name, put in where `senet.insert` finds sites,
            after its weights are loaded; or what differs in those of a name with SE.
        weights: for a name: what `senet.load_weights` takes, or the folder of a run of
            `senet train`; the last layer is left out.
        neck: "fpn" or "c4"; see NECKS.
        norm: batch norms are "frozen", "train" or "sync"; see NORMS. If not given, frozen for a
            network with weights (given as a module, a run, or by `weights`), else trained.
        trainable_stages: how many resolutions of the backbone are trained, from the last; the
            others are held, their batch norms frozen. If not given, 3 with weights, else all.
        anchors: sizes of the anchors in pixels, one or several for each level, the finest first;
            32, 64, 128, 256, 512 if not given. For "c4", all sizes of the one level.
        ratios: heights to widths of the anchors.
        min_size: length of the shorter side of an image; of several one is drawn in training.
        max_size: of the longer side.
        out_channels: of the levels of the pyramid.
        box_width: of the two layers of the box head; "c4" has its layers in their place.
        mask_padding: squeeze each image of a padded batch over its own pixels.
        **options: of torchvision's `FasterRCNN`, such as `box_detections_per_img`.

    Raises:
        ConfigError: an option that cannot be, or a network that cannot have it.
        DataError: weights that do not fit.
        SenetError: no such network, or no place for SE blocks.

    Source: S. Ren et al., "Faster R-CNN"; T.-Y. Lin et al., "Feature Pyramid Networks for Object
        Detection"; the SENet paper, table 7.

    Example:
        >>> import torch
        >>> detector = faster_rcnn("se_resnet20", 3, min_size=64, max_size=96, neck="c4",
        ...     anchors=(16, 32), box_width=64)
        Traceback (most recent call last):
        ...
        senet.errors.ConfigError: neck 'c4' needs maps 16 and 32 times smaller than the image, ...
        >>> detector = faster_rcnn("se_resnet18", 3, min_size=64, max_size=96, box_width=64).eval()
        >>> sorted(detector([torch.rand(3, 64, 80)])[0])
        ['boxes', 'labels', 'scores']
    """
    if neck not in NECKS:
        raise unknown_name("neck", neck, NECKS)

    def stand(body: nn.Module) -> tuple[nn.Module, dict[str, Any]]:
        if neck == "c4":
            base, head, wide = _single_map(body)
            sizes: list[Any] = [tuple(_SIZES if anchors is None else anchors)]
            pool = MultiScaleRoIAlign(["0"], 14, 2)
        else:
            base = _pyramid(body, out_channels, LastLevelMaxPool())
            sizes = _per_level(_SIZES if anchors is None else anchors, base.levels + 1)
            pool = MultiScaleRoIAlign([str(k) for k in range(base.levels)], 7, 2)
            head, wide = TwoMLPHead(out_channels * 7 * 7, box_width), box_width
        return base, {
            "rpn_anchor_generator": _anchors(sizes, ratios),
            "box_roi_pool": pool,
            "box_head": head,
            "box_predictor": FastRCNNPredictor(wide, num_classes),
        }

    shared: dict[str, Any] = {"se": se, "weights": weights, "norm": norm}
    shared |= {"trainable_stages": trainable_stages}
    shared |= {"min_size": min_size, "max_size": max_size, "mask_padding": mask_padding}
    return _detector(FasterRCNN, network, stand, **shared, **options)


def mask_rcnn(
    network: str | nn.Module,
    num_classes: int,
    *,
    anchors: Anchors = None,
    ratios: Sequence[float] = _RATIOS,
    out_channels: int = 256,
    **options: Any,
) -> MaskRCNN:
    """Return torchvision's Mask R-CNN on a backbone with or without SE blocks, on a pyramid.

    Args:
        network: see `faster_rcnn`.
        num_classes: with the background.
        anchors: see `faster_rcnn`.
        ratios: see `faster_rcnn`.
        out_channels: of the levels of the pyramid.
        **options: `se`, `weights`, `norm`, `trainable_stages`, `min_size`, `max_size` and
            `mask_padding` of `faster_rcnn`; and of torchvision's `MaskRCNN`.

    Raises:
        ConfigError: an option that cannot be, or a network that cannot have it.
    """

    def stand(body: nn.Module) -> tuple[nn.Module, dict[str, Any]]:
        base = _pyramid(body, out_channels, LastLevelMaxPool())
        sizes = _per_level(_SIZES if anchors is None else anchors, base.levels + 1)
        names = [str(k) for k in range(base.levels)]
        return base, {
            "num_classes": num_classes,
            "rpn_anchor_generator": _anchors(sizes, ratios),
            "box_roi_pool": MultiScaleRoIAlign(names, 7, 2),
            "mask_roi_pool": MultiScaleRoIAlign(names, 14, 2),
        }

    return _detector(MaskRCNN, network, stand, **options)


def retinanet(
    network: str | nn.Module,
    num_classes: int,
    *,
    anchors: Anchors = None,
    ratios: Sequence[float] = _RATIOS,
    out_channels: int = 256,
    **options: Any,
) -> RetinaNet:
    """Return torchvision's RetinaNet on a backbone with or without SE blocks.

    Its pyramid begins with the map 8 times smaller and has two coarser levels.

    Args:
        network: see `faster_rcnn`.
        num_classes: with the background.
        anchors: see `faster_rcnn`; if not given, three sizes for each level from 32 px on.
        ratios: see `faster_rcnn`.
        out_channels: of the levels of the pyramid.
        **options: `se`, `weights`, `norm`, `trainable_stages`, `min_size`, `max_size` and
            `mask_padding` of `faster_rcnn`; and of torchvision's `RetinaNet`.

    Raises:
        ConfigError: an option that cannot be, or a network that cannot have it.
    """
    thirds = [[round(size * 2 ** (k / 3)) for k in range(3)] for size in _SIZES]

    def stand(body: nn.Module) -> tuple[nn.Module, dict[str, Any]]:
        extra = LastLevelP6P7(out_channels, out_channels)
        base = _pyramid(body, out_channels, extra, finest=8)
        sizes = _per_level(thirds if anchors is None else anchors, base.levels + 2)
        return base, {"num_classes": num_classes, "anchor_generator": _anchors(sizes, ratios)}

    return _detector(RetinaNet, network, stand, **options)


# ---- the parts


def _detector(
    kind: Callable[..., Any],
    network: str | nn.Module,
    stand: Callable[[nn.Module], tuple[nn.Module, dict[str, Any]]],
    *,
    se: SEConfig | Mapping[str, Any] | None = None,
    weights: str | os.PathLike[str] | None = None,
    norm: str | None = None,
    trainable_stages: int | None = None,
    min_size: int | Sequence[int] = 800,
    max_size: int = 1333,
    mask_padding: bool = True,
    **options: Any,
) -> Any:
    """Return a detector of torchvision's class `kind`; `stand` gives its backbone and its parts."""
    with_weights = weights is not None or isinstance(network, nn.Module) or is_run(network)
    norm = norm or ("frozen" if with_weights else "train")
    if norm not in NORMS:
        raise unknown_name("norm", norm, NORMS)
    net, (mean, std) = classifier_for(network, se, weights)
    body = features_of(net)
    held = freeze_stages(body, trainable_stages, default=3 if with_weights else None)
    freeze_batchnorm(body, only=None if norm == "frozen" else held)
    if norm == "sync":
        convert_sync_batchnorm(body)
    base, parts = stand(body)
    sizes = {"min_size": min_size, "max_size": max_size}
    normal = {"image_mean": list(mean), "image_std": list(std)}
    detector = kind(base, **parts, **sizes, **{**normal, **options})
    return mask_padding_in(detector) if mask_padding else detector


def _reductions(body: Any) -> list[int]:
    return [int(info["reduction"]) for info in body.feature_info.info]


def _pyramid(body: nn.Module, out_channels: int, extra: Any, *, finest: int = 4) -> Pyramid:
    chosen = [k for k, reduction in enumerate(_reductions(body)) if reduction >= finest]
    if len(chosen) < 2:
        raise ConfigError(
            f"neck 'fpn' needs two maps at least {finest} times smaller than the image, and those "
            f"of this network are {_reductions(body)} times smaller; take a network for images of "
            "224 px"
        )
    channels = [int(body.feature_info.info[k]["num_chs"]) for k in chosen]  # type: ignore[union-attr,index]
    return Pyramid(body, chosen, channels, out_channels, extra)


def _single_map(body: nn.Module) -> tuple[nn.Module, nn.Module, int]:
    """Return the layers up to the map 16 times smaller, those behind it as a head, its channels."""
    reductions = _reductions(body)
    if 16 not in reductions or reductions[-1] <= 16:
        raise ConfigError(
            "neck 'c4' needs maps 16 and 32 times smaller than the image, and those of this "
            f"network are {reductions} times smaller; take a network for images of 224 px"
        )
    index = reductions.index(16)
    info = body.feature_info.info  # type: ignore[union-attr]
    front, rest = split_at(body, index)
    head = nn.Sequential(rest, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return SingleMap(front, int(info[index]["num_chs"])), head, int(info[-1]["num_chs"])  # type: ignore[index]


def _per_level(sizes: Any, levels: int) -> list[tuple[float, ...]]:
    """Return the sizes of the anchors of each level."""
    several = [tuple(each) if isinstance(each, Sequence) else (each,) for each in sizes]
    if len(several) < levels or (len(several) > levels and several != [(s,) for s in _SIZES]):
        raise ConfigError(
            f"anchors must have sizes for {levels} levels, got {len(several)}: {list(sizes)}"
        )
    return several[:levels]


def _anchors(sizes: Sequence[tuple[float, ...]], ratios: Sequence[float]) -> AnchorGenerator:
    return AnchorGenerator(tuple(sizes), (tuple(ratios),) * len(sizes))
