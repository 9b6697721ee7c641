"""Latency of networks with SE over the plain network, in PyTorch and in other engines.

For each network, engine, precision and batch size these take turns, so that a machine whose speed
drifts slows all of them alike:

    plain        without SE, its batch norms folded: what the others are divided by
    undeployed   with SE, as it was trained, or as timm and torchvision build it
    deployed     after `senet.deploy`
    portable     after `senet.deploy(form="portable")`: the blocks as a module of their own
    blocked      in ONNX Runtime, after `senet.export(form="blocked")`
    timm         where SE is inserted: timm's module behind the same batch norms, not deployed
    warm         in PyTorch, where SE is inserted: after `senet.warm_up`, not deployed
    .../timm     undeployed and warm over timm, in pairs: what they share does not blur that ratio

Each timed call follows one of the same network that is not timed, as in use: otherwise the caches
would hold another network, and for those at the ends of the row of turns sometimes their own.
Each network is loaded several times, since where its weights lie in memory moves a latency by some
percent. A row is the mean over the loads of the median of the pairwise ratios to the plain network,
with its 95 % interval by Student's distribution: the loads are the samples.
Rows go to benchmarks/results/inference.csv as they come; a run that was stopped goes on where it
was (rows of other versions are measured again, --again measures all).

    python benchmarks/bench_inference.py        everything, about three hours
    python benchmarks/bench_inference.py --profile   where the time goes, by operator
    python benchmarks/bench_inference.py --write     the tables of README.md and docs/deploy.md
"""

from __future__ import annotations

import argparse
import copy
import csv
import io
import itertools
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import inference_engines as engines
import inference_pages as pages
import torch
from torch import Tensor, nn

import senet
from senet.analysis.stats import student
from senet.files import write_text

RESULTS = Path(__file__).parent / "results" / "inference.csv"
PROFILE = Path(__file__).parent / "results" / "inference_profile.csv"
COLUMNS = (
    *("network", "variant", "engine", "precision", "batch", "size", "ratio", "low", "high"),
    *("plain_ms", "loads", "rounds", "threads", "processor", "load", "engine_version", "versions"),
)
CASE = 6  # the first columns say which case a row is
# name: the plain network, and whether SE is inserted or its own blocks are taken away for "plain"
NETWORKS = {
    "resnet50": ("torchvision", "resnet50", True),
    "resnext50": ("torchvision", "resnext50_32x4d", True),
    "mobilenetv3": ("torchvision", "mobilenet_v3_large", False),
    "efficientnet_b0": ("timm", "efficientnet_b0", False),
    "seresnet50": ("timm", "seresnet50", False),
}
Case = tuple[str, str, str, int]  # network, engine, precision, batch


def as_trained(net: nn.Module) -> nn.Module:
    """Give the blocks gates that depend on the image, as training does."""
    torch.manual_seed(0)
    for block in senet.se_modules(net).values():
        nn.init.normal_(block.fc2.weight, std=0.1)
        nn.init.normal_(block.fc2.bias, std=0.1)
    return net.eval()


def without_blocks(net: nn.Module) -> nn.Module:
    """Put identities in the place of the SE blocks of timm and torchvision."""
    from senet.deploy.canonical import is_block

    for module in list(net.modules()):
        for name, child in module.named_children():
            if is_block(child):
                setattr(module, name, nn.Identity())
    return net


def with_module(net: nn.Module) -> nn.Module:
    """Put timm's SE module behind the last batch norm of each bottleneck."""
    from timm.layers import SEModule

    for block in [module for module in net.modules() if hasattr(module, "bn3")]:
        norm: Any = block.bn3
        block.bn3 = nn.Sequential(norm, SEModule(norm.num_features, rd_ratio=1 / 16))
    return net.eval()


def variants(name: str, image: Tensor, engine: str) -> engines.Nets:
    """Return the networks that take turns; "plain" comes first."""
    library, bare, insert = NETWORKS[name]

    def make() -> nn.Module:
        torch.manual_seed(0)
        return senet.create_model(f"{library}/{bare}").eval()

    plain, with_se, nets = make(), make(), dict[str, nn.Module]()
    if insert:
        senet.insert(with_se, image)
        as_trained(with_se)
        nets["timm"] = with_module(make())
        if engine == "eager":
            nets["warm"] = copy.deepcopy(with_se)
            senet.warm_up(nets["warm"], image)
    else:
        without_blocks(plain)
    nets = {"plain": senet.deploy(plain, image), "undeployed": with_se, **nets}
    nets["deployed"] = senet.deploy(with_se, image)
    nets["portable"] = senet.deploy(with_se, image, form="portable")
    return nets | ({"blocked": nets["portable"]} if engine == "onnx" else {})


PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino"}


def engine_version(engine: str) -> str:
    """The version of what runs the network."""
    return version(PACKAGES.get(engine, "torch")).split("-")[0]


def versions() -> str:
    """The versions of what makes the network."""
    return " ".join(f"{name}={version(name)}" for name in ("torch", "torchvision", "timm"))


def over_loads(ratios: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Return the mean of the loads' medians, and its interval by Student's distribution."""
    medians = [statistics.median(of_one) for of_one in ratios]
    mean = statistics.mean(medians)
    error = statistics.stdev(medians) / math.sqrt(len(medians))
    half = error * student(len(medians) - 1, 0.95)
    return mean, mean - half, mean + half


def measure(calls: dict[str, engines.Call], rounds: int) -> dict[str, list[float]]:
    """Let the networks take turns, and return the seconds of each round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    names = list(calls)
    for each in range(rounds):
        for name in names if each % 2 else names[::-1]:
            calls[name]()  # the caches then hold what they hold in use
            start = time.perf_counter()
            calls[name]()
            times[name].append(time.perf_counter() - start)
    return times


def processor() -> str:
    """The name of the processor, and whether it has bfloat16 arithmetic."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":")[1].strip() for line in text.splitlines() if "model name" in line]
    kinds = [kind for kind in ("amx_bf16", "avx512_bf16") if kind in text]
    return " ".join([names[0] if names else platform.processor(), *kinds])


def cases(options: argparse.Namespace) -> list[Case]:
    """Everything that is asked for."""
    asked = itertools.product(
        options.networks, options.engines, options.precisions, options.batches
    )
    return [case for case in asked if case[1:3] != ("onnx", "bf16")]


def main() -> None:
    """Measure what is asked for and add the rows to the csv, in the place of older ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument(
        "--engines", nargs="+", default=list(engines.ENGINES), choices=engines.ENGINES
    )
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--seconds", type=float, default=20.0, help="about, per case")
    parser.add_argument("--loads", type=int, default=5, help="of each network, per case")
    parser.add_argument("--again", action="store_true", help="measure what is there, too")
    parser.add_argument("--profile", action="store_true", help="where the time goes")
    parser.add_argument("--write", action="store_true", help="write the tables of the pages only")
    options = parser.parse_args()
    if options.write:
        pages.write(rows_of(RESULTS))
        return
    for case in cases(options):
        name, engine, precision, batch = case
        image = torch.randn(batch, 3, options.size, options.size)
        with torch.no_grad():
            if options.profile:
                if engine in engines.PROFILERS:
                    profile(name, engine, precision, image)
            elif options.again or not measured(case, options.size):
                row(case, image, options.seconds, options.loads)
    if not options.profile:
        pages.write(rows_of(RESULTS))


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a csv; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def measured(case: Case, size: int) -> bool:
    """Whether the rows of a case are there, under the versions of now and on this processor."""
    name, engine, precision, batch = case
    now = {
        "network": name,
        "engine": engine,
        "precision": precision,
        "batch": str(batch),
        "size": str(size),
        "engine_version": engine_version(engine),
        "versions": versions(),
        "processor": processor(),
        "threads": str(torch.get_num_threads()),
    }
    return any(now.items() <= row.items() for row in rows_of(RESULTS))


def row(case: Case, image: Tensor, seconds: float, loads: int) -> None:
    """Measure one network in one engine, print and keep it."""
    name, engine, precision, batch = case
    load = os.getloadavg()[0]
    nets, times = variants(name, image, engine), []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(loads):
            calls = engines.ENGINES[engine](nets, image, precision, Path(folder))
            for call in calls.values():
                call()
            start = time.perf_counter()
            for call in calls.values():
                call()
            spent = max(time.perf_counter() - start, 1e-3)
            times.append(measure(calls, max(3, min(200, int(seconds / loads / spent / 2)))))
    plain = statistics.median([t for each in times for t in each["plain"]])
    rows = []
    over = [(variant, "plain") for variant in list(nets)[1:]]
    over += [(variant, "timm") for variant in ("undeployed", "warm") if "timm" in nets]
    for with_blocks, other in [each for each in over if each[0] in nets]:
        variant = with_blocks if other == "plain" else f"{with_blocks}/{other}"
        pairs = [zip(each[with_blocks], each[other], strict=True) for each in times]
        ratios = [[with_se / without for with_se, without in each] for each in pairs]
        ratio, low, high = over_loads(ratios)
        print(
            f"{name:16} {variant:15} {engine:8} {precision} batch {batch}: "
            f"{ratio:.3f} [{low:.3f}, {high:.3f}]",
            flush=True,
        )
        numbers = [f"{number:.4f}" for number in (ratio, low, high)]
        rounds = sum(map(len, ratios))
        rows.append(
            [
                *(name, variant, engine, precision, batch, image.shape[-1], *numbers),
                *(f"{1e3 * plain:.2f}", loads, rounds, torch.get_num_threads()),
                *(processor(), f"{load:.1f}", engine_version(engine), versions()),
            ]
        )
    keep(RESULTS, COLUMNS, rows)


def keep(path: Path, columns: Sequence[str], rows: list[list[Any]]) -> None:
    """Write the rows to a csv, in the place of those of the same case."""
    old = [[each.get(column) or "" for column in columns] for each in rows_of(path)]
    known = {tuple(map(str, each[:CASE])) for each in rows}
    kept = [each for each in old if tuple(each[:CASE]) not in known]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([columns, *sorted([*kept, *[list(map(str, each)) for each in rows]])])
    write_text(path, text.getvalue())


def profile(name: str, engine: str, precision: str, image: Tensor) -> None:
    """Print and keep the milliseconds of each kind of operator, as the engine itself reports."""
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            variant: engines.PROFILERS[engine](net, Path(folder) / variant, precision, image)
            for variant, net in variants(name, image, engine).items()
        }
        for _ in range(engines.ROUNDS):
            for run in runs.values():
                run.step()
        means = {variant: run.means() for variant, run in runs.items()}
    case = (engine, precision, len(image), image.shape[-1])
    rows = [
        [name, variant, *case, kind, f"{calls:g}", f"{ms:.4f}"]
        for variant, kinds in means.items()
        for kind, (calls, ms) in sorted(kinds.items())
    ]
    keep(PROFILE, engines.COLUMNS, rows)
    print(f"{name} {engine} {precision} batch {len(image)}, ms more than plain:")
    for variant in list(means)[1:]:
        more = {
            kind: means[variant].get(kind, (0, 0.0))[1] - means["plain"].get(kind, (0, 0.0))[1]
            for kind in means[variant].keys() | means["plain"].keys()
        }
        total = sum(ms for _, ms in means["plain"].values())
        largest = sorted(more.items(), key=lambda item: -abs(item[1]))[:8]
        listed = ", ".join(f"{kind} {ms:+.2f}" for kind, ms in largest)
        print(f"  {variant:10} {sum(more.values()):+.2f} of {total:.2f}: {listed}", flush=True)


if __name__ == "__main__":
    main()
