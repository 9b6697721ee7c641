"""Which classes have gates alike, and which channels tell two classes apart."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.colors import LinearSegmentedColormap, to_rgb

from senet.analysis.figures.drawing import CLASS_COLOURS, COLOUR, Drawing, canvas, panel, style
from senet.analysis.gate_classes import ClassContrast, Similarity
from senet.analysis.gates import spaced
from senet.analysis.series import short_paths, shorten
from senet.errors import InputError

__all__ = ["class_differences", "confusion_map", "similarity_map"]

_NAMED = 40  # classes that are named along the map
_COUNTED = 12  # classes whose cells have their number inside
_DARKEST = 0.6  # the share of the colour in a cell: text on it stays readable


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
        cells = axis.imshow(
            table.tolist(), cmap=mpl.colormaps["PuOr_r"], vmin=-1, vmax=1, interpolation="nearest"
        )
        names = [shorten(similarity.classes[order[i]], 16) for i in labelled]
        axis.set_xticks(labelled, names, rotation=90)
        axis.set_yticks(labelled, names)
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
        bar = figure.colorbar(cells, ax=axis, fraction=0.04, pad=0.02, aspect=18)
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


def confusion_map(
    matrix: Sequence[Sequence[int]],
    classes: Sequence[str],
    *,
    heading: str = "Answers by class",
    name: str = "confusion",
) -> Drawing:
    """Draw a confusion matrix, each row by its shares; the numbers too for up to 12 classes.

    Args:
        matrix: row k counts the answers for images of class k, [K, K].
        classes: names of the K classes; up to 40 are written.
        heading: above the matrix.
        name: of the drawing.

    Raises:
        InputError: no class.

    Example:
        >>> confusion_map([[8, 2], [1, 9]], ["cat", "dog"]).label
        'Answers by class: 17 of 20 images are on the diagonal'
    """
    if not len(matrix):
        raise InputError("confusion_map needs at least one class, got none")
    shares = [[count / max(1, sum(row)) for count in row] for row in matrix]
    total, labelled = len(matrix), spaced(len(matrix), _NAMED)
    colour = to_rgb(COLOUR["se"])
    colours = LinearSegmentedColormap.from_list("", [(*colour, 0.0), (*colour, _DARKEST)])
    with style():
        side = min(7.2, max(2.2, 0.3 * total))
        figure, (axis,) = canvas(1, 1, width=side + 1.6, height=side + 1.2)
        panel(axis, heading, x="answer", y="class")
        axis.pcolormesh(shares, cmap=colours, vmin=0, vmax=1, edgecolors="none")
        names = [shorten(classes[k], 16) for k in labelled]
        axis.set_xticks([k + 0.5 for k in labelled], names, rotation=90 if total > 4 else 0)
        axis.set_yticks([k + 0.5 for k in labelled], names)
        axis.invert_yaxis()
        axis.set_aspect("equal")
        axis.grid(visible=False)
        if total <= _COUNTED:
            for y, row in enumerate(matrix):
                for x, count in enumerate(row):
                    if count:
                        axis.text(x + 0.5, y + 0.5, str(count), ha="center", va="center")
    right, images = sum(matrix[k][k] for k in range(total)), sum(map(sum, matrix))
    label = f"{heading}: {right:,} of {images:,} images are on the diagonal"
    return Drawing(name, label, figure)
