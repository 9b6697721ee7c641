"""What a name of the project stands for: an architecture, plain or with SE, the paper's facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, final

from torch import nn

__all__ = ["Family", "Network", "Paper", "index"]


@final
@dataclass(frozen=True)
class Paper:
    """What the paper prints for a network.

    Attributes:
        table: number of the table.
        top1: error in percent: ImageNet's single centre crop, or CIFAR-10's.
        top5: likewise, ImageNet only.
        gflops: the column "GFLOPs"; docs/paper.md says what it counts.
        params: parameters in millions.
        cifar100: error in percent on CIFAR-100.
    """

    table: int
    top1: float | None = None
    top5: float | None = None
    gflops: float | None = None
    params: float | None = None
    cifar100: float | None = None


@final
@dataclass(frozen=True)
class Family:
    """One architecture, from which a plain network and its SE form are built.

    Attributes:
        build: the builder. It takes `num_classes` and `in_chans`; `layout` if `layouts` are given;
            and, if `written`, `se`: the options of `senet.SqueezeExcitation`, or None.
        written: whether the builder places the SE blocks itself. If not, they are inserted into the
            plain network.
        layouts: the values of `layout`, the default first.
        input_size: the picture (channels, height, width).
        num_classes: of the data the network was made for.
        se_name: name of the SE form; "se_" before the plain name if not given.
        se: fields of `senet.SEConfig` in which the SE form differs from `SEConfig(init="paper")`.
        plain: what the paper prints for the plain network.
        with_se: what it prints for the SE form.
    """

    build: Callable[..., nn.Module]
    written: bool = True
    layouts: tuple[str, ...] = ()
    input_size: tuple[int, int, int] = (3, 224, 224)
    num_classes: int = 1000
    se_name: str | None = None
    se: Mapping[str, Any] = field(default_factory=dict)
    plain: Paper | None = None
    with_se: Paper | None = None


class Network(NamedTuple):
    """A name's meaning: the family, the fields of `SEConfig` (None: plain), the plain name."""

    family: Family
    se: Mapping[str, Any] | None
    plain: str

    @property
    def paper(self) -> Paper | None:
        """What the paper prints for this network."""
        if self.se is None:
            return self.family.plain
        return self.family.with_se if self.se == self.family.se else None


def index(
    families: Mapping[str, Family],
    variants: Mapping[str, tuple[str, Mapping[str, Any]]] | None = None,
) -> dict[str, Network]:
    """Return name -> network: the plain names, their SE forms, and the variants of these.

    Args:
        families: plain name -> family.
        variants: name -> (plain name, fields of `SEConfig` that the name fixes).
    """
    found = {name: Network(family, None, name) for name, family in families.items()}
    for name, family in families.items():
        found[family.se_name or f"se_{name}"] = Network(family, family.se, name)
    for name, (plain, fixed) in (variants or {}).items():
        family = families[plain]
        found[name] = Network(family, {**family.se, **fixed}, plain)
    return found
