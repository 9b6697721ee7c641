"""The gates of one image: a strip for each block, and the channels most raised and lowered."""

from __future__ import annotations

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from senet.analysis.figures.drawing import Drawing, panel, style
from senet.analysis.gates import spaced
from senet.analysis.image_gates import BlockOfImage, ImageGates
from senet.analysis.series import short_paths, shorten
from senet.errors import InputError

__all__ = ["image_itself", "image_maps", "image_strips"]

_MOST_BLOCKS = 12


def _bare(axis: Axes) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)


def image_strips(of: ImageGates, *, name: str = "strips") -> Drawing:
    """Draw the gates of an image minus the usual ones, a strip for each block.

    A strip has the channels in the order of their mean over the data set; orange is raised, purple
    lowered. Up to twelve blocks are shown, evenly spaced in depth.
    """
    blocks = [of.blocks[i] for i in spaced(len(of.blocks), _MOST_BLOCKS)]
    paths = short_paths([block.path for block in blocks])
    apart = [(block.gate - block.usual)[block.order] for block in blocks]
    largest = max(max(each.abs().max().item() for each in apart), 1e-6)
    with style():
        figure = Figure(figsize=(5.0, 0.6 + 0.3 * len(blocks)), layout="constrained")
        axes = list(figure.subplots(len(blocks), 1, squeeze=False).flat)
        panel(axes[0], "Gates of this image minus the usual ones")
        for axis, path, each in zip(axes, paths, apart, strict=True):
            strip = axis.imshow(
                [each.tolist()],
                aspect="auto",
                cmap=mpl.colormaps["PuOr_r"],
                vmin=-largest,
                vmax=largest,
                interpolation="nearest",
            )
            _bare(axis)
            axis.set_ylabel(shorten(path, 22), rotation=0, ha="right", va="center")
        bar = figure.colorbar(strip, ax=axes, fraction=0.03, pad=0.01, aspect=24)
        bar.outline.set_visible(False)
    return Drawing(name, f"Gates of {of.name} in {len(blocks)} blocks", figure)


def image_maps(block: BlockOfImage, *, name: str = "maps") -> Drawing:
    """Draw the maps of the channels that a block raises and lowers most, before they are gated."""
    rows = [("raised", block.raised), ("lowered", block.lowered)]
    columns = max(1, len(block.raised))
    with style():
        figure = Figure(figsize=(0.5 + 1.3 * columns, 3.4), layout="constrained")
        axes = figure.subplots(2, columns, squeeze=False)
        for row, (label, channels) in enumerate(rows):
            for column, channel in enumerate(channels):
                axis = axes[row][column]
                axis.imshow(block.maps[channel].tolist(), cmap="cividis", interpolation="nearest")
                usual, gate = block.usual[channel].item(), block.gate[channel].item()
                axis.set_title(
                    f"#{channel}: {gate:.2f} ({usual:.2f})", fontsize=8, fontweight="normal"
                )
            axes[row][0].set_ylabel(label)
        for axis in axes.flat:
            _bare(axis)
    return Drawing(name, f"Maps of the channels that {block.path} raises and lowers most", figure)


def image_itself(of: ImageGates, *, name: str = "image") -> Drawing:
    """Draw the image as the network gets it.

    Raises:
        InputError: it was not given.
    """
    if of.image is None:
        raise InputError(
            f"the image {of.name} must be kept with its gates, got the gates alone; give it to "
            "image_gates as `shown`"
        )
    pixels = of.image.expand(*of.image.shape[:2], 3)
    with style():
        figure = Figure(figsize=(2.2, 2.2), layout="constrained")
        axis = figure.subplots()
        axis.imshow(pixels.tolist(), interpolation="nearest")
        _bare(axis)
    return Drawing(name, f"The image {of.name} as the network gets it", figure)
