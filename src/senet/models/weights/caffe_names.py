"""The layers of the authors' Caffe models as a state dict with PyTorch's names and conventions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from senet.errors import DataError
from senet.models.weights.caffe import CaffeLayer, read_layers

__all__ = ["read_caffe", "sorted_rows", "state_of"]

_EPS = 1e-5  # of the authors' batch norms, which is Caffe's default and PyTorch's
_CONVS = {"1x1_reduce": "1", "3x3": "2", "1x1_increase": "3"}
_SE = {"down": "se.fc1", "up": "se.fc2"}

# The name of a convolution -> the names here of it and of its batch norm ("": it has none). Batch
# norms are called NAME/bn, their gamma and beta NAME/bn/scale.
_Names = tuple[str, str]
_RESNET: dict[str, _Names] = {
    "conv1/7x7_s2": ("conv1", "bn1"),
    "conv1_1/3x3_s2": ("conv1.0", "conv1.1"),
    "conv1_2/3x3": ("conv1.3", "conv1.4"),
    "conv1_3/3x3": ("conv1.6", "bn1"),
    "classifier": ("fc", ""),
}
_INCEPTION: dict[str, _Names] = {
    "conv1/7x7_s2": ("conv1.conv", "conv1.bn"),
    "conv2/3x3_reduce": ("conv2_reduce.conv", "conv2_reduce.bn"),
    "conv2/3x3": ("conv2.conv", "conv2.bn"),
    "classifier": ("fc", ""),
}


def _residual(stage: str, block: str, part: str) -> _Names:
    path = f"layer{int(stage) - 1}.{int(block) - 1}"
    if part in _SE:
        return f"{path}.{_SE[part]}", ""
    if part == "1x1_proj":
        return f"{path}.downsample.0", f"{path}.downsample.1"
    return f"{path}.conv{_CONVS[part]}", f"{path}.bn{_CONVS[part]}"


def _inception(module: str, part: str) -> _Names:
    if part in _SE:
        return f"{module}.{_SE[part]}", ""
    path = f"{module}.{'conv' + part if part[0].isdigit() else part}"
    return f"{path}.conv", f"{path}.bn"


# The same for the names with numbers in them; the groups of a pattern are the function's arguments.
_PATTERNS: tuple[tuple[str, Callable[..., _Names]], ...] = (
    (r"conv([2-5])_(\d+)_(1x1_reduce|3x3|1x1_increase|1x1_proj)", _residual),
    (r"conv([2-5])_(\d+)_1x1_(down|up)", _residual),
    (r"(inception_\d[a-e])/((?:double)?\dx\d(?:_reduce|[ab])?|pool_proj)", _inception),
    (r"(inception_\d[a-e])_1x1_(down|up)", _inception),
)


def read_caffe(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a Caffe model of the authors for images in RGB and classes in the sorted order.

    The input channels of the first convolution are turned from BGR to RGB and the rows of a
    classifier of 1000 classes are put into the sorted order; nothing else is changed. What the
    images must then be: `senet.models.weights.CAFFE`.

    Args:
        path: the `.caffemodel`.

    Returns:
        Name -> tensor; and name -> where in the file it stands.

    Raises:
        DataError: the file is cut off, broken, or not of one of the authors' networks.
    """
    return state_of(read_layers(path), str(path))


def state_of(layers: Iterable[CaffeLayer], source: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the state dict of layers, and where each tensor comes from; see `read_caffe`."""
    layers = list(layers)
    inception = any(layer.name.startswith("inception_") for layer in layers)
    fixed = _INCEPTION if inception else _RESNET
    state: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for layer in layers:
        for name, tensor in _tensors(layer, fixed, source).items():
            if name in state:
                raise DataError(f"{source} must have each layer once, and has {layer.name!r} twice")
            state[name], origin[name] = tensor, f"layer {layer.name!r}"
    _to_rgb(state)
    if "fc.weight" in state and len(state["fc.weight"]) == 1000:
        for name in ("fc.weight", "fc.bias"):
            if name in state and len(state[name]) == 1000:
                state[name] = state[name][sorted_rows()]
    return state, origin


def _tensors(layer: CaffeLayer, fixed: Mapping[str, _Names], source: str) -> dict[str, Tensor]:
    base = re.sub(r"/bn(/scale)?$", "", layer.name)
    conv, norm = fixed.get(base) or _from_pattern(base)
    if base == layer.name and conv:
        return _convolution(layer, conv, source)
    if norm:
        read = _scale if layer.name.endswith("/scale") else _batch_norm
        return read(layer, norm, source)
    raise DataError(
        f"{source} must hold one of the authors' networks (SE-ResNet, SE-ResNeXt, SENet-154, "
        f"SE-BN-Inception), and has a layer {layer.name!r}, which none of them has"
    )


def _from_pattern(base: str) -> _Names:
    for pattern, names in _PATTERNS:
        if match := re.fullmatch(pattern, base):
            return names(*match.groups())
    return "", ""


def _convolution(layer: CaffeLayer, name: str, source: str) -> dict[str, Tensor]:
    """Weight [out, in, kh, kw] or [out, in], and bias [out] if there is one."""
    _count(layer, (1, 2), "a weight and perhaps a bias", source)
    weight = layer.blobs[0]
    if name == "fc" and weight.dim() == 4:  # the old format has four sizes for everything
        weight = weight.reshape(weight.shape[-2:])
    tensors = {f"{name}.weight": weight}
    if len(layer.blobs) == 2:
        tensors[f"{name}.bias"] = layer.blobs[1].flatten()
    return tensors


def _batch_norm(layer: CaffeLayer, name: str, source: str) -> dict[str, Tensor]:
    """Sums of means and variances, and the weight of these sums: 0 stands for no statistics."""
    _count(layer, (3,), "means, variances and a scale factor", source)
    mean, variance, factor = layer.blobs
    if factor.numel() != 1:
        raise DataError(
            f"{source}: the scale factor of layer {layer.name!r} must be one number, "
            f"has the shape {list(factor.shape)}"
        )
    if layer.eps is not None and abs(layer.eps / _EPS - 1) > 1e-3:
        raise DataError(
            f"{source}: layer {layer.name!r} must have epsilon {_EPS:g} as in the authors' files, "
            f"has {layer.eps:g}"
        )
    weight = 0.0 if factor.item() == 0 else 1 / factor.item()
    return {
        f"{name}.running_mean": (mean.double() * weight).float().flatten(),
        f"{name}.running_var": (variance.double() * weight).float().flatten(),
    }


def _scale(layer: CaffeLayer, name: str, source: str) -> dict[str, Tensor]:
    _count(layer, (2,), "gamma and beta", source)
    gamma, beta = layer.blobs
    return {f"{name}.weight": gamma.flatten(), f"{name}.bias": beta.flatten()}


def _count(layer: CaffeLayer, allowed: tuple[int, ...], meaning: str, source: str) -> None:
    if len(layer.blobs) not in allowed:
        raise DataError(
            f"{source}: layer {layer.name!r} must have {meaning}, has {len(layer.blobs)} blobs"
        )


def _to_rgb(state: dict[str, Tensor]) -> None:
    for name in ("conv1.weight", "conv1.0.weight", "conv1.conv.weight"):
        if name in state and state[name].dim() == 4 and state[name].shape[1] == 3:
            state[name] = state[name].flip(1)


def sorted_rows() -> Tensor:
    """Return the permutation p [1000] such that rows[p] of a Caffe classifier are sorted.

    The 1000 outputs of the authors' models are in the order of the ILSVRC development kit (its
    identifiers, from 1), those of PyTorch's models in the order of the sorted WordNet identifiers.
    Entry i of `caffe_classes.txt` says where the class of output i stands in the sorted order.

    Source: the list of synsets of the development kit, in the copy that
    github.com/Cadene/pretrained-models.pytorch keeps as data/imagenet_synsets.txt, against the
    labels of the validation images in the authors' list for their models (ILSVRC2017_val.txt).

    Example:
        >>> p = sorted_rows()
        >>> p[65].item()  # the first validation image: 489 in the development kit, 65 elsewhere
        489
    """
    text = Path(__file__).with_name("caffe_classes.txt").read_text(encoding="ascii")
    return torch.argsort(torch.tensor([int(position) for position in text.split()]))
