"""Runs of `senet train` in processes of their own, which can be killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from senet.training.loop.checkpoints import newest_checkpoint, read_checkpoint

# Fifteen steps an epoch on 480 digits, with all that has a state: momentum, averaged weights,
# dropout (none in this network, but mixup draws as it does), a schedule, accumulation.
OPTIONS = (
    *("--model", "se_resnet20", "--device", "cpu", "--save-every", "4"),
    *("--set", "train_images=480", "--set", "batch_size=32", "--set", "accumulate=2"),
    *("--set", "ema=0.9", "--set", "mixup=0.2", "--set", "cutout=2", "--set", "se_only_epochs=1"),
)


def command(out: Path, *options: str) -> list[str]:
    """The command line of a run that goes on with what is there."""
    return [sys.executable, "-m", "senet", "train", "--out", str(out), "--resume", *options]


def started(out: Path, *options: str) -> subprocess.Popen[str]:
    source = Path(__file__).resolve().parents[2] / "src"
    env = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.Popen(
        command(out, *options),
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finished(out: Path, *options: str) -> str:
    """Run to the end and return what it prints."""
    process = started(out, *options)
    printed, _ = process.communicate(timeout=600)
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {printed}")
    return printed


def step(out: Path) -> int:
    """The step of the newest checkpoint, 0 where there is none; damaged ones count."""
    return max((int(path.name.split("-")[1]) for path in out.glob("step-*.ckpt")), default=0)


def killed(out: Path, *options: str, after: int, draw: random.Random) -> dict[str, Any]:
    """Start, wait for a checkpoint of more than `after` steps, and kill at a random moment."""
    process = started(out, *options)
    while step(out) <= after and process.poll() is None:
        time.sleep(0.01)
    delay = draw.uniform(0, 0.6)
    time.sleep(delay)
    ended = process.poll() is not None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return {
        "newest_step": step(out),
        "seconds_after_a_checkpoint": round(delay, 3),
        "half_written_files": len(list(out.glob("*.partial"))),
        "had_ended": ended,
    }


def weights(out: Path) -> dict[str, torch.Tensor]:
    """All that the last checkpoint knows of the network: weights, averaged weights, statistics."""
    path = newest_checkpoint(out)
    if path is None:
        raise RuntimeError(f"no checkpoint in {out}")
    state: dict[str, torch.Tensor] = read_checkpoint(path)["state_dict"]
    return state


def different(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    """The names of the tensors that are not equal to the last bit."""
    if a.keys() != b.keys():
        return sorted(a.keys() ^ b.keys())
    return [name for name in a if not torch.equal(a[name], b[name])]
