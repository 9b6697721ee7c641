"""A network with published weights keeps every prediction, in closed form too."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from torch import Tensor

import senet
from senet.models import CifarResNet

COUNT = 2000
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


@pytest.fixture(scope="module")
def images(shared_data: Path) -> Tensor:
    """The first images of the CIFAR-10 (JPEG) test set, normalised, [N, 3, 32, 32]."""
    import numpy as np
    import pyarrow.parquet as parquet
    from PIL import Image

    table = parquet.read_table(shared_data / "cifar10" / "test.parquet").slice(0, COUNT)
    column = next(name for name in table.column_names if name != "label")
    files = [row["bytes"] if isinstance(row, dict) else row for row in table[column].to_pylist()]
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


@pytest.fixture(scope="module")
def pretrained(shared_data: Path) -> CifarResNet:
    file = shared_data / "weights" / "resnet20-12fca82f.th"
    saved = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    model = CifarResNet(depth=20, num_classes=10)
    model.load_state_dict({key.removeprefix("module."): value for key, value in saved.items()})
    return model.eval()


@torch.no_grad()
def test_every_class_stays(pretrained: CifarResNet, images: Tensor) -> None:
    plain = pretrained(images)
    senet.insert(pretrained, images[:2])
    for backend in ("reference", "eager", "inductor"):
        with senet.use_backend(backend):
            got = pretrained(images)
        assert torch.equal(got.argmax(1), plain.argmax(1)), backend
        assert (got - plain).abs().max() < (1e-4 if backend != "reference" else 1e-30), backend
