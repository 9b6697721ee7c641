"""One page that shows what the gates of a network do: plain words first, then numbers and figures.

`gates.html` is the page, `report.css` and `gates.css` its style, `gates.js` what makes classes and
blocks choosable. Without JavaScript the figures and tables stand. It loads nothing, and holds
aggregates, but for the images that were asked for.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from senet.analysis import number_texts as texts
from senet.analysis.gate_classes import Similarity, class_contrast, class_similarity
from senet.analysis.gate_costs import ALL, BlockCost, GateCosts
from senet.analysis.gate_findings import KINDS, findings, kinds_of
from senet.analysis.gate_statistics import BlockGates
from senet.analysis.gates import Gates, spaced
from senet.analysis.image_gates import ImageGates
from senet.analysis.pages import environment
from senet.analysis.series import short_paths, shorten
from senet.analysis.stats import Estimate
from senet.errors import InputError

if TYPE_CHECKING:
    from senet.analysis.figures import Drawing

__all__ = [
    "COLUMNS",
    "block_rows",
    "drawn_gates",
    "page_of",
    "pair_of",
    "render_gates",
    "similarity_of",
]

_MOST_PROFILES = 12
_BYTES = 1_500_000  # of gates by class and channel inside of the page
_NONE = 255  # in place of a gate for a class without an image
WORTH = (
    "what it is",
    "held at its mean",
    "removed",
    "output changed",
    "class explains",
    "specific channels (chance 1 %)",
)
GATES = ("mean gate", "std", "std / mean", "min", "max", "saturated", "selectivity", "channels")
COLUMNS = (*WORTH, *GATES)


def render_gates(
    gates: Gates,
    *,
    title: str = "a network",
    costs: GateCosts | None = None,
    history: Sequence[Mapping[str, Any]] = (),
    images: Sequence[ImageGates] = (),
    classes: Sequence[str] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> str:
    """Return what the gates do as one self-contained HTML page.

    Args:
        gates: as recorded.
        title: what was looked at.
        costs: what the blocks are worth.
        history: rows of a run's `gates.csv`.
        images: the gates of single images.
        classes: names of the classes that are shown; the first two are told apart. Evenly spaced
            ones if not given.
        facts: what is listed at the end, as the command and versions.

    Raises:
        UnknownNameError: a class that is not among those of the gates.
        MissingPackageError: Jinja2, matplotlib or scipy is not installed.
    """
    drawn = drawn_gates(gates, costs=costs, history=history, images=images, classes=classes)
    return page_of(gates, drawn, title=title, costs=costs, facts=facts)


def page_of(
    gates: Gates,
    drawn: Mapping[str, Any],
    *,
    title: str,
    costs: GateCosts | None,
    facts: Mapping[str, Any] | None,
) -> str:
    """Return the page with figures that are drawn already; see `render_gates`."""
    page = environment("the page of the gates").get_template("gates.html")
    script = files("senet.analysis").joinpath("gates.js").read_text(encoding="utf-8")
    return page.render(
        title=title,
        said=findings(gates, costs),
        images_total=sum(gates.images),
        gates=gates,
        costs=costs,
        all_blocks=ALL,
        columns=(WORTH, GATES),
        rows=list(block_rows(gates, costs)),
        kinds=KINDS,
        **drawn,
        data=_choosable(gates, drawn["classes"].get("pair")),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        facts={name: value for name, value in (facts or {}).items() if value},
    )


def drawn_gates(
    gates: Gates,
    *,
    costs: GateCosts | None = None,
    history: Sequence[Mapping[str, Any]] = (),
    images: Sequence[ImageGates] = (),
    classes: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return the figures of the page, with what stands beside them; see `render_gates`."""
    environment("figures of the gates")  # a package that is missing is named at once
    chosen, similarity = list(classes or ()), similarity_of(gates)
    return {
        "depth": _depth(gates, costs),
        "classes": _classes(gates, pair_of(gates, chosen, similarity), similarity),
        "profiles": _profiles(gates, chosen or None),
        "history": _history(history),
        "images": [_image_figures(i, each) for i, each in enumerate(images)],
    }


def similarity_of(gates: Gates) -> Similarity | None:
    """Return how alike the classes are; None for one class, or gates that are constants."""
    try:
        return class_similarity(gates)
    except InputError:
        return None


def pair_of(
    gates: Gates, chosen: Sequence[str], similarity: Similarity | None
) -> tuple[str, str] | None:
    """Return the two classes that are told apart: those chosen, else the least alike."""
    seen = [name for name, n in zip(gates.classes, gates.images, strict=True) if n]
    for name in chosen:
        gates.class_index(name)
    if len(chosen) >= 2:
        return chosen[0], chosen[1]
    if len(seen) < 2:
        return None
    if similarity is None:
        return seen[0], seen[1]
    k = len(similarity.classes)
    if chosen and chosen[0] in similarity.classes:
        first = similarity.classes.index(chosen[0])
        return chosen[0], similarity.classes[int(similarity.cosine[first].argmin())]
    first, second = divmod(int(similarity.cosine.argmin()), k)
    return similarity.classes[first], similarity.classes[second]


# the table


def _cost(of: BlockCost | None) -> str:
    if of is None:
        return texts.NONE
    value, low, high = of.accuracy
    return f"{texts.decimal(100 * value, 2, sign=True)} ({texts.interval(low, high)})"


def _selectivity(of: BlockGates) -> str:
    both = (each.nanmean().item() for each in (of.selectivity, of.selectivity_by_chance))
    return _beside(*(texts.decimal(each, 3) for each in both))


def _beside(value: str, by_chance: str) -> str:
    return value if value == texts.NONE else f"{value} (chance {by_chance})"


def _extremes(of: BlockGates) -> list[str]:
    ends = (math.nan, math.nan) if of.diverged else (of.minimum.min(), of.maximum.max())
    return [texts.decimal(float(end), 3) for end in ends]


def block_rows(gates: Gates, costs: GateCosts | None) -> Iterator[tuple[str, list[str]]]:
    """Give the name of each block and what the table says of it, in the order of `COLUMNS`."""
    names = short_paths([block.path for block in gates.blocks])
    for name, block in zip(names, gates.blocks, strict=True):
        of = block.specificity
        explained = (texts.share(Estimate(value)) for value in (of.mean, of.chance.mean))
        yield (
            name or "the network",
            [
                ", ".join(kinds_of(block, costs)) or texts.NONE,
                _cost(costs.constant.get(block.path) if costs else None),
                _cost(costs.removed.get(block.path) if costs else None),
                texts.share(block.variance_share),
                _beside(*explained),
                texts.NONE if math.isnan(of.mean) else texts.share(Estimate(of.above)),
                texts.estimate(block.level, 3),
                texts.estimate(block.spread, 3),
                texts.estimate(block.relative_std, 3),
                *_extremes(block),
                texts.share(block.saturated_share),
                _selectivity(block),
                str(block.channels),
            ],
        )


# the figures


def _depth(gates: Gates, costs: GateCosts | None) -> list[Drawing]:
    from senet.analysis import figures

    known = gates.to_dict(max_classes=0)
    several = sum(n > 0 for n in gates.images) > 1
    quantities = ["constancy", "mean", *(["specificity", "spread"] if several else [])]
    drawings = [
        figures.excitation_depth(known, quantity=quantity, name=f"depth-{quantity}")
        for quantity in quantities
    ]
    return [*drawings, figures.block_costs(costs.to_dict())] if costs else drawings


def _classes(
    gates: Gates, pair: tuple[str, str] | None, similarity: Similarity | None
) -> dict[str, Any]:
    """The classes by block, those that are alike, and what tells two of them apart."""
    from senet.analysis import figures

    if pair is None:
        return {}
    known = gates.to_dict()
    heat = {
        quantity: figures.excitation_heat_map(known, quantity=quantity, name=f"heat-{quantity}")
        for quantity in ("mean", "distance")
    }
    contrasts = class_contrast(gates, *pair, count=15)
    apart = figures.class_differences(contrasts, *pair) if contrasts else None
    facts: dict[str, Any] = {"pair": pair, "heat": heat, "contrasts": contrasts, "apart": apart}
    paths = [block.path for block in gates.blocks]
    facts["short"] = dict(zip(paths, short_paths(paths), strict=True))
    if similarity is None:
        return facts
    return facts | {
        "similarity": figures.similarity_map(similarity),
        "alike": similarity.alike(8),
        "reliability": similarity.reliability.min().item(),
    }


def _profiles(gates: Gates, chosen: list[str] | None) -> dict[str, Any]:
    from senet.analysis import figures
    from senet.analysis.figures.drawing import CLASS_COLOURS
    from senet.analysis.figures.gate_figures import gate_range

    known = gates.to_dict(classes=chosen)
    blocks = known["blocks"]
    names = known["classes"]
    shown = [blocks[i]["path"] for i in spaced(len(blocks), _MOST_PROFILES)]
    options: dict[str, Any] = {"columns": 1, "legend": False, "limits": gate_range(blocks)}
    coloured = [shorten(names[k], 28) for k in spaced(len(names), len(CLASS_COLOURS))]
    return {
        "drawings": [
            figures.excitation_profiles(known, paths=[path], name=f"profile-{i}", **options)
            for i, path in enumerate(shown)
        ],
        "legend": list(zip(coloured, CLASS_COLOURS, strict=False)),
    }


def _history(rows: Sequence[Mapping[str, Any]]) -> list[Drawing]:
    from senet.analysis import figures

    if not rows:
        return []
    return [
        figures.gates_over_time(rows, quantity=quantity, name=f"time-{quantity}")
        for quantity in ("image_std", "mean")
    ]


def _image_figures(number: int, of: ImageGates) -> dict[str, Any]:
    """One image: its strips, and the maps of the block that deviates most."""
    from senet.analysis import figures

    moved = [(block.gate - block.usual).square().mean().item() for block in of.blocks]
    most = of.blocks[moved.index(max(moved))]
    drawn = {"of": of, "strips": figures.image_strips(of, name=f"strips-{number}"), "most": most}
    if most.raised:
        drawn["maps"] = figures.image_maps(most, name=f"maps-{number}")
    if of.image is not None:
        drawn["shown"] = figures.image_itself(of, name=f"image-{number}")
    return drawn


# what can be chosen


def _choosable(gates: Gates, pair: tuple[str, str] | None) -> dict[str, Any] | None:
    """Return the mean gates by class in one byte each, for the script; None for one class."""
    if pair is None:
        return None
    each = max(8, _BYTES // (len(gates.classes) * len(gates.blocks)))
    return {
        "classes": gates.classes,
        "pair": [gates.class_index(name) for name in pair],
        "blocks": [_packed(block, each) for block in gates.blocks if not block.diverged],
    }


def _packed(block: BlockGates, most: int) -> dict[str, Any]:
    """Return the gates of some channels: the most class-specific, and evenly spaced ones."""
    order = block.channel_mean.argsort(stable=True)
    if block.channels > most:
        eta2 = block.specificity.eta2.nan_to_num(-1)
        kept = set(eta2.argsort(descending=True)[: most // 2].tolist())
        kept |= set(order[spaced(block.channels, most - most // 2)].tolist())
        order = torch.tensor([c for c in order.tolist() if c in kept])
    means, usual = block.mean[:, order], block.channel_mean[order]
    low, high = (f(means[~means.isnan()]).item() for f in (torch.min, torch.max))

    def packed(values: Tensor) -> str:
        scaled = (values - low) / max(high - low, 1e-12) * (_NONE - 1)
        codes = scaled.round().nan_to_num(_NONE).to(torch.uint8)
        return base64.b64encode(bytes(codes.flatten().tolist())).decode()

    return {
        "path": block.path or "(the network)",
        "total": block.channels,
        "channels": order.tolist(),
        "low": low,
        "high": high,
        "usual": packed(usual),
        "within": [float(f"{value:.3g}") for value in block.within_std[order].tolist()],
        "means": packed(means),
    }
