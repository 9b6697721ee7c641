"""What SE costs on a GPU: every row of the aims, in less than nine minutes, with torch alone.

    make gpu                                 # the tests on a GPU, then this
    python benchmarks/bench_gpu.py --budget 370
    python benchmarks/bench_gpu.py --device cpu --smoke --out build/gpu.csv  # the same, tiny

Training steps of networks with SE as multiples of the step of the same network without, each
between two of it, and the peaks of memory: ResNet-50 with batch 128, 224 pixels, bfloat16 and
channels_last, eager and compiled; MobileNetV2 with SE behind the norm; small maps, also after
`senet.warm_up`. Networks, variants and columns are those of bench_train_step.py.

Each row runs in a process of its own, with a share of what is left of the budget, and is written as
soon as it is measured; one that fails or takes too long does not stop the others. The project's own
networks need torch alone; rows that need torchvision are left out where it is not installed.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from bench_train_step import RESULTS as STEPS
from bench_train_step import finished, measure, show, write

RESULTS = STEPS.parent / "gpu.csv"
START = 15  # seconds that a process needs before it measures


class Case(NamedTuple):
    """A row: what runs, and its share of the time."""

    network: str
    mode: str
    batch: int
    image: int
    variants: tuple[str, ...] = ("inserted", "zoo")
    dtype: str = "bf16"
    share: float = 1.0


# the most wanted first; a network under torch.compile takes most of its time for that
CASES = (
    Case("own_resnet50", "eager", 128, 224, ("reference", "inserted", "zoo"), share=1.5),
    Case("own_resnet50", "compiled", 128, 224, ("inserted",), share=5),
    Case("own_resnet20", "eager", 64, 8, ("reference", "inserted", "warm")),
    Case("own_resnet20", "eager", 64, 32, ("reference", "inserted", "warm")),
    Case("own_resnet50", "eager", 8, 64, ("inserted", "warm")),
    Case("mobilenetv2_norm", "eager", 128, 224, ("reference", "inserted")),
    Case("own_resnet50", "eager", 8, 224),
    Case("own_resnet50", "eager", 32, 224, dtype="fp32"),
    Case("resnet50", "eager", 128, 224, ("timm", "inserted")),
    Case("mobilenetv2_norm", "compiled", 128, 224, ("inserted",), share=3),
    Case("own_resnet50", "compiled", 128, 224, ("zoo",), share=5),
)


def missing(case: Case) -> str | None:
    """Return the package that a case needs and that is not there."""
    needed = () if case.network.startswith("own_") else ("torchvision", "timm")
    needed = needed[: 2 if "timm" in case.variants else 1]
    return next((package for package in needed if find_spec(package) is None), None)


def small(case: Case) -> Case:
    """Return the same on a network and a batch that a CPU runs in seconds."""
    return case._replace(network="own_resnet20", batch=2, image=8)


def measure_one(options: argparse.Namespace) -> None:
    """Measure one case in this process, and write its rows."""
    import torch

    case = CASES[options.only]
    case = small(case) if options.smoke else case
    variants = [v for v in case.variants if v != "timm"] if options.smoke else case.variants
    settings = argparse.Namespace(
        device=options.device,
        memory_format="channels_last",
        batch=case.batch,
        image=case.image,
        variants=["plain", *variants],
        rounds=3,
        most=3 if options.smoke else 50,
        allocator="glibc",
        seconds=options.seconds,
    )
    torch.manual_seed(0)
    measured = measure(case.network, case.dtype, case.mode, settings)
    rows = [finished(row, case.network, case.dtype, case.mode, settings) for row in measured]
    plain = rows[0].peak_mib
    for row in rows:
        show(row)
        if plain:
            print(f"    peak of memory {row.peak_mib:.0f} MiB, x {row.peak_mib / plain:.3f}")
    write(rows, options.out)


def measure_all(options: argparse.Namespace) -> int:
    """Measure the cases in turn, each in a process; return how many were not measured."""
    began, failed = time.perf_counter(), []
    for i, case in enumerate(CASES):
        name = f"{case.network} {case.dtype} {case.mode} {case.batch} x {case.image}"
        if not options.smoke and (package := missing(case)) is not None:
            print(f"left out: {name} needs {package}", flush=True)
            continue
        left = options.budget - (time.perf_counter() - began)
        if left < START:
            failed.append(f"{name}: no time was left")
            continue
        share = left * case.share / sum(each.share for each in CASES[i:])
        limit = min(left, 2 * share)
        command = [sys.executable, __file__, "--only", str(i), "--device", options.device]
        command += ["--out", str(options.out), "--seconds", str(max(1.0, share - START))]
        command += ["--smoke"] if options.smoke else []
        try:
            subprocess.run(command, check=True, timeout=limit)
        except subprocess.TimeoutExpired:
            failed.append(f"{name}: not done in {limit:.0f} s")
        except subprocess.CalledProcessError as error:
            failed.append(f"{name}: ended with code {error.returncode}")
    for line in failed:
        print(line, file=sys.stderr)
    there = len(list(csv.reader(options.out.open()))) - 1 if options.out.exists() else 0
    print(f"{there} rows in {options.out}, after {time.perf_counter() - began:.0f} s")
    return len(failed)


def main() -> int:
    """Measure all cases, or in a process of its own one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--device", default="cuda")
    add("--budget", type=float, default=370, help="seconds for all")
    add("--smoke", action="store_true", help="tiny networks and batches, to see that all runs")
    add("--out", type=Path, default=RESULTS)
    add("--only", type=int, help=argparse.SUPPRESS)
    add("--seconds", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only is None:
        return min(1, measure_all(options))
    measure_one(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
