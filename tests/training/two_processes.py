"""A run of the tiny SE network, in one process or in as many as torchrun starts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from senet.blocks import SEBatchNorm2d
from senet.training import DataConfig, TrainConfig
from senet.training.data import load_data
from senet.training.loop.placement import Placement
from senet.training.loop.runner import Run, train_run
from senet.training.loop.stopping import Stop

# Mixing is left out: the partner of an image is one of the same process.
RECIPE = TrainConfig(
    epochs=3, batch_size=8, lr=0.05, accumulate=2, ema=0.8, sync_bn=True, label_smoothing=0.1
)


class TinySENet(nn.Module):
    """Two convolutions, each with an SE batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = SEBatchNorm2d(8, se={"reduction": 4})
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)
        self.bn2 = SEBatchNorm2d(16, se={"reduction": 4})
        self.linear = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def run(root: Path, out: Path, *, train: TrainConfig = RECIPE, stop_after: int = 0) -> Run:
    """Train; `stop_after` so many steps."""
    torch.manual_seed(0)
    data = load_data(DataConfig(str(root), image_size=8), input_size=(3, 8, 8))
    net, stop = TinySENet(), Stop()

    def progress(_what: str, done: int, _total: int) -> None:
        stop.requested = done == stop_after

    return train_run(
        *(net, data, train),
        folder=out,
        device=Placement("cpu"),
        title="tiny",
        on_progress=progress,
        stop=stop,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    root, out = Path(sys.argv[1]), Path(sys.argv[2])
    run(root, out, stop_after=5)  # in the middle of the second epoch
    trained = run(root, out)
    (out / f"rank{torch.distributed.get_rank()}.json").write_text(json.dumps(trained.epochs))
