"""Count the networks of the paper's tables, and write the counts into docs/paper.md.

    python benchmarks/paper_tables.py            # print the tables
    python benchmarks/paper_tables.py --write    # put them into the page
    python benchmarks/paper_tables.py --check    # exit 1 if the page says otherwise

Parameters are those of the built network; multiply-adds are half of what torch's own flop counter
finds in one forward pass of one image. Nothing is computed: all tensors are on the meta device.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import senet
from senet.models import NETWORKS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "paper.md"
MARK = re.compile(r"(<!-- (\w+) -->\n)(?:(?!<!-- ).)*(<!-- end -->)", re.DOTALL)


class _Count(NamedTuple):
    """Parameters and statistics of a network, and its multiply-adds for one image."""

    params: int
    statistics: int  # running means and variances
    macs: int


def _built(name: str, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return senet.create_model(name, **options).eval()


def _image(name: str) -> torch.Tensor:
    return torch.empty(1, *NETWORKS[name].family.input_size, device="meta")


@cache
def _counted(name: str, options: tuple[tuple[str, Any], ...] = ()) -> _Count:
    """Count a network by name, with options of its SE blocks."""
    model = _built(name, **({"se": dict(options)} if options else {}))
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(_image(name))
    params = sum(parameter.numel() for parameter in model.parameters())
    running = [v for key, v in model.named_buffers() if key.endswith(("_mean", "_var"))]
    statistics = sum(value.numel() for value in running)
    return _Count(params, statistics, counter.get_total_flops() // 2)


@cache
def _positions(plain: str) -> int:
    """Sum C H W over the sites of SE blocks: that many additions, as many in squeezes, in gates."""
    plan = senet.find_sites(_built(plain), _image(plain))
    return sum(site.channels * math.prod(site.size) for site in plan)


def _giga(number: float) -> str:
    return f"{number / 1e9:.3f}"


def _table_2() -> Iterator[str]:
    yield "| network | parameters | multiply-adds | G | + additions | + squeeze, gate | paper |"
    yield "|---|---|---|---|---|---|---|"
    for name, network in NETWORKS.items():
        if network.paper is None or network.paper.table != 2:
            continue
        count, elements = _counted(name), _positions(network.plain)
        residual = "inception" not in name.replace("inception_resnet", "") and "vgg" not in name
        added = count.macs + (elements if residual else 0)
        gates = _giga(added + 2 * elements) if network.se is not None else ""
        yield (
            f"| `{name}` | {count.params:,} | {count.macs:,} | {_giga(count.macs)} "
            f"| {_giga(added)} | {gates} | {network.paper.gflops:.2f} |"
        )


def _table_3() -> Iterator[str]:
    yield "| network | parameters | without FC biases | paper | multiply-adds | paper |"
    yield "|---|---|---|---|---|---|"
    for name, network in NETWORKS.items():
        paper = network.paper
        if paper is None or paper.table != 3 or paper.gflops is None:
            continue
        count = _counted(name)
        without = "" if network.se is None else f"{_counted(name, (('bias', False),)).params:,}"
        yield (
            f"| `{name}` | {count.params:,} | {without} | {paper.params} M "
            f"| {count.macs:,} | {paper.gflops * 1000:.0f} M |"
        )


def _cifar() -> Iterator[str]:
    yield "| network | parameters | with SE | | multiply-adds | with SE | |"
    yield "|---|---|---|---|---|---|---|"
    for name, network in NETWORKS.items():
        if network.family.input_size[1] != 32 or network.se is not None:
            continue
        plain, with_se = _counted(name), _counted(f"se_{name}")
        yield (
            f"| `{name}` | {plain.params:,} | {with_se.params:,} | {_share(plain, with_se, 0)} "
            f"| {plain.macs:,} | {with_se.macs:,} | {_share(plain, with_se, 2)} |"
        )


def _share(plain: _Count, with_se: _Count, field: int) -> str:
    return f"+{100 * (with_se[field] / plain[field] - 1):.3f} %"


def _row(label: str, count: _Count, printed: str, *, biased: _Count | None = None) -> str:
    """Return a line of the ablations: without FC biases, and with them where it matters."""
    millions = f"{(count.params + count.statistics) / 1e6:.3f}"
    other = "" if biased is None else f"{(biased.params + biased.statistics) / 1e6:.3f}"
    return f"| {label} | {count.params:,} | {millions} | {other} | {count.macs:,} | {printed} |"


HEAD = (
    "| | parameters | + statistics, M | with biases, M | multiply-adds | paper |\n"
    "|---|---|---|---|---|---|"
)


def _ablation(label: str, printed: str, name: str = "se_resnet50", **options: Any) -> str:
    without = _counted(name, (("bias", False), *options.items()))
    return _row(label, without, printed, biased=_counted(name, (("bias", True), *options.items())))


def _table_10() -> Iterator[str]:
    yield HEAD
    for r, printed in ((2, "45.7 M"), (4, "35.7 M"), (8, "30.7 M"), (16, "28.1 M"), (32, "26.9 M")):
        yield _ablation(f"r = {r}", printed, reduction=r)
    yield _row("ResNet-50", _counted("resnet50"), "25.6 M")


def _table_13() -> Iterator[str]:
    yield HEAD
    yield _row("none", _counted("resnet50"), "25.6 M, 3.86 G")
    for stage, printed in ((2, "25.6 M, 3.86 G"), (3, "25.7 M, 3.86 G"), (4, "26.4 M, 3.86 G")):
        yield _ablation(f"stage {stage}", printed, stages=(stage,))
    yield _ablation("stage 5", "", stages=(5,))
    yield _ablation("all", "28.1 M, 3.87 G")


def _table_14() -> Iterator[str]:
    yield HEAD
    yield _ablation("`se_resnet50`", "")
    for name in ("se_resnet50_pre", "se_resnet50_post", "se_resnet50_identity"):
        yield _ablation(f"`{name}`", "", name)


def _table_15() -> Iterator[str]:
    yield HEAD
    yield _ablation("`se_resnet50`", "28.1 M, 3.87 G")
    yield _ablation("`se_resnet50_3x3`", "25.8 M, 3.86 G", "se_resnet50_3x3")


def _table_16() -> Iterator[str]:
    yield HEAD
    yield _row("`resnet50`", _counted("resnet50"), "25.6 M, 3.86 G")
    yield _ablation("`se_resnet50_nosqueeze`", "28.1 M, 4.27 G", "se_resnet50_nosqueeze")
    yield _ablation("`se_resnet50`", "28.1 M, 3.87 G")


def _senet154() -> Iterator[str]:
    yield "| network | parameters | multiply-adds |"
    yield "|---|---|---|"
    for name in ("senet154_plain", "senet154"):
        count = _counted(name)
        yield f"| `{name}` | {count.params:,} | {count.macs:,} |"


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "table_2": _table_2,
    "table_3": _table_3,
    "cifar": _cifar,
    "senet154": _senet154,
    "table_10": _table_10,
    "table_13": _table_13,
    "table_14": _table_14,
    "table_15": _table_15,
    "table_16": _table_16,
}


def main() -> None:
    """Print the tables, write them into the page, or compare them with it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--write", action="store_true", help="put the tables into docs/paper.md")
    what.add_argument("--check", action="store_true", help="exit 1 if docs/paper.md differs")
    given = parser.parse_args()
    texts = {name: "\n".join(table()) for name, table in TABLES.items()}
    if not given.write and not given.check:
        print("\n\n".join(f"{name}\n{text}" for name, text in texts.items()))
        return
    page = PAGE.read_text()
    new = MARK.sub(lambda match: match[1] + texts[match[2]] + "\n" + match[3], page)
    if given.write:
        PAGE.write_text(new)
    elif new != page:
        sys.exit(f"{PAGE} is out of date: run this script with --write")


if __name__ == "__main__":
    main()
