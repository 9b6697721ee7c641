"""One set of names for the tensors of a network, whatever library or training program named them.

The names are those of torchvision and of timm's `resnet`: `conv1`, `bn1`, `layer1.0.conv1`,
`layer1.0.downsample.0`, `layer1.0.se.fc1`, `fc`; a stem of three convolutions is `conv1.0`,
`conv1.1` (its batch norm), `conv1.3`, `conv1.4`, `conv1.6` and `bn1`. File and network are both
renamed to them, and then compared.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import NamedTuple

__all__ = ["HEAD", "IGNORED", "Aligned", "align", "canonical", "is_legacy"]

HEAD = "fc"  # the canonical name of a last layer that stands alone

# Tensors of a file without which the network computes the same: counters, auxiliary classifiers.
IGNORED = re.compile(r"(.*\.)?num_batches_tracked|(aux\d?|AuxLogits|aux_logits)\..*")

# Parts of a name that wrappers put in: DistributedDataParallel and AveragedModel, torch.compile,
# FSDP, activation checkpointing.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_AVERAGE = re.compile(r"(^|[._])(ema|avg|averaged?|swa)([._]|$)")
_DEEPEST = 3  # parts of a prefix: `backbone.bottom_up.` has two

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
    (re.compile(r"\.se_layer\.conv([12])\.conv\."), r".se.fc\1."),  # MMPretrain
    (re.compile(r"\.(se|attn)\.(?:conv_reduce|fc\.0)\."), r".\1.fc1."),
    (re.compile(r"\.(se|attn)\.(?:conv_expand|fc\.2)\."), r".\1.fc2."),
    (re.compile(r"^(?:last_linear|linear|classifier|head\.fc)\.(weight|bias)$"), rf"{HEAD}.\1"),
    # Old files of torchvision's DenseNet, which it renames in the same way.
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\."), r"\1\2."),
)
_SE_IN_NORM = re.compile(r"^(layer\d+\.\d+)\.bn(\d)\.se\.")


def is_legacy(names: Iterable[str]) -> bool:
    """Return whether these are names of Cadene's `senet` or timm's `legacy_*`."""
    return any(re.search(r"(^|\.)layer0\.|\.se_module\.", name) for name in names)


def canonical(names: Iterable[str]) -> dict[str, str]:
    """Return name -> canonical name.

    Where two names would become the same, all stay as they are.

    Example:
        >>> canonical(["layer0.conv1.weight", "layer1.0.se_module.fc1.bias", "last_linear.bias"])
        {'layer0.conv1.weight': 'conv1.weight',
         'layer1.0.se_module.fc1.bias': 'layer1.0.se.fc1.bias', 'last_linear.bias': 'fc.bias'}
        >>> canonical(["layer1.0.bn2.weight", "layer1.0._orig_mod.bn2.se.fc1.bias"])
        {'layer1.0.bn2.weight': 'layer1.0.bn2.weight',
         'layer1.0._orig_mod.bn2.se.fc1.bias': 'layer1.0.se.fc1.bias'}
    """
    given = list(names)
    bare = [*_unwrapped(given).values()]
    deep = any(name.startswith("layer0.conv3.") for name in bare)
    last = _last_norms(bare)
    renamed = [_renamed(name, deep=deep, last=last) for name in bare]
    unique = len(set(renamed)) == len(given)
    return dict(zip(given, renamed if unique else given, strict=True))


def _unwrapped(names: Iterable[str]) -> dict[str, str]:
    """Return name -> the name without what wrappers put in; unchanged where two would be one."""
    bare = {name: ".".join(p for p in name.split(".") if p not in _WRAPPERS) for name in names}
    return bare if len(set(bare.values())) == len(bare) else {name: name for name in bare}


def _renamed(name: str, *, deep: bool, last: dict[str, str]) -> str:
    module, _, tensor = name.rpartition(".")
    if deep and module in _LEGACY_DEEP:
        return f"{_LEGACY_DEEP[module]}.{tensor}"
    inside = _SE_IN_NORM.match(name)
    if inside and last.get(inside[1]) == inside[2]:  # an SE block in the last norm of its branch
        name = f"{inside[1]}.se.{name[inside.end() :]}"
    for pattern, replacement in _RENAMED:
        name = pattern.sub(replacement, name)
    return name


def _last_norms(names: Iterable[str]) -> dict[str, str]:
    """Return residual block -> number of its last batch norm."""
    last: dict[str, str] = {}
    for name in names:
        norm = re.match(r"^(layer\d+\.\d+)\.bn(\d)\.(?:weight|running_mean)$", name)
        if norm:
            last[norm[1]] = max(norm[2], last.get(norm[1], ""))
    return last


class Aligned(NamedTuple):
    """The names of a file that are a network's.

    Attributes:
        names: canonical name -> name in the file.
        foreign: the other names in the file.
        prefix: what stands before the names of the network; "" for nothing.
        rivals: other prefixes under which the file holds as much of the network.
        averaged: whether there is one rival, and one of the two is an average of the other.
    """

    names: dict[str, str]
    foreign: list[str]
    prefix: str = ""
    rivals: tuple[str, ...] = ()
    averaged: bool = False


def align(
    theirs: Iterable[str], ours: Collection[str], *, head: Collection[str] = (), ema: bool = True
) -> Aligned:
    """Find the names of a network among those of a file.

    A training program puts the network below a name of its own (`model.`, `backbone.`), beside
    other tensors. The prefix is the one that explains the most names of the network.

    Args:
        theirs: names in the file.
        ours: canonical names of the network.
        head: those of its last layer, which may have another prefix (`head.`) than the rest.
        ema: where two prefixes explain as much, and one is of an average of weights: take that one.

    Example:
        >>> file = ["net.conv1.weight", "net.bn1.weight", "head.fc.bias", "loss.weight"]
        >>> aligned = align(file, ["conv1.weight", "bn1.weight", "fc.bias"], head=["fc.bias"])
        >>> aligned.names["fc.bias"], aligned.prefix, aligned.foreign
        ('head.fc.bias', 'net.', ['loss.weight'])
    """
    given = list(theirs)
    below = _below_prefixes(given)
    counts = {prefix: len(set(ours) & set(names)) for prefix, names in below.items()}
    most = max(counts.values())
    full = [prefix for prefix, count in counts.items() if count == most and 2 * most >= len(ours)]
    averages = [prefix for prefix in full if _AVERAGE.search(prefix)]
    pair = len(full) == 2 and len(averages) == 1
    full.sort(key=lambda prefix: (prefix in averages) != (ema and pair))
    prefix = full[0] if full else max(counts, key=lambda each: counts[each])
    children = {name.partition(".")[0] for name in ours}
    names = {
        new: old
        for new, old in below[prefix].items()
        if new.partition(".")[0] in children or IGNORED.fullmatch(new)
    }
    known = set(names.values())
    for new in head:
        elsewhere = [old for old in given if old not in known and old.endswith(f".{new}")]
        if new not in names and len(elsewhere) == 1:
            names[new] = elsewhere[0]
    known = set(names.values())
    foreign = [old for old in given if old not in known]
    return Aligned(names, foreign, prefix, tuple(full[1:]), pair)


def _below_prefixes(names: list[str]) -> dict[str, dict[str, str]]:
    """Return prefix -> canonical name -> the name in the file; the shortest prefixes first."""
    below: dict[str, dict[str, str]] = defaultdict(dict, {"": {}})
    for name, bare in _unwrapped(names).items():
        below[""][bare] = name
        parts = bare.split(".")
        for length in range(1, min(_DEEPEST, len(parts) - 1) + 1):
            below[".".join(parts[:length]) + "."][".".join(parts[length:])] = name
    return {
        prefix: {new: inside[rest] for rest, new in canonical(inside).items()}
        for prefix, inside in below.items()
    }
