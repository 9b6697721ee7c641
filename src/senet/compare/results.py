"""From finished runs to the result: what results.json holds and the report shows."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from senet import __version__
from senet.analysis import mean_std, paired_difference, verdict
from senet.compare.folder import SCHEMA
from senet.compare.settings import Settings
from senet.training.data import ImageData
from senet.training.loop.runner import Run

__all__ = ["ARCHS", "device_name", "new_result", "run_entry", "summarise"]

ARCHS = ("plain", "se")
_PACKAGES = ("torch", "torchvision", "timm", "lightning", "torchmetrics")


def new_result(settings: Settings, data: ImageData, *, command: str, device: str) -> dict[str, Any]:
    """Return the result of a comparison that has not begun."""
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "state": "partial",
        "command": command,
        "versions": _versions(),
        "device": device,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": settings.to_dict(),
        "data": data.summary(),
        "runs": [],
        "summary": {},
        "cost": None,
        "excitations": None,
    }
    return summarise(result)


def _versions() -> dict[str, str]:
    found = {"senet": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def device_name(device: torch.device) -> str:
    """Return the device with its hardware, as results name it."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({_processor()}, {torch.get_num_threads()} threads)"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def run_entry(arch: str, seed: int, run: Run) -> dict[str, Any]:
    """Return a run as the result holds it; at least one epoch must be finished and tested."""
    last = [epoch for epoch in run.epochs if epoch["test_accuracy"] is not None][-1]
    return {
        "arch": arch,
        "seed": seed,
        "test_accuracy": last["test_accuracy"],
        "test_loss": last["test_loss"],
        "epochs": run.epochs,
        "seconds": round(sum(epoch["seconds"] for epoch in run.epochs), 3),
        "state": "done" if run.done else "partial",
    }


def summarise(result: dict[str, Any]) -> dict[str, Any]:
    """Fill in the summary from the finished runs, and return the result."""
    found = {arch: _finished(result["runs"], arch) for arch in ARCHS}
    pairs = sorted(found["plain"].keys() & found["se"].keys())
    difference = None
    if pairs:
        difference = paired_difference(*([found[arch][seed] for seed in pairs] for arch in ARCHS))
    result["summary"] = {
        **{
            arch: asdict(mean_std(list(values.values()))) if values else None
            for arch, values in found.items()
        },
        "difference": asdict(difference) if difference else None,
        "verdict": verdict(difference),
    }
    return result


def _finished(runs: Sequence[Mapping[str, Any]], arch: str) -> dict[int, float]:
    """Return seed -> test accuracy of the finished runs."""
    done = [run for run in runs if run["arch"] == arch and run["state"] == "done"]
    return {run["seed"]: run["test_accuracy"] for run in done}
