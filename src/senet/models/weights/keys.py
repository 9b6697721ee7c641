"""One set of names for the tensors of a network, whatever library named them.

The names are those of torchvision and of timm's `resnet`: `conv1`, `bn1`, `layer1.0.conv1`,
`layer1.0.downsample.0`, `layer1.0.se.fc1`, `fc`; a stem of three convolutions is `conv1.0`,
`conv1.1` (its batch norm), `conv1.3`, `conv1.4`, `conv1.6` and `bn1`. File and network are both
renamed to them, and then compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["HEAD", "IGNORED", "canonical", "common_prefix", "is_legacy"]

HEAD = "fc"  # the canonical name of a last layer that stands alone

# Tensors of a file without which the network computes the same: counters, auxiliary classifiers.
IGNORED = re.compile(r"(.*\.)?num_batches_tracked|(aux\d?|AuxLogits|aux_logits)\..*")

# What training programs put before all names of a network.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")

# Of Cadene's `senet` and timm's `legacy_*`, where a stem has three convolutions.
_LEGACY_DEEP = {
    "layer0.conv1": "conv1.0",
    "layer0.bn1": "conv1.1",
    "layer0.conv2": "conv1.3",
    "layer0.bn2": "conv1.4",
    "layer0.conv3": "conv1.6",
    "layer0.bn3": "bn1",
}
_RENAMED = (
    (re.compile(r"^layer0\.(conv1|bn1)\."), r"\1."),
    (re.compile(r"\.se_module\."), ".se."),
    (re.compile(r"\.(se|attn)\.(?:conv_reduce|fc\.0)\."), r".\1.fc1."),
    (re.compile(r"\.(se|attn)\.(?:conv_expand|fc\.2)\."), r".\1.fc2."),
    (re.compile(r"^(?:last_linear|linear|classifier|head\.fc)\.(weight|bias)$"), rf"{HEAD}.\1"),
    # Old files of torchvision's DenseNet, which it renames in the same way.
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\."), r"\1\2."),
)
_SE_IN_NORM = re.compile(r"^(layer\d+\.\d+)\.bn(\d)\.se\.")


def common_prefix(names: Iterable[str]) -> str:
    """Return what stands before all names because of the program that saved them.

    Example:
        >>> common_prefix(["_orig_mod.module.conv1.weight", "_orig_mod.module.fc.bias"])
        '_orig_mod.module.'
    """
    rest, found = list(names), ""
    while rest:
        prefix = next((p for p in _PREFIXES if all(n.startswith(p) for n in rest)), None)
        if prefix is None:
            break
        found, rest = found + prefix, [name.removeprefix(prefix) for name in rest]
    return found


def is_legacy(names: Iterable[str]) -> bool:
    """Return whether these are names of Cadene's `senet` or timm's `legacy_*`."""
    return any(name.startswith("layer0.") or ".se_module." in name for name in names)


def canonical(names: Iterable[str]) -> dict[str, str]:
    """Return name -> canonical name.

    Where two names would become the same, all stay as they are.

    Example:
        >>> canonical(["layer0.conv1.weight", "layer1.0.se_module.fc1.bias", "last_linear.bias"])
        {'layer0.conv1.weight': 'conv1.weight',
         'layer1.0.se_module.fc1.bias': 'layer1.0.se.fc1.bias', 'last_linear.bias': 'fc.bias'}
        >>> canonical(["layer1.0.bn2.weight", "layer1.0.bn2.se.fc1.bias"])
        {'layer1.0.bn2.weight': 'layer1.0.bn2.weight',
         'layer1.0.bn2.se.fc1.bias': 'layer1.0.se.fc1.bias'}
    """
    given = list(names)
    prefix = common_prefix(given)
    known = [name.removeprefix(prefix) for name in given]
    deep = any(name.startswith("layer0.conv3.") for name in known)
    last = _last_norms(known)
    renamed = [_renamed(name, deep=deep, last=last) for name in known]
    unique = len(set(renamed)) == len(known)
    return dict(zip(given, renamed if unique else known, strict=True))


def _renamed(name: str, *, deep: bool, last: dict[str, str]) -> str:
    module, _, tensor = name.rpartition(".")
    if deep and module in _LEGACY_DEEP:
        return f"{_LEGACY_DEEP[module]}.{tensor}"
    found = _SE_IN_NORM.match(name)
    if found and last.get(found[1]) == found[2]:  # an SE block in the last norm of its branch
        name = f"{found[1]}.se.{name[found.end() :]}"
    for pattern, replacement in _RENAMED:
        name = pattern.sub(replacement, name)
    return name


def _last_norms(names: Iterable[str]) -> dict[str, str]:
    """Return residual block -> number of its last batch norm."""
    last: dict[str, str] = {}
    for name in names:
        found = re.match(r"^(layer\d+\.\d+)\.bn(\d)\.(?:weight|running_mean)$", name)
        if found:
            last[found[1]] = max(found[2], last.get(found[1], ""))
    return last
