"""Everything that is known of a network's gates, as files: the page, CSV, JSON, SVG and PNG."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.analysis.gate_classes import ClassContrast, Similarity, class_contrast
from senet.analysis.gate_costs import BlockCost, GateCosts
from senet.analysis.gate_findings import findings, kinds_of
from senet.analysis.gate_page import drawn_gates, page_of, pair_of, similarity_of
from senet.analysis.gate_statistics import BlockGates
from senet.analysis.gates import ESTIMATES, Gates
from senet.analysis.image_gates import ImageGates
from senet.files import write_text, write_whole

if TYPE_CHECKING:
    from senet.analysis.figures import Drawing

__all__ = ["SCHEMA", "write_gates"]

SCHEMA = "senet.see/1"
_MOST_VALUES = 2_000_000  # gates by class and channel in the JSON; the CSV has all


def write_gates(
    folder: Path,
    gates: Gates,
    *,
    title: str = "a network",
    costs: GateCosts | None = None,
    history: Sequence[Mapping[str, Any]] = (),
    images: Sequence[ImageGates] = (),
    classes: Sequence[str] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Write all that is known of the gates to a folder, and return the page.

    `gates.html` is the page; `gates.json` holds all numbers, `blocks.csv`, `channels.csv`,
    `classes.csv`, `similarity.csv` and `contrast.csv` hold them as tables; `figures/` has each
    figure as SVG and PNG.

    Args:
        folder: is made if it does not exist; files of the same names are replaced.
        gates: as recorded.
        title: what was looked at.
        costs: what the blocks are worth.
        history: rows of a run's `gates.csv`.
        images: the gates of single images.
        classes: names of the classes that are shown.
        facts: what the JSON says of itself, and the page lists at the end.

    Raises:
        OSError: a file cannot be written.
    """
    drawn = drawn_gates(gates, costs=costs, history=history, images=images, classes=classes)
    page = page_of(gates, drawn, title=title, costs=costs, facts=facts)
    similarity = similarity_of(gates)
    pair = pair_of(gates, list(classes or ()), similarity)
    for drawing in _drawings(drawn):
        for ending in ("svg", "png"):
            path = folder / "figures" / f"{drawing.name}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            drawing.save(path)
    for name, rows in _tables(gates, costs, similarity, pair).items():
        _write_table(folder / name, rows)
    result = {"schema": SCHEMA, "network": title, **(facts or {})}
    result |= _result(gates, costs, similarity, pair)
    result |= {"history": list(history), "images": [each.to_dict() for each in images]}
    write_text(folder / "gates.json", json.dumps(result))
    write_text(folder / "gates.html", page)
    return folder / "gates.html"


def _drawings(tree: Any) -> Iterator[Drawing]:
    """Yield the figures in nested dicts and lists, each once."""
    from senet.analysis.figures import Drawing

    if isinstance(tree, Drawing):
        yield tree
    elif isinstance(tree, Mapping):
        for each in tree.values():
            yield from _drawings(each)
    elif isinstance(tree, list):
        for each in tree:
            yield from _drawings(each)


def _result(
    gates: Gates,
    costs: GateCosts | None,
    similarity: Similarity | None,
    pair: tuple[str, str] | None,
) -> dict[str, Any]:
    channels = sum(block.channels for block in gates.blocks)
    return {
        "findings": findings(gates, costs),
        "kinds": {block.path: kinds_of(block, costs) for block in gates.blocks},
        "gates": gates.to_dict(max_classes=max(20, _MOST_VALUES // channels)),
        "costs": costs.to_dict() if costs else None,
        "similarity": similarity
        and {
            "classes": list(similarity.classes),
            "alike": [list(each) for each in similarity.alike(50)],
            "reliability": similarity.reliability.tolist(),
        },
        "contrast": pair
        and {
            "classes": list(pair),
            "channels": [each.to_dict() for each in class_contrast(gates, *pair, count=50)],
        },
    }


# the tables


def _tables(
    gates: Gates,
    costs: GateCosts | None,
    similarity: Similarity | None,
    pair: tuple[str, str] | None,
) -> dict[str, Iterable[Sequence[Any]]]:
    tables: dict[str, Iterable[Sequence[Any]]] = {
        "blocks.csv": _blocks(gates, costs),
        "channels.csv": _channels(gates),
        "classes.csv": _class_means(gates),
    }
    if similarity is not None:
        names = similarity.classes
        rows = zip(names, similarity.cosine.tolist(), strict=True)
        tables["similarity.csv"] = [["class", *names], *([name, *row] for name, row in rows)]
    if pair is not None:
        head = ["block", "channel", *pair, "difference", "low", "high", "effect", "certain"]
        tables["contrast.csv"] = [
            head,
            *(
                [each.path, each.channel, each.first, each.second, *_rest(each)]
                for each in class_contrast(gates, *pair, count=1 << 30)
            ),
        ]
    return tables


def _rest(of: ClassContrast) -> list[Any]:
    return [*of.difference, of.effect, of.certain]


def _blocks(gates: Gates, costs: GateCosts | None) -> Iterator[Sequence[Any]]:
    ends = ("", "_low", "_high")
    quantities = ("accuracy", "loss")
    yield [
        *("block", "stage", "channels", "images"),
        *(name + end for name in ESTIMATES for end in ends),
        *("eta2", "eta2_by_chance", "eta2_beyond_chance", "specific_share"),
        *("selectivity", "selectivity_by_chance"),
        *("between_class_std", "within_class_std", "off_channels", "on_channels", "diverged"),
        *(f"{kind}_{q}{e}" for kind in ("constant", "removed") for q in quantities for e in ends),
        "kinds",
    ]
    for block in gates.blocks:
        of = block.specificity
        yield [
            *(block.path, block.stage, block.channels, block.images),
            *(value for name in ESTIMATES for value in getattr(block, name)),
            *(of.mean, of.chance.mean, of.beyond_chance, of.above),
            block.selectivity.nanmean().item(),
            block.selectivity_by_chance.nanmean().item(),
            block.between_class_std,
            *(block.within_std.mean().item(), *block.stuck_channels(), block.diverged),
            *_cost(costs and costs.constant.get(block.path)),
            *_cost(costs and costs.removed.get(block.path)),
            " ".join(kinds_of(block, costs)),
        ]


def _cost(of: BlockCost | None) -> list[Any]:
    return [""] * 6 if of is None else [*of.accuracy, *of.loss]


def _channels(gates: Gates) -> Iterator[Sequence[Any]]:
    yield [
        *("block", "channel", "mean", "std", "min", "max", "within_class_std"),
        *("eta2", "eta2_by_chance", "eta2_chance_std", "probability"),
        *("selectivity", "selectivity_by_chance"),
    ]
    for block in gates.blocks:
        of = block.specificity
        columns = (
            *(block.channel_mean, block.channel_std, block.minimum, block.maximum),
            *(block.within_std, of.eta2, of.chance.std, of.probability),
            *(block.selectivity, block.selectivity_by_chance),
        )
        for channel, row in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
            yield [block.path, channel, *row[:6], of.chance.mean, *row[6:]]


def _class_means(gates: Gates) -> Iterator[Sequence[Any]]:
    yield ["block", "channel", *gates.classes]
    for block in gates.blocks:
        for channel, row in enumerate(_columns(block)):
            yield [block.path, channel, *row]


def _columns(block: BlockGates) -> Iterator[list[Any]]:
    for column in block.mean.T:
        yield ["" if value != value else f"{value:.6g}" for value in column.tolist()]


def _write_table(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    def write(partial: Path) -> None:
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([_cell(value) for value in row] for row in rows)

    write_whole(path, write)


def _cell(value: Any) -> Any:
    """Empty for what is no number, seven digits of what is."""
    if isinstance(value, float):
        return "" if value != value else f"{value:.7g}"
    return value
