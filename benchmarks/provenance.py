"""What a row of results says of its origin, and of the certainty of a median; the allocator."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from pathlib import Path

import torch

__all__ = ["ALLOCATORS", "allocate", "commit", "median_interval", "processor"]

ROOT = Path(__file__).resolve().parent.parent
# glibc gives the memory of maps back to the system, and which network waits for new pages depends
# on the order of its maps more than on SE. "keeps memory" tells it not to, as other allocators do.
ALLOCATORS = ("keeps memory", "glibc")
_KEEPS = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184"}


def allocate(allocator: str) -> None:
    """Start this program again, with this allocator, unless it has it."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    wanted = others | (_KEEPS if allocator == ALLOCATORS[0] else {})
    if wanted != dict(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.argv], wanted)


def median_interval(values: list[float]) -> tuple[float, float]:
    """Return the 95 % interval of the median, of any distribution: two of the values.

    The k-th smallest of n values lies above the median if fewer than k of n fair coins show heads.
    Below 6 values no two of them are far enough apart, and the interval is all there is.
    """
    n, k, outside = len(values), 0, 0.5 ** len(values)
    while outside <= 0.025:
        k += 1
        outside += math.comb(n, k) * 0.5**n
    k = max(k, 1)
    return sorted(values)[k - 1], sorted(values)[n - k]


def commit() -> str:
    """Return what was measured."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "uncommitted"


def processor(device: str) -> str:
    """Return the name of what computes."""
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":")[1].strip() for line in text.splitlines() if "model name" in line]
    best = torch.backends.cpu.get_cpu_capability()
    return f"{names[0] if names else platform.processor()} ({best})"
