"""The training step of networks with SE, as a multiple of the step of the same network without.

    python benchmarks/bench_train_step.py        # ResNet-50, fp32 and bf16: minutes on two cores
    python benchmarks/bench_train_step.py --networks all --batches 1 64 --images 64 224 --rounds 20

For each network, in one process, each step between two of the plain network:

    plain       the network without SE
    timm        timm's network with SE: modules in a row, each with its own passes
    reference   the plain network, changed by senet.insert; batch norm, then SE (set_backend)
    inserted    the same on the backend that "auto" chooses
    warm        the same after `senet.warm_up`: compiled for small maps, too
    zoo         the project's own network of that name; the addition and the ReLU are in the op too

A step is forward, cross entropy, backward. benchmarks/results/train_step.csv gets ms, the ratio to
the mean of the two plain steps around (median, its 95 % interval, quartiles), the bytes kept for
the backward, and on CUDA the peak of memory. glibc is told to keep freed memory (--allocator).
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import datetime
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from timeit import timeit
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]

from provenance import ALLOCATORS, allocate, commit, median_interval, processor  # noqa: E402

import senet  # noqa: E402
from senet import ops  # noqa: E402
from senet.cost.timing import interleave, quartiles, wait_for  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "train_step.csv"


@dataclass(frozen=True)
class Network:
    """A network without SE, timm's and the project's with SE, and where insertion puts SE."""

    plain: str
    timm: str | None
    zoo: str | None
    integration: str = "standard"


NETWORKS = {
    "resnet50": Network("torchvision/resnet50", "seresnet50", "se_resnet50"),
    "resnext50": Network("torchvision/resnext50_32x4d", "seresnext50_32x4d", "se_resnext50_32x4d"),
    "resnet152": Network("torchvision/resnet152", "seresnet152", "se_resnet152"),
    # SE behind the depthwise convolution and its activation; or before that
    "mobilenetv2": Network("torchvision/mobilenet_v2", None, None, "inner_act"),
    "mobilenetv2_norm": Network("torchvision/mobilenet_v2", None, None, "inner"),
    # the project's own, which need torch alone
    "own_resnet50": Network("resnet50", None, "se_resnet50"),
    "own_resnet20": Network("resnet20", None, "se_resnet20"),
}
VARIANTS = ("plain", "timm", "reference", "inserted", "warm", "zoo")


@dataclass(frozen=True)
class Row:
    """A line of the results."""

    network: str
    variant: str
    dtype: str
    memory_format: str
    mode: str
    batch: int
    image: int
    step_ms: float
    ratio: float
    ratio_lower: float
    ratio_upper: float
    median_low: float
    median_high: float
    kept_mib: float
    kept_ratio: float
    peak_mib: float
    first_step_s: float
    rounds: int
    allocator: str
    backend: str
    device: str
    threads: int
    torch: str
    timm: str
    senet: str
    commit: str
    date: str


def build(network: Network, variant: str, image: int) -> nn.Module | None:
    """Return the network in training, or None where there is no such variant."""
    if variant == "timm":
        if network.timm is None or find_spec("timm") is None:
            return None
        import timm

        return timm.create_model(network.timm).train()
    if variant == "zoo":
        if network.zoo is None:
            return None
        layout = {"layout": "torchvision"} if network.plain.startswith("torchvision") else {}
        return senet.create_model(network.zoo, **layout).train()
    model = senet.create_model(network.plain).train()
    if variant == "plain":
        return model
    config = senet.SEConfig(integration=network.integration, init="paper")
    senet.insert(model, torch.zeros(1, 3, image, image), config)
    return model


Batch = tuple[Tensor, Tensor]


def step(own: Iterable[nn.Parameter], call: Callable[..., Any], batch: Batch, dtype: str) -> None:
    """Forward and backward of one batch; the parameters' gradients are cleared."""
    forward(call, batch, dtype).backward()
    for parameter in own:
        parameter.grad = None


def forward(call: Callable[..., Any], batch: Batch, dtype: str) -> Tensor:
    """Return the loss, under autocast for a narrow dtype."""
    images, labels = batch
    with autocast(images, dtype):
        return F.cross_entropy(call(images).float(), labels)


def autocast(images: Tensor, dtype: str) -> torch.autocast:
    """Return autocast for a narrow dtype; else a context that does nothing."""
    narrow = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(dtype)
    return torch.autocast(images.device.type, narrow, enabled=narrow is not None)


@contextlib.contextmanager
def backend_of(variant: str) -> Iterator[None]:
    """Set the variant's backend."""
    with ops.use_backend("reference" if variant == "reference" else "auto"):
        yield


def kept_bytes(model: nn.Module, call: Callable[..., Any], batch: Any, dtype: str) -> int:
    """Return the bytes that a forward keeps for the backward, without parameters and buffers."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = forward(call, batch, dtype)
    total = sum(s.nbytes() for address, s in kept.items() if address not in own)
    del loss
    return total


def peak_mib(task: Callable[[], Any], device: torch.device) -> float:
    """Return the peak of the device's memory during a step, 0 on a CPU."""
    if device.type != "cuda":
        return 0.0
    torch.cuda.reset_peak_memory_stats(device)
    task()
    return torch.cuda.max_memory_allocated(device) / 2**20


def measure(name: str, dtype: str, mode: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure the variants of one network in turn."""
    began, device = time.perf_counter(), torch.device(options.device)
    layout = getattr(torch, options.memory_format)
    images = torch.randn(options.batch, 3, options.image, options.image, device=device)
    labels = torch.randint(0, 10, (options.batch,), device=device)
    batch = images.contiguous(memory_format=layout), labels
    tasks: dict[str, Callable[[], Any]] = {}
    rows: dict[str, dict[str, Any]] = {}
    for variant in options.variants:
        model = build(NETWORKS[name], variant, options.image)
        if model is None:
            continue
        model.to(device, memory_format=layout)
        if variant == "warm":
            with autocast(batch[0], dtype):
                senet.warm_up(model, batch[0])
        call = torch.compile(model) if mode == "compiled" else model

        def task(variant=variant, model=model, call=call) -> None:
            with backend_of(variant):
                step(model.parameters(), call, batch, dtype)

        first = timeit(task, number=1)
        with backend_of(variant):
            kept = kept_bytes(model, call, batch, dtype)
        tasks[variant] = task
        rows[variant] = {"kept": kept, "first_step_s": first, "peak_mib": peak_mib(task, device)}
    ratios, times = in_turn(tasks, options, began)
    for variant, row in rows.items():
        row |= {"variant": variant, "ratio": quartiles(ratios[variant])}
        row["interval"] = median_interval(ratios[variant])
        row["ms"] = quartiles(times[variant]).median
        row["kept_ratio"] = row["kept"] / rows["plain"]["kept"]
    return list(rows.values())


def in_turn(
    tasks: dict[str, Callable[[], Any]], options: argparse.Namespace, began: float
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Return the ratios to the mean of the two plain steps around, and ms, by variant."""
    others = [variant for variant in tasks if variant != "plain"]
    turns = {"plain": tasks["plain"]}
    for i, variant in enumerate(others):
        turns |= {variant: tasks[variant], f"plain {i}": tasks["plain"]}
    run = partial(interleave, turns, warmup=1, wait=wait_for(torch.device(options.device)))
    if options.seconds is not None:  # as many rounds as fit
        turn = sum(sum(samples) for samples in run(repeats=1).samples.values())
        left = options.seconds - (time.perf_counter() - began)
        options.rounds = min(options.most, max(3, int(1000 * left / turn) - 1))
    times = run(repeats=options.rounds).samples
    ratios = {"plain": [1.0] * options.rounds}
    before = times["plain"]
    for i, variant in enumerate(others):
        behind = times[f"plain {i}"]
        steps = zip(times[variant], before, behind, strict=True)
        ratios[variant] = [2 * own / (a + b) for own, a, b in steps]
        before = behind
    return ratios, dict(times)


def finished(row: dict[str, Any], name: str, dtype: str, mode: str, options: Any) -> Row:
    """Return the line of the results."""
    ratio, variant = row["ratio"], row["variant"]
    with backend_of(variant):
        backend = ops.backend(options.device).name
    return Row(
        network=name,
        variant=variant,
        dtype=dtype,
        memory_format=options.memory_format,
        mode=mode,
        batch=options.batch,
        image=options.image,
        step_ms=round(row["ms"], 2),
        ratio=round(ratio.median, 4),
        ratio_lower=round(ratio.lower, 4),
        ratio_upper=round(ratio.upper, 4),
        median_low=round(row["interval"][0], 4),
        median_high=round(row["interval"][1], 4),
        kept_mib=round(row["kept"] / 2**20, 2),
        kept_ratio=round(row["kept_ratio"], 4),
        peak_mib=round(row["peak_mib"], 1),
        first_step_s=round(row["first_step_s"], 1),
        rounds=options.rounds,
        allocator=options.allocator if options.device == "cpu" else "",
        backend="" if variant in ("plain", "timm") else backend,
        device=processor(options.device),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        timm=version("timm") if find_spec("timm") else "",
        senet=senet.__version__,
        commit=commit(),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )


def write(rows: list[Row], path: Path) -> None:
    """Append to the results."""
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        table = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator="\n")
        if new:
            table.writeheader()
        table.writerows(asdict(row) for row in rows)


def show(row: Row) -> None:
    """Print a row."""
    print(
        f"{row.network:12s} {row.dtype:5s} {row.mode:9s} {row.batch:3d} x {row.image:3d}"
        f" {row.variant:10s} {row.step_ms:9.1f} ms"
        f"  x {row.ratio:.3f} [{row.median_low:.3f} {row.median_high:.3f}]"
        f"  kept x {row.kept_ratio:.4f}  first step {row.first_step_s:.1f} s",
        flush=True,
    )


def arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--networks", nargs="+", default=["resnet50"], choices=[*NETWORKS, "all"])
    add("--variants", nargs="+", default=VARIANTS, choices=VARIANTS)
    add("--dtypes", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16", "fp16"])
    add("--modes", nargs="+", default=["eager"], choices=["eager", "compiled"])
    add("--memory-format", default="channels_last", choices=["channels_last", "contiguous_format"])
    add("--batches", type=int, nargs="+", default=[8])
    add("--images", type=int, nargs="+", default=[224])
    add("--rounds", type=int, default=10)
    add("--allocator", default="keeps memory", choices=ALLOCATORS)
    add("--threads", type=int, default=torch.get_num_threads())
    add("--device", default="cpu")
    add("--out", type=Path, default=RESULTS)
    parser.set_defaults(seconds=None)
    options = parser.parse_args()
    options.variants = list(dict.fromkeys(["plain", *options.variants]))
    options.networks = list(NETWORKS) if "all" in options.networks else options.networks
    return options


def main() -> None:
    """Measure, print and write."""
    options = arguments()
    allocate(options.allocator)
    torch.set_num_threads(options.threads)
    cases = itertools.product(
        options.networks, options.dtypes, options.modes, options.batches, options.images
    )
    for name, dtype, mode, options.batch, options.image in cases:
        if mode == "compiled":
            torch.compiler.reset()  # or the networks of all cases would share a recompile limit
        torch.manual_seed(0)
        measured = measure(name, dtype, mode, options)
        rows = [finished(row, name, dtype, mode, options) for row in measured]
        for row in rows:
            show(row)
        write(rows, options.out)
    print(f"backend {ops.backend(options.device)}; rows in {options.out}")


if __name__ == "__main__":
    main()
