"""What int8 costs in accuracy, and which share of it the SE blocks have."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from torch import Tensor

from senet.analysis import (
    PairedDifference,
    ProportionInterval,
    paired_difference,
    proportion_interval,
)
from senet.deploy.quantization import BLOCKS
from senet.errors import ExportError, first_line
from senet.progress import Progress, silent
from senet.training.config import DataConfig
from senet.training.data import Split, evenly, open_split
from senet.training.evaluation import evaluate
from senet.training.exported import export_network, load_exported_network
from senet.training.trained import Trained

__all__ = ["Int8Accuracy", "int8_accuracy"]


@final
@dataclass(frozen=True)
class Int8Accuracy:
    """Top-1 of an int8 file against the float network, on the same test images.

    Attributes:
        images: how many test images.
        float32: accuracy of the network in PyTorch.
        int8: accuracy of the file.
        difference: int8 minus float32, paired by image.
        blocks: SE blocks in int8 minus SE blocks in float, all else in int8, paired by image;
            None where the file has no SE blocks, or cannot be made with the other kind.
        majority_share: the accuracy of always answering the largest class.
        refused: why no file could be made with SE blocks of the other kind.
    """

    images: int
    float32: ProportionInterval
    int8: ProportionInterval
    difference: PairedDifference
    blocks: PairedDifference | None
    majority_share: float
    refused: str | None = None

    @property
    def warning(self) -> str | None:
        """What a reader should know where the SE blocks in int8 cost accuracy."""
        if self.refused is not None:
            return f"with the other kind of SE blocks there is no file: {self.refused}"
        if self.blocks is None or not self.blocks.significant or self.blocks.mean >= 0:
            return None
        low, high = self.blocks.low or 0.0, self.blocks.high or 0.0
        return (
            f"the SE blocks in int8 cost {-100 * self.blocks.mean:.2f} points of accuracy "
            f"[{-100 * high:.2f}, {-100 * low:.2f}]; leave them in float"
        )


def int8_accuracy(
    trained: Trained,
    path: Path,
    data: DataConfig,
    *,
    calibration: Tensor,
    int8_tool: str,
    int8_blocks: str,
    form: str = "fast",
    images: int | None = None,
    on_progress: Progress = silent,
) -> Int8Accuracy:
    """Test an int8 file, the network that it was made from, and the file with other SE blocks.

    Args:
        trained: the network.
        path: the int8 file that `export_network` made of it.
        data: whose test split is used; up to `max_bad_images` that cannot be read are left out.
        calibration: images that the file was calibrated on.
        int8_tool: that wrote the file.
        int8_blocks: "float" or "int8", as the file has them.
        form: of `senet.deploy`.
        images: test on so many, evenly spread; on all if not given.
        on_progress: called with (description, done, total).

    Raises:
        DataError: missing data, or too many images that cannot be read.
    """
    split = _some(open_split(data, training=False), images)

    largest = 0.0

    def correct(network: Trained) -> Tensor:
        nonlocal largest
        predictions, _ = evaluate(
            [replace(network, classes=trained.classes)],
            split,
            max_bad_images=data.max_bad_images,
            on_progress=on_progress,
        )
        largest = float(predictions.labels.bincount().max()) / len(predictions.labels)
        return (predictions.scores.argmax(1) == predictions.labels).double()

    before, after = correct(trained), correct(load_exported_network(path))
    blocks = refused = None
    (other,) = (choice for choice in BLOCKS if choice != int8_blocks)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / path.name
        options: dict[str, Any] = {"int8_tool": int8_tool, "int8_blocks": other, "form": form}
        try:
            made = export_network(trained, file, int8=calibration, plain=False, **options)
        except ExportError as error:
            made, refused = None, f"SE blocks in {other}: {first_line(error).partition(';')[0]}"
        if made is not None and made.report.blocks:
            with_others = replace(load_exported_network(file), name=f"SE blocks in {other}")
            pair = after, correct(with_others)
            blocks = _paired(*(pair if int8_blocks == "float" else pair[::-1]))
    return Int8Accuracy(
        *(len(before), _share(before), _share(after), _paired(before, after), blocks, largest),
        refused=refused,
    )


def _some(split: Any, count: int | None) -> Any:
    """Return so many images of a split, evenly spread; all where there are fewer."""
    if count is None or not isinstance(split, Split) or count >= len(split):
        return split
    chosen = evenly(len(split), count)
    index = chosen if split.index is None else [split.index[k] for k in chosen]
    return replace(split, index=index, labels=[split.labels[k] for k in chosen])


def _share(correct: Tensor) -> ProportionInterval:
    return proportion_interval(int(correct.sum()), len(correct))


def _paired(first: Tensor, second: Tensor) -> PairedDifference:
    return paired_difference(first.tolist(), second.tolist())
