"""Count every network of the project and write the tables of docs/models.md.

    python benchmarks/write_models_page.py

takes about two minutes. Nothing is computed: the networks are on the meta device.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src")]

from senet.cost.op_counter import count_forward, count_parameters, count_step  # noqa: E402
from senet.models import NETWORKS, create_model  # noqa: E402

PAGE = ROOT / "docs" / "models.md"
BATCH = 64  # of a training step; small maps alone are kept differently from those of a training

# Errors in percent, top-1 and top-5, as other papers published them: the column "original".
ORIGINAL = {
    "resnet50": "24.7 / 7.8",
    "resnet101": "23.6 / 7.1",
    "resnet152": "23.0 / 6.7",
    "resnext50_32x4d": "22.2 / -",
    "resnext101_32x4d": "21.2 / 5.6",
    "bn_inception": "25.2 / 7.82",
    "inception_resnet_v2": "19.9 / 4.9 (a subset of the images)",
    "mobilenet_v1": "29.4 / -",
    "shufflenet_v1_g3": "32.6 / -",
}
# The ablations, trained in another way than table 2: name of the network, table, top-1, top-5.
ABLATIONS = {
    "resnet50": (16, 23.30, 6.55),
    "se_resnet50": (16, 22.28, 6.03),
    "se_resnet50_nosqueeze": (16, 22.93, 6.39),
    "se_resnet50_pre": (14, 22.23, 6.00),
    "se_resnet50_post": (14, 22.78, 6.35),
    "se_resnet50_identity": (14, 22.20, 6.15),
    "se_resnet50_3x3": (15, 22.48, 6.02),
}


class Counted(NamedTuple):
    """What a network has, does and keeps."""

    parameters: int
    macs: int  # of one image
    kept: int  # bytes for one image of a batch


def counted(name: str) -> Counted:
    """Count a network without computing anything."""
    size = NETWORKS[name].family.input_size
    with torch.device("meta"):
        model = create_model(name)
        forward = count_forward(model, torch.zeros(1, *size))
        step = count_step(model, torch.zeros(BATCH, *size))
    parameters = sum(count_parameters(model).values())
    return Counted(parameters, sum(forward.macs.values()), sum(step.kept.values()) // BATCH)


def line(*cells: str) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def numbers(name: str) -> tuple[str, ...]:
    """Return the cells that are counted."""
    count = counted(name)
    return f"`{name}`", f"{count.parameters:,}", f"{count.macs:,}", f"{count.kept / 1e6:.2f}"


def error(*values: float | None) -> str:
    """Return errors in percent; nothing where the paper has none."""
    if values[0] is None:
        return ""
    return " / ".join("-" if value is None else f"{value:.2f}" for value in values)


def imagenet_row(name: str) -> str:
    """Return the row of a network for images of 224 or 299 pixels."""
    paper = NETWORKS[name].paper
    errors = "" if paper is None else error(paper.top1, paper.top5)
    table = "" if not errors or paper is None else str(paper.table)
    return line(*numbers(name), ORIGINAL.get(name, ""), errors, table)


def cifar_row(name: str) -> str:
    """Return the row of a network for images of 32 pixels."""
    paper = NETWORKS[name].paper
    if paper is None:
        return line(*numbers(name), "", "", "")
    return line(*numbers(name), error(paper.top1), error(paper.cifar100), "4, 5")


def ablation_row(name: str) -> str:
    """Return the row of a network of the ablations."""
    table, *errors = ABLATIONS[name]
    return line(*numbers(name), error(*errors), str(table))


COUNTS = "network | parameters | multiply-adds | kept, MB"
TABLES = {
    "imagenet": (imagenet_row, f"{COUNTS} | published | this paper | table"),
    "cifar": (cifar_row, f"{COUNTS} | CIFAR-10 | CIFAR-100 | table"),
    "ablations": (ablation_row, f"{COUNTS} | top-1 / top-5 | table"),
}


def names(table: str) -> list[str]:
    """Return the networks of a table: each plain one, then its SE form."""
    if table == "ablations":
        return list(ABLATIONS)
    small = table == "cifar"
    pairs = []
    for plain, network in NETWORKS.items():
        if network.se is None and (network.family.input_size[1] == 32) == small:
            pairs += [plain, network.family.se_name or f"se_{plain}"]
    return pairs


def table(which: str, wanted: Iterable[str] | None = None) -> list[str]:
    """Return the lines of a table, of all its networks or of some."""
    row, head = TABLES[which]
    columns = head.count("|") + 1
    lines = [line(head), "|---" * columns + "|"]
    return lines + [row(name) for name in (names(which) if wanted is None else wanted)]


def written(page: str) -> str:
    """Return the page with its tables made anew."""
    for which in TABLES:
        between = re.compile(rf"(<!-- {which} -->\n).*?(<!-- /{which} -->)", re.DOTALL)
        made = "\n".join([*table(which), ""])
        page, count = between.subn(lambda m, made=made: m[1] + made + m[2], page)
        if count != 1:
            raise SystemExit(f"{PAGE} must have one place for the table {which!r}, has {count}")
        print(f"{which}: {len(names(which))} networks")
    return page


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    PAGE.write_text(written(PAGE.read_text()))
