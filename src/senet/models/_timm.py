"""timm's networks, by timm's names. The package is imported where it is used."""

from __future__ import annotations

from functools import cache

from torch import nn

# the module under which `register_with_timm` registers the project's networks
OURS = "senet_networks"


@cache
def names() -> tuple[str, ...]:
    """Return the names of the architectures, sorted, without the tags of their weights.

    Without the project's own, which `register_with_timm` may have put there.
    """
    import timm

    return tuple(sorted({*timm.list_models()} - {*timm.list_models(module=OURS)}))


@cache
def _tagged_names() -> frozenset[str]:
    import timm

    return frozenset(timm.list_models(pretrained=True))


def has(name: str) -> bool:
    """Return whether timm registers an architecture of this name, with or without a tag."""
    return name in names() or name in _tagged_names()


def build(
    name: str, *, num_classes: int, in_chans: int, drop_rate: float | None = None
) -> nn.Module:
    """Build a registered network with random weights; see `create_model`."""
    import timm

    model: nn.Module = timm.create_model(
        name, pretrained=False, num_classes=num_classes, in_chans=in_chans, drop_rate=drop_rate
    )
    return model


def input_size(name: str) -> tuple[int, int, int]:
    """Return the picture (C, H, W) that the published weights were trained with."""
    import timm

    config = timm.get_pretrained_cfg(name)
    return (3, 224, 224) if config is None else config.input_size
