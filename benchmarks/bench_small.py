"""What SE costs where maps are small: counts per block, ratios of steps, bytes, and compilation.

    python benchmarks/bench_small.py                     # all, at rest; more than an hour
    python benchmarks/bench_small.py --what counts kept  # exact under load
    python benchmarks/bench_small.py --what steps --loads 6 --clock cpu  # on a loaded machine

counts      operators, allocations, Python calls and autograd nodes of a block, forward + backward
kept        bytes kept for the backward, as a multiple of the network's without SE
steps       time of a training step (and a forward), each step with SE between two without
thresholds  a branch's tail, or an activation with SE behind it, without SE and on three backends,
            2^13 to 2^24 values: `auto`'s ground
first       seconds of `senet.warm_up` in a fresh process, with and without Inductor's disk cache

Variants of a network: `reference` (batch norm, then SE), `auto`, `warm` (after `senet.warm_up`).
Where weights lie in memory moves a step by 2 %, so steps are of several loads of the networks. Each
gives the median of its rounds; a row has the median of the loads, and their number as its `rounds`
(up to commit 03f2dd8 it had the rounds of five loads together). A step is forward, loss, backward.
glibc is told to keep freed memory, unless with `--allocator glibc`.
Rows are appended to benchmarks/results/small.csv as they come. What is there of this processor,
number of threads, clock, allocator, version of torch and commit is not measured again, so a run
that was stopped goes on.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]

from bench_train_step import forward, kept_bytes, step  # noqa: E402  after the path
from provenance import ALLOCATORS, allocate, commit, median_interval, processor  # noqa: E402
from small_counts import block_counts, first  # noqa: E402

import senet  # noqa: E402
from senet.blocks import residual_tail  # noqa: E402
from senet.blocks.fusion import batch_norm_se  # noqa: E402
from senet.cost.timing import interleave, quartiles, wait_for  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "small.csv"
WHAT = ("counts", "kept", "steps", "thresholds", "first")
VARIANTS = ("reference", "auto", "warm")
PARTS = ("forward", "backward", "evaluation")
# name: the network without SE, where insertion puts SE, channels of the images
NETWORKS = {
    "resnet20": ("resnet20", "standard", 3),
    "resnet50": ("resnet50", "standard", 3),
    "mobilenetv2_norm": ("torchvision/mobilenet_v2", "inner", 3),
}
# network, dtype, batch, image: the rows that SE should be free in
CASES = (
    ("resnet20", "fp32", 64, 8),
    ("resnet20", "fp32", 64, 16),
    ("resnet20", "fp32", 64, 32),
    ("resnet50", "bf16", 1, 64),
    ("resnet50", "bf16", 8, 64),
    ("resnet50", "bf16", 32, 64),
    ("resnet50", "bf16", 8, 224),
    ("resnet50", "fp32", 8, 224),
    ("mobilenetv2_norm", "bf16", 8, 224),
)
AROUND = {"reference": (0, 2), "auto": (0, 1), "warm": (1, 2)}  # the plain steps
BLOCK = (64, 16, 8, 8)  # the first stage of a ResNet-20 on images of 8 x 8
TAILS = (
    *(("fp32", 8, 64, side) for side in (4, 8, 16, 32, 64)),  # 2^13, 2^15, ..., 2^21 values
    *(("fp32", 64, 64, 2), ("bf16", 64, 64, 2), ("fp32", 64, 16, 8), ("bf16", 64, 16, 8)),
    *(("bf16", 1, 512, 8), ("bf16", 8, 256, 16), ("fp32", 32, 2048, 2)),
    *((kind, 8, *sizes) for sizes in ((512, 28), (256, 56)) for kind in ("fp32", "bf16")),
)  # dtype, batch, channels, side
INSIDE = {"relu6": nn.ReLU6, "silu": nn.SiLU, "hardswish": nn.Hardswish}
INSIDES = (
    *(("fp32", 8, 96, 4), ("fp32", 8, 384, 14), ("bf16", 8, 384, 14)),
    *(("bf16", 8, 144, 28), ("bf16", 8, 144, 56), ("bf16", 8, 96, 112)),
)


@dataclass(frozen=True)
class Row:
    """A line of the results: one quantity of one case."""

    what: str
    case: str
    dtype: str
    batch: int
    image: int
    variant: str
    quantity: str
    value: float
    low: float
    high: float
    rounds: int
    clock: str
    allocator: str
    load: float
    device: str
    threads: int
    torch: str
    senet: str
    commit: str
    date: str


class Results:
    """The file of rows; knows which are there."""

    def __init__(self, path: Path, device: str, clock: str, allocator: str) -> None:
        self.path, self.how = path, (clock, allocator)
        self.shared = {
            "device": processor(device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "senet": senet.__version__,
            "commit": commit(),
        }
        known = {name: str(value) for name, value in self.shared.items()}
        known |= {"clock": clock, "allocator": allocator}
        there = list(csv.DictReader(path.open())) if path.exists() else []
        self.done = {
            (row["what"], row["case"], row["dtype"], row["batch"], row["image"])
            for row in there
            if known.items() <= row.items()
        }

    def has(self, what: str, case: str, dtype: str, batch: int, image: int) -> bool:
        """Whether a case has been measured."""
        return (what, case, dtype, str(batch), str(image)) in self.done

    def add(
        self, key: tuple[str, str, str, int, int], samples: dict[tuple[str, str], list[float]]
    ) -> None:
        """Append the values of a case: {(variant, quantity): samples}."""
        rows = []
        for (variant, quantity), values in samples.items():
            low, high = median_interval(values) if len(values) > 1 else (values[0],) * 2
            middle = round(quartiles(values).median, 4)
            measured = (variant, quantity, middle, round(low, 4), round(high, 4), len(values))
            load, day = os.getloadavg()[0], datetime.datetime.now(datetime.UTC).date().isoformat()
            rows.append(Row(*key, *measured, *self.how, round(load, 1), **self.shared, date=day))
            print(*key, variant, quantity, middle, f"[{low:.4f} {high:.4f}]", flush=True)
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            if new:
                table.writerow([field.name for field in fields(Row)])
            table.writerows(astuple(row) for row in rows)


def build(name: str, variant: str, batch: Tensor, dtype: str) -> nn.Module:
    """Return a network in training, without SE or with it."""
    plain, integration, _ = NETWORKS[name]
    torch.manual_seed(0)
    model = senet.create_model(plain).train()
    if variant != "plain":
        config = senet.SEConfig(integration=integration, init="paper")
        senet.insert(model, batch[:1], config)
    model.to(batch.device, memory_format=torch.channels_last)
    if variant == "warm":
        narrow = {"bf16": torch.bfloat16}.get(dtype)
        with torch.autocast(batch.device.type, narrow, enabled=narrow is not None):
            senet.warm_up(model, batch)
    return model


def data(name: str, batch: int, image: int, device: str) -> tuple[Tensor, Tensor]:
    """Return images and labels."""
    torch.manual_seed(0)
    images = torch.randn(batch, NETWORKS[name][2], image, image, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    return images, torch.zeros(batch, dtype=torch.long, device=device)


def tasks_of(
    model: nn.Module, variant: str, batch: tuple[Tensor, Tensor], dtype: str
) -> dict[str, Callable[[], Any]]:
    """Return a training step, a forward of one, and the count of the bytes that it keeps."""
    backend = "reference" if variant == "reference" else "auto"

    def on(function: Callable[..., Any]) -> Any:
        with senet.use_backend(backend):
            return function()

    own = list(model.parameters())  # as an optimizer has them, without a walk through the modules
    train = partial(step, own, model, batch, dtype)
    kept = partial(kept_bytes, model, model, batch, dtype)
    ahead = partial(forward, model, batch, dtype)
    return {name: partial(on, task) for name, task in
            {"step": train, "forward": ahead, "kept": kept}.items()}  # fmt: skip


def networks(options: argparse.Namespace) -> Iterator[tuple[str, str, int, int]]:
    """Return the cases of these sizes of image, or the smallest alone."""
    yield from (case for case in CASES[: 1 if options.smoke else None] if case[3] in options.images)


def kept(case: tuple[str, str, int, int], device: str) -> dict[tuple[str, str], list[float]]:
    """Return bytes kept, and their ratio to those of the network without SE."""
    name, dtype, size, image = case
    batch = data(name, size, image, device)
    sizes: dict[str, int] = {}
    for variant in ("plain", *VARIANTS):
        model = build(name, variant, batch[0], dtype)
        tasks = tasks_of(model, variant, batch, dtype)
        tasks["step"]()
        sizes[variant] = tasks["kept"]()
    return {(v, "kept / plain"): [sizes[v] / sizes["plain"]] for v in VARIANTS}


def steps(
    case: tuple[str, str, int, int], options: argparse.Namespace, clock: Callable[[], float]
) -> dict[tuple[str, str], list[float]]:
    """Return each load's ratios of steps and forwards with SE to the plain ones around them."""
    name, dtype, size, image = case
    batch, measured = data(name, size, image, options.device), defaultdict(list)
    wait = wait_for(torch.device(options.device))
    repeats = 2 * -(-options.rounds // (2 * options.loads))
    for load in range(options.loads):
        order = ("plain", *VARIANTS)[:: 1 if load % 2 else -1]
        models = {v: build(name, v, batch[0], dtype) for v in order}
        for part in ("step", "forward"):
            tasks = {v: tasks_of(model, v, batch, dtype)[part] for v, model in models.items()}
            # every second round goes backwards, so what stands at an end runs twice: not plain
            names = ("reference", "plain 0", "auto", "plain 1", "warm", "plain 2", "last")
            turns = {each: tasks[each.split()[0]] for each in names[:-1]}
            turns["last"] = tasks["reference"]
            times = interleave(turns, repeats=repeats, warmup=2, wait=wait, clock=clock).samples
            measured["plain", f"{part} ms"].append(median(times["plain 0"]))
            for variant, (i, j) in AROUND.items():
                around = zip(times[f"plain {i}"], times[f"plain {j}"], strict=True)
                pairs = zip(times[variant], around, strict=True)
                ratio = median(2 * own / sum(pair) for own, pair in pairs)
                measured[variant, f"{part} / plain"].append(ratio)
    return measured


def block_of(norm: nn.Module, u: Tensor, identity: Tensor, inside: str | None) -> Tensor:
    """Return what stands behind a convolution: the tail of a branch, or norm, activation, SE."""
    if inside is None:
        return residual_tail(norm, u, identity, nn.ReLU())
    if type(norm) is nn.Sequential:
        return norm(u)
    return batch_norm_se(norm, norm.se, u, inside=inside)


def threshold(
    dtype: str, size: tuple[int, ...], inside: str | None, rounds: int, clock: Callable[[], float]
) -> dict[tuple[str, str], list[float]]:
    """Return milliseconds of a block: a training step in its parts, evaluation."""
    measured: dict[tuple[str, str], list[float]] = defaultdict(list)
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    maps = [torch.randn(size).to(kind).contiguous(memory_format=torch.channels_last) for _ in "uig"]
    u, identity, grad = maps[0].requires_grad_(), maps[1].requires_grad_(), maps[2]
    plain = nn.BatchNorm2d(size[1])
    norms = {"plain": nn.Sequential(plain, INSIDE[inside]()) if inside else plain}
    norms |= dict.fromkeys(("reference", "inductor", "native"), senet.SEBatchNorm2d(size[1]))
    for turn in range((20 if u.numel() < 2**20 else 2) * rounds + 5):
        for backend, norm in norms.items():
            with senet.use_backend("reference" if backend == "plain" else backend):
                start = clock()
                y = block_of(norm.train(), u, identity, inside)
                middle = clock()
                y.backward(grad)
                end = clock()
                with torch.no_grad():
                    block_of(norm.eval(), u, identity, inside)
                parts = middle - start, end - middle, clock() - end
            u.grad = identity.grad = None
            for part, seconds in zip(PARTS, parts, strict=True) if turn >= 5 else ():
                measured[backend, f"{part} ms"].append(1e3 * seconds)
    return measured


def measure(what: str, options: argparse.Namespace, results: Results) -> None:
    """Measure what is not there yet of one kind."""
    clock = {"wall": time.perf_counter, "cpu": time.process_time}[options.clock]
    rounds, device = options.rounds, options.device
    todo: list[tuple[tuple[str, str, int, int], Callable[[], Any]]] = []
    if what == "counts":
        todo = [(("SEBatchNorm2d", "fp32", BLOCK[0], BLOCK[2]), partial(block_counts, BLOCK))]
    elif what == "kept":
        todo = [(case, partial(kept, case, device)) for case in networks(options)]
    elif what == "steps":
        todo = [(case, partial(steps, case, options, clock)) for case in networks(options)]
    elif what == "thresholds":
        blocks = [*((None, *tail) for tail in TAILS), *((a, *t) for t in INSIDES for a in INSIDE)]
        for inside, kind, *sizes in blocks[: 1 if options.smoke else None]:
            size = (*sizes, sizes[-1])
            name = " ".join(("x".join(map(str, size)), *([inside] if inside else [])))
            task = partial(threshold, kind, size, inside, rounds, clock)
            todo.append(((name, kind, size[0], size[2]), task))
    else:
        small, large = ("resnet20", "fp32", 64, 8), ("resnet50", "fp32", 8, 64)
        for case in (small,) if options.smoke else (small, large):
            todo.append((case, partial(first, ROOT / "src", case[0], *case[2:])))
    for case, task in todo:
        if not results.has(what, *case):
            results.add((what, *case), task())


def arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--what", nargs="+", default=WHAT, choices=WHAT)
    add("--rounds", type=int, default=30)
    add("--loads", type=int, default=12, help="of the networks, for steps; they share the rounds")
    add("--clock", default="wall", choices=["wall", "cpu"], help="cpu: seconds of this process")
    add("--threads", type=int, default=torch.get_num_threads())
    add("--device", default="cpu")
    add("--images", nargs="+", type=int, default=(8, 16, 32, 64, 224), help="of kept and steps")
    add("--allocator", default="keeps memory", choices=ALLOCATORS)
    add("--smoke", action="store_true", help="the smallest case of each kind")
    add("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if min(options.loads, options.rounds) < 1:
        parser.error("--loads and --rounds must be at least 1")
    return options


def main() -> None:
    """Measure, print and append."""
    options = arguments()
    allocate(options.allocator)
    torch.set_num_threads(options.threads)
    results = Results(options.out, options.device, options.clock, options.allocator)
    for what in options.what:
        measure(what, options, results)
    print(f"{senet.backend(options.device)}; rows in {options.out}")


if __name__ == "__main__":
    main()
