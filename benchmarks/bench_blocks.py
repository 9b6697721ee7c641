"""What SE adds to the norms that it stands behind in a network, batch 8, 224 x 224 pixels.

    python benchmarks/bench_blocks.py

ResNet-50: behind the 16 last batch norms of the branches. MobileNetV2: behind the 17 batch norms of
the depthwise convolutions and the activation that follows, once with its ReLU6 and once with
EfficientNet's SiLU. Forward and backward on the maps of each stage, channels_last, in turn:
without SE; then SE, module after module; and SE as one op with what it stands behind, also after
`senet.warm_up`. glibc is told to keep freed memory. A training
step of the whole network varies by more than SE can cost; a block takes milliseconds, so many
rounds fit and the difference shows. Rows go to benchmarks/results/blocks.csv; `all` rows are sums
over the blocks of the network.
"""

from __future__ import annotations

import copy
import csv
import datetime
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]

from provenance import ALLOCATORS, allocate, commit, processor  # noqa: E402  after the path

import senet  # noqa: E402
from senet.cost.timing import interleave, quartiles  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "blocks.csv"
BATCH, ROUNDS, WARMUP = 8, 60, 4
MODULES = ALONE, AFTER, INSIDE, WARM = "without SE", "then SE", "one op", "after warm_up"

# channels, size, how many blocks
RESNET50 = ((256, 56, 3), (512, 28, 4), (1024, 14, 6), (2048, 7, 3))
MOBILENETV2 = (
    *((32, 112, 1), (96, 56, 1), (144, 56, 1), (144, 28, 1), (192, 28, 2)),
    *((192, 14, 1), (384, 14, 4), (576, 14, 2), (576, 7, 1), (960, 7, 3)),
)
# name: the activation between norm and block, or None; the maps
NETWORKS = {
    "ResNet-50": (None, RESNET50),
    "MobileNetV2, ReLU6": (nn.ReLU6, MOBILENETV2),
    "MobileNetV2, SiLU": (nn.SiLU, MOBILENETV2),
}


def modules(channels: int, activation: type[nn.Module] | None) -> tuple[nn.Module, nn.Module]:
    """Return the norm without SE, and with the block that `senet.insert` gives it."""

    def layers() -> nn.Sequential:
        act = () if activation is None else (activation(inplace=True),)
        return nn.Sequential(nn.Conv2d(3, channels, 1), nn.BatchNorm2d(channels), *act)

    plain, changed = layers(), layers()
    if activation is None:
        changed[1] = senet.SEBatchNorm2d(channels)
    else:
        senet.insert(changed, torch.zeros(1, 3, 8, 8), senet.SEConfig(init="paper"))
    return plain[1:], changed[1:]


def run(module: nn.Module, backend: str, x: Tensor, grad: Tensor) -> None:
    """Forward and backward."""
    x.grad = None
    module.zero_grad()
    with senet.use_backend(backend):
        module(x).backward(grad)


def measure(
    channels: int, size: int, activation: type[nn.Module] | None, dtype: torch.dtype
) -> dict[str, list[float]]:
    """Return the samples in ms, by module."""
    x = torch.randn(BATCH, channels, size, size, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    grad = torch.randn_like(x)
    plain, changed = modules(channels, activation)
    senet.warm_up(warm := copy.deepcopy(changed), x)
    tasks = {
        ALONE: partial(run, plain, "auto", x, grad),
        AFTER: partial(run, changed, "reference", x, grad),
        INSIDE: partial(run, changed, "auto", x, grad),
        WARM: partial(run, warm, "auto", x, grad),
    }
    return interleave(tasks, repeats=ROUNDS, warmup=WARMUP).samples


def rows_of(name: str, dtype: torch.dtype) -> list[list[Any]]:
    """Measure the blocks of a network."""
    rows: list[list[Any]] = []
    kind, total = str(dtype).removeprefix("torch."), dict.fromkeys(MODULES, 0.0)
    activation, stages = NETWORKS[name]
    for channels, size, blocks in stages:
        samples = measure(channels, size, activation, dtype)
        where = [name, kind, f"{BATCH} x {channels} x {size} x {size}"]
        for module, times in samples.items():
            ratio = quartiles([a / b for a, b in zip(times, samples[ALONE], strict=True)])
            median = quartiles(times).median
            total[module] += blocks * median
            rows.append([*where, module, median, ratio.median, ratio.lower, ratio.upper])
    for module, milliseconds in total.items():
        rows.append([name, kind, "all", module, milliseconds, milliseconds / total[ALONE], "", ""])
    return rows


def main() -> None:
    """Measure, print and write."""
    allocate(ALLOCATORS[0])
    head = ["network", "dtype", "map", "module", "ms", "ratio", "ratio_lower", "ratio_upper"]
    shared = {
        "rounds": ROUNDS,
        "device": processor("cpu"),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "senet": senet.__version__,
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    rows = []
    for name in NETWORKS:
        for dtype in (torch.float32, torch.bfloat16):
            for row in rows_of(name, dtype):
                cells = [round(v, 4) if isinstance(v, float) else v for v in row]
                print(*cells, flush=True)
                rows.append(cells)
    with RESULTS.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([*head, *shared])
        table.writerows([*cells, *shared.values()] for cells in rows)


if __name__ == "__main__":
    main()
