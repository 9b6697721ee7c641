"""What each trained network said of each test image, kept beside its run.

`outcomes.safetensors` in the folder of a run holds, in the order of the test images, `label` and
`answer` (class indices, int32), `loss` (cross-entropy, float32) and, beyond five classes, `top5`
(whether the class is among the first five, uint8): 13 bytes an image.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from senet.analysis.over_images import Outcomes
from senet.errors import DataError, first_line, optional
from senet.insertion.saving import write_tensors
from senet.training.config import TrainConfig
from senet.training.data import ImageData
from senet.training.loop.module import channels_last, logits_of
from senet.training.loop.stopping import Stop

__all__ = ["FILE", "FORMAT", "kept_outcomes", "read_outcomes"]

FILE = "outcomes.safetensors"
FORMAT = "senet.outcomes/1"
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def kept_outcomes(
    network: Callable[[], nn.Module], data: ImageData, train: TrainConfig, folder: Path, stop: Stop
) -> Outcomes:
    """Return the outcomes of a run, of its folder or of a test that is made now and kept there.

    Args:
        network: makes the network with the weights of the run, which is tested in the precision of
            the training.
        data: the images.
        train: the recipe.
        folder: of the run.
        stop: ends the test.

    Raises:
        DataError: the file that is there cannot be read.
        Stopped: the user asked to stop.
    """
    if (folder / FILE).exists():
        return read_outcomes(folder)
    net = network().to(memory_format=torch.channels_last).eval()
    device = next(net.parameters()).device
    lower = _AUTOCAST.get(train.precision)
    precision = torch.autocast(device.type, lower) if lower else nullcontext()
    parts = []
    with torch.inference_mode(), precision:
        for images, labels in data.test_batches(train):
            stop.check()
            logits = logits_of(net(channels_last(images.to(device))))[0].float().cpu()
            best = logits.topk(min(5, logits.shape[1]), dim=1).indices
            parts.append(
                {
                    "label": labels.int(),
                    "answer": best[:, 0].int(),
                    "loss": F.cross_entropy(logits, labels, reduction="none"),
                    "top5": (best == labels[:, None]).any(1).byte(),
                }
            )
    kept = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    if len(data.classes) <= 5:
        del kept["top5"]
    write_tensors(folder / FILE, kept, {"format": FORMAT})
    return Outcomes(**kept)


def read_outcomes(folder: Path) -> Outcomes:
    """Return the outcomes of a run.

    Raises:
        DataError: there are none, or the file cannot be read.
    """
    with optional("keeping what networks say of each image"):
        from safetensors.torch import load_file

    try:
        return Outcomes(**load_file(folder / FILE))
    except Exception as error:  # files and disks fail in many ways
        raise DataError(
            f"{folder / FILE} cannot be read ({first_line(error)}); delete it, and --resume tests "
            "the network again"
        ) from error
