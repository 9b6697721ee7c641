"""Batch norm alone, batch norm and then SE, SE batch norm: the 16 of a ResNet-50, batch 8.

    python benchmarks/bench_blocks.py

Forward and backward of each module on maps of each stage, channels_last, in turn. A training step
of the whole network takes seconds on a CPU and varies by more than SE can cost; a block takes
milliseconds, so many rounds fit and the difference shows. Rows go to benchmarks/results/blocks.csv;
`network` rows are sums over the 16 blocks.
"""

from __future__ import annotations

import csv
import datetime
import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]

from bench_train_step import commit, processor  # noqa: E402  after the path

import senet  # noqa: E402
from senet.cost.timing import interleave, quartiles  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "blocks.csv"
STAGES = ((256, 56, 3), (512, 28, 4), (1024, 14, 6), (2048, 7, 3))  # channels, size, blocks
BATCH, ROUNDS, WARMUP = 8, 60, 4


def run(module: nn.Module, backend: str, x: Tensor, grad: Tensor) -> None:
    """Forward and backward."""
    x.grad = None
    with senet.use_backend(backend):
        module(x).backward(grad)


def measure(channels: int, size: int, dtype: torch.dtype) -> dict[str, list[float]]:
    """Return the samples in ms, by module."""
    x = torch.randn(BATCH, channels, size, size, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    grad = torch.randn_like(x)
    tasks = {
        "batch norm": partial(run, nn.BatchNorm2d(channels), "auto", x, grad),
        "then SE": partial(run, senet.SEBatchNorm2d(channels), "reference", x, grad),
        "SE batch norm": partial(run, senet.SEBatchNorm2d(channels), "auto", x, grad),
    }
    return interleave(tasks, repeats=ROUNDS, warmup=WARMUP).samples


def main() -> None:
    """Measure, print and write."""
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        total: dict[str, float] = {}
        for channels, size, blocks in STAGES:
            samples = measure(channels, size, dtype)
            plain = samples["batch norm"]
            for name, times in samples.items():
                ratio = quartiles([a / b for a, b in zip(times, plain, strict=True)])
                median = quartiles(times).median
                total[name] = total.get(name, 0.0) + blocks * median
                spread = (ratio.median, ratio.lower, ratio.upper)
                rows.append(
                    [dtype, f"{BATCH} x {channels} x {size} x {size}", name, median, *spread]
                )
        for name, milliseconds in total.items():
            ratio = milliseconds / total["batch norm"]
            rows.append([dtype, "network", name, milliseconds, ratio, "", ""])
    head = ["dtype", "map", "module", "ms", "ratio", "ratio_lower", "ratio_upper"]
    shared = {
        "rounds": ROUNDS,
        "device": processor("cpu"),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "senet": senet.__version__,
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    with RESULTS.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([*head, *shared])
        for dtype, *values in rows:
            cells = [round(v, 4) if isinstance(v, float) else v for v in values]
            print(str(dtype).removeprefix("torch."), *cells)
            table.writerow([str(dtype).removeprefix("torch."), *cells, *shared.values()])


if __name__ == "__main__":
    main()
