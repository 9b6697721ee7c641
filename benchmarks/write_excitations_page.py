"""The page of `benchmarks/excitations.py`, from its JSON files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from write_evidence_page import arm_table, difference, difference_table, recipe

from senet.analysis import PairedDifference
from senet.analysis.gate_findings import KINDS
from senet.analysis.series import upgraded

NAME = "CIFAR-10 (JPEG)"
NETWORKS = {
    "se": "SE-ResNet-20, from scratch on all images",
    "pretrained": "Pretrained ResNet-20, SE trained",
}
GREEDY, LIMIT = "the greedy", 0.1  # name of a group; points that are called almost no cost
MEASURES = ("test_accuracy", "test_loss")
GATES = (
    *("block", "mean gate", "std / mean, %", "of the map's variance, %", "eta², % (chance)"),
    *("specific channels (chance 1 %)", "selectivity (chance)", "below 0.05, %", "above 0.95, %"),
)
ABOUT_CLASSES = ("class-agnostic", "class-specific")
FOLDED = (
    *("folded", "blocks", "parameters", "multiply-adds", "change of accuracy, points"),
    "change of loss",
)


def points(estimate: Sequence[Any], scale: float = 100, digits: int = 2) -> str:
    """A difference with its interval, where there is one."""
    if None in estimate:
        return f"{scale * estimate[0]:+.{digits}f}"
    value, low, high = (f"{scale * each:+.{digits}f}" for each in estimate)
    return f"{value} [{low}, {high}]"


def with_half(estimate: Sequence[Any], scale: float = 1, digits: int = 2) -> str:
    """A value with half the width of its interval, to that half's first digit, at most five."""
    value, _, high = estimate
    half = 0.0 if high is None else scale * (high - value)
    if half > 0:
        digits = min(5, max(digits, math.ceil(-math.log10(half))))
    text = f"{half:.{digits}f}"
    return f"{scale * value:.{digits}f}" + (f" ± {text}" if float(text) else "")


def short(path: str) -> str:
    """The path of a block without the name of its last module."""
    return path.removesuffix(".se")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table of Markdown."""
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def gate_table(part: Mapping[str, Any]) -> list[str]:
    """A row for each block: the level of its gates, and what they depend on."""
    return table(
        GATES,
        [
            [
                short(block["path"]),
                with_half(block["level"]),
                with_half(block["relative_std"], 100),
                with_half(block["variance_share"], 100),
                f"{100 * block['eta2']:.1f} ({100 * block['eta2_by_chance']:.2f})",
                f"{100 * block['specific_share']:.0f} %",
                f"{block['selectivity']:.5f} ({block['selectivity_by_chance']:.5f})",
                with_half(block["low_share"], 100),
                with_half(block["high_share"], 100),
            ]
            for block in part["gates"]["blocks"]
        ],
    )


def changes(cost: Mapping[str, Any] | None) -> list[str]:
    """The change of accuracy and of loss."""
    if cost is None:
        return ["none folded", ""]
    return [points(cost["accuracy"]), points(cost["loss"], 1, 4)]


def block_table(part: Mapping[str, Any]) -> list[str]:
    """A row for each block held at its mean alone, on the training images of the choice."""
    plan = part["plan"]
    rows = [
        [short(each["path"]), *changes(each["cost"]), "yes" * (each["path"] in plan["chosen"])]
        for each in plan["folds"]
    ]
    return table(("block", "change of accuracy, points", "change of loss", "chosen"), rows)


def fold_table(part: Mapping[str, Any]) -> list[str]:
    """A row for each group of blocks that is folded: what it saves, and changes on test images."""
    rows = [["none", "0", f"{part['parameters']:,} in all", f"{part['macs']:,} in all", "", ""]]
    rows += [
        [
            *(name, str(len(group["blocks"])), f"{-group['parameters']:+,}"),
            *(f"{-group['macs']:+,}", *changes(group["cost"])),
        ]
        for name, group in part["groups"].items()
    ]
    return table(FOLDED, rows)


def group_of(part: Mapping[str, Any], start: str) -> tuple[dict[str, Any], str]:
    """A group of folded blocks, and in words by how much folding it changes the accuracy."""
    group = next(group for name, group in part["groups"].items() if name.startswith(start))
    return group, f"{points(group['cost']['accuracy'])} points" if group["cost"] else "nothing"


def worth(low: float, high: float) -> str:
    """What an interval of a change of accuracy says of the gates that were held, in points."""
    if high < 0:
        return "so looking at the image is worth something there"
    return "so a constant does as well there" if low > -LIMIT else "which leaves it open"


def verdict(gap: PairedDifference | None, unit: float, digits: int) -> str:
    """A paired difference with its interval, and whether that leaves out 0."""
    if gap is None or gap.low is None or gap.high is None:
        return "not known"
    text = points([gap.mean, gap.low, gap.high], unit, digits)
    return text if gap.significant else f"{text} (open)"


def moved(part: Mapping[str, Any], start: str) -> str:
    """What folding a group changes, and what that says."""
    group, text = group_of(part, start)
    accuracy = [100 * each for each in group["cost"]["accuracy"]] if group["cost"] else [0, 0, 0]
    return f"{text}, {worth(*accuracy[1:])}"


def meaning(parts: Mapping[str, dict[str, Any]]) -> list[str]:
    """What follows for a user, in three sentences."""
    scratch, tuned, compared = (parts[n] for n in ("gates_se", "gates_pretrained", "finetune"))
    moves = [100 * block["relative_std"][0] for block in scratch["gates"]["blocks"]]
    gaps = [difference(compared, "se", "constant", name) for name in MEASURES]
    chosen, text = group_of(scratch, GREEDY)
    said = verdict(gaps[0], 100, 2), verdict(gaps[1], 1, 4)
    return [
        f"In the network that was trained with SE from scratch, gates vary from image to image by "
        f"{min(moves):.1f} to {max(moves):.1f} % of their mean; holding all of them there changes "
        f"the accuracy by {moved(scratch, 'all')}, and folding the {len(chosen['blocks'])} blocks "
        f"of the greedy choice changes it by {text}. Where blocks were put into a trained network "
        f"and fine-tuned briefly, folding all of them changes the accuracy by "
        f"{moved(tuned, 'all')}; SE minus a gate that cannot see the image is {said[0]} points of "
        f"accuracy, and {said[1]} of loss ({gaps[0].n if gaps[0] else 0} seeds). "
        "Networks differ in this, so plan with `senet slim --dry-run` on your own data before you "
        "pay for blocks at inference."
    ]


def findings(part: Mapping[str, Any]) -> list[str]:
    """Which of the paper's findings (section 7) show, in numbers."""
    blocks = part["gates"]["blocks"]
    kinds = [kind for block in blocks for kind in part["kinds"][block["path"]]]
    first, last = blocks[0], blocks[-1]
    stages = {name: group for name, group in part["groups"].items() if name.startswith("stage")}
    late, text = group_of(part, max(stages))
    low, high = (100 * end for end in late["cost"]["accuracy"][1:])
    shows = "It does not show here" if high < -LIMIT else "It is open here"
    shows = "It shows here" if low > -LIMIT else shows
    dearest = min(stages, key=lambda name: stages[name]["cost"]["accuracy"][0])
    most = max(blocks[:-1], key=lambda block: block["eta2"])
    means = [block["level"][0] for block in blocks[:-1]]
    counts = [f"{kinds.count(kind)} {kind} ({KINDS[kind]})" for kind in ABOUT_CLASSES]
    return [
        f"- *Early blocks class-agnostic, late ones class-specific.* The class explains "
        f"{100 * first['eta2']:.0f} % of the variance of the first block's gates, "
        f"{100 * last['eta2']:.0f} % of the last one's, and at most {100 * most['eta2']:.0f} % "
        f"between them ({short(most['path'])}); {100 * first['eta2_by_chance']:.2f} % would be "
        f"chance. Of the {len(blocks)} blocks `senet see` calls {' and '.join(counts)}.",
        f"- *The last block near saturation.* {with_half(last['high_share'], 100, 1)} % of its "
        f"gates are above 0.95, of the first one's {with_half(first['high_share'], 100, 1)} %; its "
        f"mean gate is {with_half(last['level'])}, the others' {min(means):.2f} to "
        f"{max(means):.2f}.",
        f"- *The last stage can go at almost no cost.* {shows}: folding its {len(late['blocks'])} "
        f"blocks changes the accuracy by {text}. The largest fall is that of {dearest}, "
        f"{group_of(part, dearest)[1]}.",
    ]


def network_text(name: str, parts: Mapping[str, dict[str, Any]]) -> list[str]:
    """The section of one network."""
    part, plan = parts[f"gates_{name}"], parts[f"gates_{name}"]["plan"]
    how = (
        f"{len(parts['se']['epochs'])} epochs on 50,000 images, r = 4, the paper's gate (starts "
        "near 0.5)."
        if name == "se"
        else "The SE network of seed 0 of the comparison below: fine-tuned with everything else "
        "for 2 epochs on 10,000 images, r = 4, centred gate (starts at 1)."
    )
    return [
        f"## {NETWORKS[name]}",
        "",
        f"{how} {100 * part['accuracy']:.2f} % of {part['images']:,} test images, loss "
        f"{part['loss']:.4f}.",
        "",
        "What the gates do on the test images; ± is half of a 95 % interval (jackknife over ten "
        "groups of images). eta² is the share of a gate's variance that the class explains, mean "
        "over channels; a channel is specific if its eta² has a probability below 1 % under "
        "permuted labels. The share of the map's variance is what is lost if the gate is held at "
        "its mean. Gates below 0.05 or above 0.95 are counted in units of the paper's sigmoid. "
        "Chance: the mean under permuted labels.",
        "",
        *gate_table(part),
        "",
        f"Each gate alone held at its mean, on the {plan['images']:,} training images (without "
        "augmentation) that the constants are means over. Blocks are chosen greedily, as long as "
        f"the accuracy on these images falls by at most {plan['max_drop']:g} points in all:",
        "",
        *block_table(part),
        "",
        "Folded, on the test images, on which nothing was chosen (outputs differ by "
        f"{part['error']:.0e} of the largest from those with constant gates). Multiply-adds are "
        "those of one image; milliseconds were not measured, as the processor had other work:",
        "",
        *fold_table(part),
        "",
    ]


def comparison_text(result: Mapping[str, Any]) -> list[str]:
    """The section of the comparison of plain, SE and constant."""
    result = upgraded(dict(result))
    return [
        "## SE against a constant, from the published weights",
        "",
        f"ResNet-20. {recipe(result)} The arms of a seed start as the same function and see the "
        "same images. ± is the standard deviation over seeds.",
        "",
        *arm_table(result, MEASURES),
        "",
        *difference_table(result, MEASURES),
        "",
        "From scratch, on all images, the same arms are compared by `benchmarks/evidence.py`: see "
        "[its page](cifar10.md).",
        "",
    ]


def repeat(parts: Mapping[str, dict[str, Any]]) -> list[str]:
    """The commands, and what they ran with."""
    lines = ["## How to repeat this", "", "```"]
    lines += ["python benchmarks/excitations.py --data ../shared/data/cifar10 \\"]
    lines += ["    --weights ../shared/data/weights/resnet20-12fca82f.th", "```", ""]
    lines += ["does all of it, and goes on where it was interrupted. What ran here:", ""]
    for name, part in parts.items():
        where = part.get("processor") or part.get("device") or "processor as below"
        code = f"commit {part['commit']}" if "commit" in part else "commit not recorded"
        lines.append(f"- {name}: `{part['command']}`; {part['date'][:10]}, {code}, {where}.")
        if "scratch" in part["command"]:
            lines[-1] += " Its part `scratch` is one of `benchmarks/evidence.py` now."
    if "se" in parts:
        minutes = sum(epoch["seconds"] for epoch in parts["se"]["epochs"]) / 60
        lines[-len(parts)] += (
            f" {len(parts['se']['epochs'])} epochs on one thread in {minutes:.0f} minutes, on a "
            "processor that had other work."
        )
    versions = {
        ", ".join(f"{k} {v}" for k, v in part["versions"].items()) for part in parts.values()
    }
    return [*lines, "", f"Versions: {'; '.join(sorted(versions))}."]


def page(parts: Mapping[str, dict[str, Any]]) -> str:
    """The page, of the parts that are there."""
    lines = [
        f"# What the gates do on {NAME}, and what can go",
        "",
        "Written by `benchmarks/excitations.py`; do not edit. The images are CIFAR-10 re-encoded "
        f"as JPEG: these are numbers on {NAME}, and none of them may be set beside the paper's or "
        "anyone's on the original images. [ ] is a 95 % interval: over the same test images, right "
        "or wrong before and after, or where arms are compared as the table says; open: it holds "
        "0. A change is after minus before: where that of the accuracy is negative, folding made "
        "it worse.",
        "",
    ]
    if {"gates_se", "gates_pretrained", "finetune"} <= parts.keys():
        lines += ["## What it means", "", *meaning(parts), ""]
    if "gates_se" in parts:
        lines += ["## The paper's findings", "", *findings(parts["gates_se"]), ""]
    for name in NETWORKS:
        if f"gates_{name}" in parts:
            lines += network_text(name, parts)
    if "finetune" in parts:
        lines += comparison_text(parts["finetune"])
    return "\n".join([*lines, *repeat(parts)]) + "\n"
