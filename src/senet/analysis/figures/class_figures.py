"""Which classes have gates alike, and which channels tell two classes apart."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl

from senet.analysis.figures.drawing import CLASS_COLOURS, COLOUR, Drawing, canvas, panel, style
from senet.analysis.gate_classes import ClassContrast, Similarity
from senet.analysis.gates import spaced
from senet.analysis.series import short_paths, shorten
from senet.errors import InputError

__all__ = ["class_differences", "similarity_map"]

_NAMED = 40  # classes that are named along the map


def similarity_map(similarity: Similarity, *, name: str = "similarity") -> Drawing:
    """Draw how alike the gates of classes are, those that are alike side by side.

    Up to 40 classes are named; of more, evenly spaced ones in the order of the map.
    """
    order = similarity.order()
    table = similarity.cosine[order][:, order]
    total, labelled = len(order), spaced(len(order), _NAMED)
    with style():
        side = min(7.2, 1.7 + 0.22 * len(labelled))
        figure, (axis,) = canvas(1, 1, width=side + 0.8, height=side)
        panel(axis, "Classes with gates alike")
        picture = axis.imshow(
            table.tolist(), cmap=mpl.colormaps["PuOr_r"], vmin=-1, vmax=1, interpolation="nearest"
        )
        names = [shorten(similarity.classes[order[i]], 16) for i in labelled]
        axis.set_xticks(labelled, names, rotation=90)
        axis.set_yticks(labelled, names)
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
        bar = figure.colorbar(picture, ax=axis, fraction=0.04, pad=0.02, aspect=18)
        bar.outline.set_visible(False)
    return Drawing(name, f"Cosine of the gates' deviations of {total} classes", figure)


def class_differences(
    contrasts: Sequence[ClassContrast], first: str, second: str, *, name: str = "contrast"
) -> Drawing:
    """Draw the mean gates of two classes in the channels that tell them apart, with intervals.

    Args:
        contrasts: of `class_contrast`.
        first: the first class's name.
        second: the second's.
        name: of the drawing.

    Raises:
        InputError: no channel.
    """
    if not contrasts:
        raise InputError("class_differences needs at least one channel, got none")
    unique = list(dict.fromkeys(each.path for each in contrasts))
    short = dict(zip(unique, short_paths(unique), strict=True))
    with style():
        figure, (axis,) = canvas(1, 1, width=5.0, height=1.1 + 0.24 * len(contrasts))
        panel(axis, "Channels that tell the two classes apart", x="mean gate")
        heights = list(range(len(contrasts)))
        ends = [(each.first, each.second) for each in contrasts]
        axis.hlines(heights, *zip(*ends, strict=True), color=COLOUR["muted"], lw=1.2)
        for place, label, marker, colour in (
            (0, first, "o", CLASS_COLOURS[0]),
            (1, second, "D", CLASS_COLOURS[6]),
        ):
            values = [end[place] for end in ends]
            axis.plot(values, heights, marker, color=colour, ms=5, label=shorten(label, 28))
        names = [f"{short[each.path]} #{each.channel}" for each in contrasts]
        axis.set_yticks(heights, [shorten(each, 30) for each in names])
        axis.set_ylim(len(contrasts) - 0.5, -0.5)
        axis.grid(visible=False, axis="y")
        figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return Drawing(name, f"Mean gates of {first} and {second}, channel by channel", figure)
