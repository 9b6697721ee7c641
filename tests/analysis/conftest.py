"""A comparison as `senet compare` writes it, with invented but plausible numbers."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
RESNET20 = [
    (f"layer{stage}.{unit}.bn2.se", stage - 1, 8 << stage)
    for stage in (1, 2, 3)
    for unit in (0, 1, 2)
]
Maker = Callable[..., dict[str, Any]]


def _run(arch: str, seed: int, epochs: int, state: str) -> dict[str, Any]:
    dice = random.Random(f"{arch} {seed}")
    best = 0.917 + 0.006 * (arch == "se") + dice.gauss(0, 0.0022)
    history = []
    for epoch in range(1, epochs + 1):
        progress = 1 - math.exp(-3.2 * epoch / 30)
        noise = dice.gauss(0, 0.02 * (1 - epoch / 34))
        accuracy = 0.32 + (best - 0.32) * progress / (1 - math.exp(-3.2)) + noise
        history.append(
            {
                "epoch": epoch,
                "train_loss": 1.9 * math.exp(-2.9 * epoch / 30) + dice.gauss(0, 0.01),
                "test_loss": 1.7 * math.exp(-2.2 * epoch / 30) + 0.12 + dice.gauss(0, 0.03),
                "test_accuracy": round(accuracy, 4),
            }
        )
    last = history[-1] if history else {}
    return {
        "arch": arch,
        "seed": seed,
        "test_accuracy": last.get("test_accuracy"),
        "test_loss": last.get("test_loss"),
        "epochs": history,
        "seconds": 912.0 + 118 * (arch == "se") + dice.gauss(0, 9),
        "state": state,
    }


def _excitations(classes: list[str], blocks: list[tuple[str, int, int]]) -> dict[str, Any]:
    dice = random.Random(0)
    entries = []
    for i, (path, stage, channels) in enumerate(blocks):
        apart = 0.02 + 0.16 * (i / len(blocks)) ** 2
        base = [1 + dice.gauss(0, 0.15) - 0.03 * i for _ in range(channels)]
        rows = [[round(max(0.0, b + dice.gauss(0, apart)), 5) for b in base] for _ in classes]
        entries.append(
            {
                "path": path,
                "stage": stage,
                "channels": channels,
                "mean": rows,
                "channel_mean": [sum(column) / len(rows) for column in zip(*rows, strict=True)],
                "overall_mean": sum(map(sum, rows)) / channels / len(rows),
                "overall_std": 0.15 + apart,
                "between_class_std": apart * 0.95,
                "within_class_std": 0.07 + apart / 3,
            }
        )
    return {
        "classes": classes,
        "classes_total": len(classes),
        "images": [100] * len(classes),
        "never_ran": [],
        "blocks": entries,
    }


def _cost() -> dict[str, Any]:
    counts = {
        "parameters": (269_722, 272_095),
        "macs": (2_595_266_560, 2_595_395_584),
        "bytes_moved_forward": (395_708_160, 462_781_824),
        "bytes_moved_step": (993_482_752, 1_282_480_384),
        "bytes_kept": (96_661_504, 118_945_024),
        "latency_ms": (28.4, 34.9),
        "step_ms": (104.2, 131.7),
    }
    measured = {"lower": 1.21, "median": 1.2437, "upper": 1.31}
    return {
        "schema": "senet.cost/1",
        "input": [[64, 3, 32, 32]],
        "dtype": "float32",
        "total": _columns(counts),
        "stages": [{"name": f"stage {s}", "stage": s} | _columns(counts) for s in (0, 1, 2)],
        "timing": {
            "device": "cpu",
            "repeats": 20,
            "latency_ms": {"ratio": measured},
            "step_ms": {"ratio": measured},
        },
        "unavailable": {},
    }


def _columns(counts: dict[str, tuple[float, float]]) -> dict[str, dict[str, float]]:
    return {
        "plain": {name: plain for name, (plain, _) in counts.items()},
        "se": {name: se for name, (_, se) in counts.items()},
        "difference": {name: se - plain for name, (plain, se) in counts.items()},
        "ratio": {name: se / plain for name, (plain, se) in counts.items()},
    }


@pytest.fixture(scope="session")
def make_result() -> Maker:
    """Return a function that makes a result; its options leave things out or change them."""

    def make(
        *,
        seeds: int = 3,
        arms: tuple[str, ...] = ("plain", "se"),
        finished: int | None = None,
        epochs: int = 30,
        classes: list[str] = CIFAR10,
        blocks: list[tuple[str, int, int]] = RESNET20,
        **changes: Any,
    ) -> dict[str, Any]:
        order = [(arch, seed) for seed in range(seeds) for arch in arms]
        finished = len(order) if finished is None else finished
        runs = [_run(arch, seed, epochs, "done") for arch, seed in order[:finished]]
        runs += [_run(arch, seed, epochs // 3, "partial") for arch, seed in order[finished:][:1]]
        result = {
            "schema": "senet.compare/2",
            "command": "senet compare --model resnet20 --data hfds/cifar10 --epochs 30 --seeds 3",
            "versions": {"senet": "0.1.0", "torch": "2.11.0", "python": "3.12.3", "timm": "1.0.31"},
            "device": "cpu, 2 cores",
            "date": "2030-01-02T03:04:05+00:00",
            "config": {
                "model": "resnet20",
                "data": "hfds/cifar10",
                "epochs": epochs,
                "arms": list(arms),
                "seeds": list(range(seeds)),
                "batch_size": 128,
                "lr": 0.1,
                "weight_decay": 1e-4,
                "se": {"reduction": 16, "integration": "standard", "stages": None}
                | {"init": "identity", "bias": True},
            },
            "data": {
                "name": "cifar10",
                "train_images": 50_000,
                "test_images": 10_000,
                "classes": classes,
                "image_size": [3, 32, 32],
            },
            "runs": runs,
            "summary": None,
            "cost": _cost(),
            "excitations": _excitations(classes, blocks),
        }
        return result | changes

    return make
