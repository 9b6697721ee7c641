"""What the tests of training share: images that are easy to tell apart, and a small net."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from senet.compare import compare
from senet.schema import overridden
from senet.training import DataConfig, TrainConfig
from senet.training.config import RunConfig
from senet.training.data import ImageData, load_data
from senet.training.loop.placement import Placement

COLOURS = {"blue": (40, 60, 200), "green": (40, 200, 60), "red": (200, 60, 40)}


def coloured_image(colour: str, index: int, *, size: int = 8) -> Image.Image:
    """A square of one colour with noise that depends on the index."""
    noise = np.random.default_rng([index, *COLOURS[colour]]).integers(-40, 40, (size, size, 3))
    return Image.fromarray((np.array(COLOURS[colour]) + noise).clip(0, 255).astype(np.uint8))


def image_folder(
    root: Path,
    *,
    train: int = 12,
    test: int = 4,
    size: int = 8,
    colours: tuple[str, ...] = ("blue", "red"),
    names: tuple[str, str] = ("train", "test"),
) -> Path:
    """An image folder with so many images of each colour in its two splits."""
    for split, count, first in ((names[0], train, 0), (names[1], test, 1000)):
        for colour in colours:
            folder = root / split / colour
            folder.mkdir(parents=True)
            for index in range(first, first + count):
                coloured_image(colour, index, size=size).save(folder / f"{index:04}.png")
    return root


def parquet_folder(root: Path, *, train: int = 12, test: int = 4, size: int = 8) -> Path:
    """The same as a folder that Hugging Face datasets reads; the labels are class labels."""
    datasets = pytest.importorskip("datasets", reason="reads what Hugging Face datasets writes")

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["blue", "red"])}
    )
    for split, count, first in (("train", train, 0), ("test", test, 1000)):
        rows: dict[str, list[Any]] = {"image": [], "label": []}
        for index in range(first, first + count):
            for label, colour in enumerate(("blue", "red")):
                file = io.BytesIO()
                coloured_image(colour, index, size=size).save(file, "png")
                rows["image"].append({"bytes": file.getvalue(), "path": None})
                rows["label"].append(label)
        root.mkdir(exist_ok=True)
        datasets.Dataset.from_dict(rows, features).to_parquet(str(root / f"{split}.parquet"))
    return root


class TinyNet(nn.Module):
    """One residual unit, with dropout: training draws random numbers inside the network too."""

    def __init__(self, num_classes: int, in_chans: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        )
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.dropout = nn.Dropout(0.2)
        self.linear = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(self.branch(x) + x)
        logits: Tensor = self.linear(self.dropout(x.mean((2, 3))))
        return logits


def tiny_net(num_classes: int, in_chans: int) -> nn.Module:
    return TinyNet(num_classes, in_chans)


def tiny_data(root: Path, **options: Any) -> ImageData:
    """An image folder, loaded at 8 px."""
    folder = image_folder(root / "images", **options)
    return load_data(DataConfig(str(folder), image_size=8), input_size=(3, 8, 8))


def compared(coloured: DataConfig, out: Path, **options: Any) -> dict[str, Any]:
    """A comparison of seconds; other options as `senet.compare.compare` takes them."""
    given = {"model": tiny_net, "data": coloured, "train": RECIPE, "seeds": 2}
    return compare(out=out, **({"device": "cpu", "timing": False} | given | options))


CPU = Placement("cpu")
CONFIG = overridden(
    RunConfig(),
    {
        "model": "resnet20", "se": {"reduction": 4, "init": "identity"}, "train_images": 200,
        "epochs": 4, "batch_size": 50, "lr": 0.05, "ema": 0.5, "cutout": 2, "mixup": 0.2,
        "cutmix": 1.0, "drop_path_rate": 0.2, "se_only_epochs": 1, "freeze_bn_epochs": 1,
        "clip_norm": 5.0,
    },
)  # fmt: skip

RECIPE = TrainConfig(epochs=3, batch_size=8, lr=0.05, warmup_epochs=0.5)
