"""A network without its classifier, that returns maps of several resolutions: a backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from senet.errors import ConfigError, optional
from senet.insertion import SEConfig
from senet.models.nets.classifier import Classifier
from senet.models.registry import create_model
from senet.models.resolutions import by_resolution

__all__ = ["backbone", "features_of"]

# timm's networks that keep their layers one level down, in an nn.Sequential of this name
_NESTED = ("features", "blocks")


def backbone(
    network: str | nn.Module,
    *,
    out_indices: Sequence[int] | None = None,
    in_chans: int = 3,
    se: SEConfig | Mapping[str, Any] | None = None,
    layout: str | None = None,
) -> nn.Module:
    """Return a network that maps an image to the last maps of some of its resolutions.

    It is what timm's `features_only=True` gives: a module whose output is the list of maps, finest
    first, and whose `feature_info` has `channels()`, `reduction()` (how many times smaller than the
    image) and `module_name()`. What comes behind the last map that is asked for is left out. The
    names of parameters stay, with two exceptions: where a network has its layers in one sequence,
    they have one level less (`features_0.weight`); and where its stages are nested deeper, as in
    timm's ConvNeXt, ResNetV2, VoVNet and HRNet, its own forward runs, below the name `model`.

    A network without `feature_info`, as torchvision's, runs once on an image of zeros: the last
    layer of each resolution gives the map.

    Args:
        network: a name of this project's networks; or a network, with weights perhaps. Its modules
            are used, not copied, so it should not be used any more.
        out_indices: which resolutions, 0 for the finest; negative ones count from the coarsest. All
            if not given.
        in_chans: channels of the image, for a name.
        se: see `senet.create_model`, for a name.
        layout: see `senet.create_model`, for a name.

    Raises:
        ConfigError: an index that the network does not have, or a network whose stages cannot be
            found: it says nothing of them, and does not run its layers one behind the other.
        UnknownNameError: there is no such network.
        MissingPackageError: timm is not installed, which takes a network apart into stages.

    Example:
        >>> import torch
        >>> body = backbone("se_resnet20", out_indices=(1, 2))
        >>> [tuple(each.shape) for each in body(torch.zeros(1, 3, 32, 32))]
        [(1, 32, 16, 16), (1, 64, 8, 8)]
        >>> body.feature_info.channels(), body.feature_info.reduction()
        ([32, 64], [2, 4])
    """
    if isinstance(network, str):
        network = create_model(network, num_classes=0, in_chans=in_chans, se=se, layout=layout)
    return features_of(network, out_indices)


def features_of(network: nn.Module, out_indices: Sequence[int] | None = None) -> nn.Module:
    """Return the backbone of a network; see `backbone`."""
    with optional("senet.backbone"):
        from timm.models import FeatureListNet
        from timm.models._features import FeatureGetterNet

    known: Any = getattr(network, "feature_info", None)
    if not isinstance(known, Sequence):
        network = layers = by_resolution(network)
        known = layers.feature_info
    count = len(known)
    wanted = range(count) if out_indices is None else out_indices
    for index in wanted:
        if not -count <= index < count:
            raise ConfigError(
                f"out_indices must be from 0 to {count - 1} for this {type(network).__name__}, "
                f"got {tuple(wanted)}"
            )
    indices = tuple(sorted(index % count for index in wanted))
    body: nn.Module
    modules = [known[index]["module"] for index in indices]
    if _in_reach(network, modules, flat=nested(network)):
        body = FeatureListNet(network, indices, flatten_sequential=nested(network))
    elif hasattr(network, "forward_intermediates"):
        body = FeatureGetterNet(network, indices)
    else:
        raise ConfigError(
            f"the stages of this {type(network).__name__} ({', '.join(modules)}) must be its "
            "children, or the network must have timm's forward_intermediates; try a newer timm"
        )
    return body


def nested(network: nn.Module) -> bool:
    """Return whether the modules of `feature_info` are one level below the network's children."""
    return not isinstance(network, Classifier) and any(hasattr(network, name) for name in _NESTED)


def _in_reach(network: nn.Module, modules: Sequence[str], *, flat: bool) -> bool:
    """Whether timm's list of layers reaches the modules; it runs the children in their order.

    Those are the network's own, or with `flat` those of a sequence among them. A list of modules in
    between has no forward of its own.
    """
    reached: set[str] = set()
    for name, child in network.named_children():
        if type(child) in (nn.ModuleList, nn.ModuleDict):
            break
        if flat and isinstance(child, nn.Sequential):
            reached |= {f"{name}.{inner}" for inner, _ in child.named_children()}
        else:
            reached.add(name)
    return reached.issuperset(modules)
