"""The project's networks in timm's registry: `timm.create_model("se_resnet50.senet")`.

timm knows a network by a function in a module, and by a `pretrained_cfg` for each tag. The
functions are made here, one for each name of the project; the tag is `senet`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import Any

from torch import nn

from senet.errors import ConfigError, DataError, optional
from senet.insertion import SEConfig
from senet.models.families import NETWORKS
from senet.models.libraries import OURS
from senet.models.registry import create_model
from senet.models.weights.preprocess import CAFFE, CIFAR

__all__ = ["register_with_timm", "timm_description", "timm_names"]

_TAG = "senet"
_PAPER = {"paper_ids": "arXiv:1709.01507", "paper_name": "Squeeze-and-Excitation Networks"}

# plain name: (first convolution, classifier), where they are not ("conv1", "fc")
_ENDS = {
    "resnet20": ("conv1", "linear"),
    "resnet32": ("conv1", "linear"),
    "resnet44": ("conv1", "linear"),
    "resnet56": ("conv1", "linear"),
    "resnet110": ("conv1", "linear"),
    "senet154_plain": ("conv1.0", "fc"),
    "bn_inception": ("conv1.conv", "classifier"),
    "vgg16_bn": ("features.0", "head.fc"),
    "inception_v3": ("Conv2d_1a_3x3.conv", "fc"),
    "inception_resnet_v2": ("conv2d_1a.conv", "classif"),
    "mobilenet_v1": ("conv_stem", "classifier"),
    "densenet121": ("features.conv0", "classifier"),
}
# size of the image: of the last map
_LAST_MAPS = {32: (8, 8), 224: (7, 7), 299: (8, 8)}
# options of timm's networks that these do not have
_NOT_OURS = (
    *("drop_block_rate", "output_stride", "img_size", "act_layer", "norm_layer"),
    *("aa_layer", "stem_type", "stem_width", "block_args", "zero_init_last"),
)
# plain names of networks that keep their layers one level down, in an nn.Sequential
_NESTED = ("vgg16_bn", "mobilenet_v1", "densenet121")


def register_with_timm() -> dict[str, str]:
    """Register the project's networks with timm, once; further calls change nothing.

    A name that timm has already keeps its meaning: the project's network is then `senet_NAME` there
    (`senet_resnet50`, `senet_senet154`). All take timm's options (`features_only`, `out_indices`,
    `num_classes`, `in_chans`, `global_pool`, `drop_rate`; residual networks `drop_path_rate`) and
    `se` and `layout` of `senet.create_model`. Their `pretrained_cfg` describes the images of the
    authors' models.
    No weights are behind the names: load them with `senet.load_weights`, or give timm a file with
    `pretrained_cfg_overlay={"file": ...}`.

    Returns:
        The name in timm -> the name in `senet.create_model`.

    Raises:
        MissingPackageError: timm is not installed.

    Example:
        >>> import timm
        >>> names = register_with_timm()
        >>> names["se_resnet50"], names["senet_resnet50"]
        ('se_resnet50', 'resnet50')
        >>> timm.create_model("se_resnet20.senet", num_classes=5).get_classifier()
        Linear(in_features=64, out_features=5, bias=True)
    """
    with optional("senet.register_with_timm"):
        from timm.models import generate_default_cfgs, register_model

    names = timm_names()
    if OURS in sys.modules:
        return names
    # timm looks a function's module up by name and writes to its `__all__`
    home = ModuleType(OURS, "The networks of senet, for timm's registry.")
    described: dict[str, Any] = {
        f"{entry}.{_TAG}": timm_description(name) for entry, name in names.items()
    }
    home.default_cfgs = generate_default_cfgs(described)  # type: ignore[attr-defined]
    home.names = names  # type: ignore[attr-defined]
    sys.modules[OURS] = home
    for entry, name in names.items():
        register_model(_entry(entry, name))
    return names


def timm_names() -> dict[str, str]:
    """Return the name in timm -> the name in `senet.create_model`; registers nothing."""
    home = sys.modules.get(OURS)
    if home is not None:
        return dict(home.names)
    with optional("the names of this project's networks in timm"):
        import timm

    return {(f"senet_{name}" if timm.is_model(name) else name): name for name in NETWORKS}


def timm_description(name: str) -> dict[str, Any]:
    """Return timm's `pretrained_cfg`: the images, and the names of the first and last layers."""
    network = NETWORKS[name]
    size = network.family.input_size
    small = size[1] == 32
    images = CIFAR if small else CAFFE
    first, last = _ENDS.get(network.plain, ("conv1", "fc"))
    return {
        "num_classes": network.family.num_classes,
        "input_size": size,
        "pool_size": _LAST_MAPS[size[1]],
        **images.for_timm(),
        "crop_pct": 1.0 if small else 0.875 if size[1] == 224 else size[1] / 352,
        "first_conv": first,
        "classifier": last,
        **_PAPER,
    }


def _entry(entry: str, name: str) -> Callable[..., nn.Module]:
    """Return the function that timm calls, under the name it is registered with."""

    def build(pretrained: bool = False, **options: Any) -> nn.Module:  # noqa: FBT001, FBT002
        return _create(entry, name, pretrained=pretrained, **options)

    build.__name__ = build.__qualname__ = entry
    build.__module__ = OURS
    build.__doc__ = f"senet.create_model({name!r})"
    return build


def _create(entry: str, name: str, *, pretrained: bool, **options: Any) -> nn.Module:
    from timm.models import build_model_with_cfg

    for option in (each for each in _NOT_OURS if options.pop(each, None) is not None):
        raise ConfigError(
            f"{entry} takes no {option}: of timm's options it has global_pool, drop_rate, "
            "drop_path_rate, features_only and out_indices; leave it out, or take timm's own "
            "network"
        )
    overlay = options.get("pretrained_cfg_overlay") or {}
    own = options.get("pretrained_cfg")
    given = {**(own if isinstance(own, Mapping) else {}), **overlay}
    if pretrained and not any(given.get(key) for key in ("file", "url", "hf_hub_id", "source")):
        raise DataError(
            f"timm has no weights for {entry}; build it with pretrained=False and call "
            'senet.load_weights(model, source), or give pretrained_cfg_overlay={"file": path}'
        )
    family = NETWORKS[name].family
    count = 3 if family.input_size[1] == 32 else 5
    network: nn.Module = build_model_with_cfg(
        partial(_network, name),
        entry,
        pretrained,
        feature_cfg={
            "out_indices": tuple(range(count)),
            "flatten_sequential": NETWORKS[name].plain in _NESTED,
        },
        **options,
    )
    return network


def _network(
    name: str,
    *,
    num_classes: int,
    in_chans: int = 3,
    global_pool: str = "avg",
    drop_rate: float | None = None,
    drop_path_rate: float | None = None,
    se: SEConfig | Mapping[str, Any] | None = None,
    layout: str | None = None,
) -> nn.Module:
    """Build a network with the options that timm's users give."""
    model: Any = create_model(
        name,
        num_classes=num_classes,
        in_chans=in_chans,
        se=se,
        layout=layout,
        drop_path_rate=drop_path_rate or 0.0,
    )
    if global_pool != "avg":
        model.reset_classifier(num_classes, global_pool)
    if drop_rate is not None:
        _set_drop_rate(model, drop_rate)
    return model  # type: ignore[no-any-return]


def _set_drop_rate(model: nn.Module, rate: float) -> None:
    """Change the dropout before the classifier; there is no other in these networks."""
    if hasattr(model, "drop_rate"):
        setattr(model, "drop_rate", rate)  # noqa: B010 - not an attribute of every nn.Module
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
