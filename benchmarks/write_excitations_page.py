"""The page of `benchmarks/excitations.py`, from its JSON files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from write_evidence_page import difference

from senet.analysis.series import upgraded

NAME = "CIFAR-10 (JPEG)"
NETWORKS = {
    "se": "SE-ResNet-20, from scratch on all images",
    "pretrained": "Pretrained ResNet-20, SE trained",
}


def points(estimate: Sequence[Any], scale: float = 100, digits: int = 2) -> str:
    """A difference with its interval, where there is one."""
    if None in estimate:
        return f"{scale * estimate[0]:+.{digits}f}"
    value, low, high = (f"{scale * each:+.{digits}f}" for each in estimate)
    return f"{value} [{low}, {high}]"


def gate_table(part: dict[str, Any]) -> list[str]:
    """A row for each block: the level of its gates, and what they depend on."""
    lines = [
        "| block | mean gate | std over images / mean | share of the map's variance | "
        "eta² by class | by chance | gates below 0.05 | above 0.95 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for block in part["gates"]["blocks"]:
        cells = [
            f"{block['overall_mean']:.2f}",
            f"{block['relative_std'][0]:.3f}",
            f"{100 * block['variance_share'][0]:.1f} %",
            f"{block['eta2']:.3f}",
            f"{block['eta2_by_chance']:.4f}",
            f"{100 * block['low_share'][0]:.1f} %",
            f"{100 * block['high_share'][0]:.1f} %",
        ]
        lines.append(f"| {block['path'].removesuffix('.se')} | {' | '.join(cells)} |")
    return lines


def block_costs(part: dict[str, Any]) -> list[str]:
    """A row for each block held at its mean alone, on the training images of the choice."""
    plan = part["plan"]
    lines = ["| block | accuracy, points | loss | chosen |", "|---|---|---|---|"]
    for each in plan["folds"]:
        cost = each["cost"]
        cells = points(cost["accuracy"]), points(cost["loss"], 1, 4)
        mark = "yes" if each["path"] in plan["chosen"] else ""
        lines.append(f"| {each['path'].removesuffix('.se')} | {' | '.join(cells)} | {mark} |")
    return lines


def fold_table(part: dict[str, Any]) -> list[str]:
    """A row for each group of blocks that is folded: what it saves, and costs on test images."""
    lines = [
        "| folded | blocks | parameters | accuracy, points | loss |",
        "|---|---|---|---|---|",
    ]
    for name, group in part["groups"].items():
        cost = group["cost"]
        cells = ["none folded", ""]
        if cost is not None:
            cells = [points(cost["accuracy"]), points(cost["loss"], 1, 4)]
        count = f"{len(group['blocks'])} | {-group['parameters']:+,}"
        lines.append(f"| {name} | {count} | {' | '.join(cells)} |")
    return lines


def arm_table(result: dict[str, Any]) -> list[str]:
    """A row for each arm, then one for each difference."""
    summary = upgraded(result)["summary"]
    lines = ["| arm | test accuracy |", "|---|---|"]
    for arm, of in summary["arms"].items():
        spread = "" if of["std"] is None else f" ± {100 * of['std']:.2f}"
        lines.append(f"| {arm} | {100 * of['mean']:.2f} %{spread} |")
    lines += ["", "| difference | points | test loss | verdict |", "|---|---|---|---|"]
    for each in summary["differences"]:
        gap = each["difference"]
        text = points([gap["mean"], gap["low"], gap["high"]])
        loss = loss_difference(result, each["arm"], each["against"])
        lines.append(f"| {each['arm']} - {each['against']} | {text} | {loss} | {each['verdict']} |")
    return lines


def loss_difference(result: dict[str, Any], arm: str, against: str) -> str:
    """The paired difference of two arms' test losses, with its interval."""
    gap = difference(result, arm, against, "test_loss")
    return "" if gap is None else points([gap.mean, gap.low, gap.high], 1, 4)


def page(parts: dict[str, dict[str, Any]]) -> str:
    """The page, of the parts that are there."""
    lines = [
        f"# What the gates do on {NAME}, and what can go",
        "",
        "Written by `benchmarks/excitations.py`; do not edit. The images are CIFAR-10 re-encoded "
        f"as JPEG: these are numbers on {NAME}, and none of them may be set beside the paper's or "
        "anyone's on the original images. All on two CPU cores that had other work too, so no "
        "time is given. [ ] is a 95 % interval: over seeds where arms are compared, else over the "
        "same images, right or wrong before and after.",
        "",
    ]
    if {"gates_se", "gates_pretrained", "finetune"} <= parts.keys():
        lines += ["## What it means", "", *meaning(parts), ""]
    if "gates_se" in parts:
        lines += ["## The paper's findings", "", *findings(parts["gates_se"]), ""]
    for name in NETWORKS:
        part = parts.get(f"gates_{name}")
        if part is not None:
            lines += [f"## {part['network']}", "", *network_text(name, parts), ""]
    for name, title in (("finetune", "from the published weights"), ("scratch", "from scratch")):
        if name in parts:
            lines += [f"## SE against a constant, {title}", "", *comparison_text(parts[name]), ""]
    return "\n".join(lines)


def difference_of(result: dict[str, Any], arm: str, against: str) -> tuple[str, int]:
    """A paired difference with its interval in points, and on how many seeds."""
    for each in upgraded(result)["summary"]["differences"]:
        if (each["arm"], each["against"]) == (arm, against):
            gap = each["difference"]
            return points([gap["mean"], gap["low"], gap["high"]]), gap["n"]
    raise KeyError((arm, against))


def cost_of(part: dict[str, Any], start: str) -> tuple[dict[str, Any], str]:
    """A group of folded blocks, and what it costs in points."""
    group = next(group for name, group in part["groups"].items() if name.startswith(start))
    return group, points(group["cost"]["accuracy"]) if group["cost"] else "0"


def meaning(parts: dict[str, dict[str, Any]]) -> list[str]:
    """What follows for a user, in three sentences."""
    scratch, tuned = parts["gates_se"], parts["gates_pretrained"]
    moves = [100 * block["relative_std"][0] for block in scratch["gates"]["blocks"]]
    chosen, cheap = cost_of(scratch, "the greedy")
    gap, seeds = difference_of(parts["finetune"], "se", "constant")
    loss = loss_difference(parts["finetune"], "se", "constant")
    return [
        f"Gates that hardly move can still matter: in the network that was trained with SE from "
        f"scratch they vary by {min(moves):.1f} to {max(moves):.1f} % of their mean from image to "
        f"image, and holding all of them there costs {cost_of(scratch, 'all')[1]} points, while "
        f"the {len(chosen['blocks'])} blocks that the greedy choice takes cost {cheap}. Blocks "
        "that were put into a trained network and fine-tuned briefly learn little more than a "
        f"constant: all of them fold into the batch norms for {cost_of(tuned, 'all')[1]} points, "
        f"and SE gains {gap} points over a gate that cannot see the image ({seeds} seeds), though "
        f"its test loss differs by {loss}. So "
        "plan with `senet slim --dry-run` on your own data before you pay for blocks at "
        "inference.",
    ]


def findings(part: dict[str, Any]) -> list[str]:
    """Which of the paper's findings (section 7) show, in numbers."""
    blocks = part["gates"]["blocks"]
    first, last = blocks[0], blocks[-1]
    stages = {name: group for name, group in part["groups"].items() if name.startswith("stage")}
    late, late_cost = cost_of(part, max(stages))
    dearest = min(stages, key=lambda name: stages[name]["cost"]["accuracy"][0])
    worst = late["cost"]["accuracy"][2]  # the upper end of the interval
    verdict = "Not in this network" if worst < 0 else "It may be so"
    saturated = [f"{100 * block['high_share'][0]:.0f} %" for block in (first, last)]
    middle = max(blocks[:-1], key=lambda block: block["eta2"])
    return [
        f"- *Early blocks class-agnostic, late ones class-specific.* The class explains "
        f"{100 * first['eta2']:.0f} % of the variance of the first block's gates and "
        f"{100 * last['eta2']:.0f} % of the last one's, but {100 * middle['eta2']:.0f} % in "
        f"{middle['path'].removesuffix('.se')} too; {100 * first['eta2_by_chance']:.2f} % would be "
        "chance. No block is class-agnostic.",
        f"- *The last block near saturation.* {saturated[1]} of its gates are above 0.95, "
        f"{saturated[0]} of the first one's; its mean gate is {last['overall_mean']:.2f}, the "
        f"others' {min(b['overall_mean'] for b in blocks[:-1]):.2f} to "
        f"{max(b['overall_mean'] for b in blocks[:-1]):.2f}.",
        f"- *The last stage can go at almost no cost.* {verdict}: its {len(late['blocks'])} "
        f"blocks, held at constants, cost {late_cost} points; {dearest} costs the most, "
        f"{points(stages[dearest]['cost']['accuracy'])}.",
    ]


def network_text(name: str, parts: dict[str, dict[str, Any]]) -> list[str]:
    """The section of one network."""
    part = parts[f"gates_{name}"]
    epochs = parts["se"]["epochs"] if name == "se" and "se" in parts else None
    how = (
        f"{len(epochs)} epochs on 50,000 images, r = 4, the paper's gate (starts near 0.5). "
        if epochs
        else "Fine-tuned with everything else for 2 epochs on 10,000 images, r = 4, centred gate "
        "(starts at 1). "
    )
    best = max(part["gates"]["blocks"], key=lambda block: block["eta2"])
    return [
        f"{how}{100 * part['accuracy']:.2f} % of {part['images']:,} test images, loss "
        f"{part['loss']:.4f}, {part['parameters']:,} parameters.",
        "",
        "What the gates do on the test images. eta² is the share of a gate's variance that the "
        "class explains, mean over channels; what labels drawn at random would give stands beside "
        "it. The share of the map's variance is what the gate's dependence on the image causes of "
        "it. A gate below 0.05 or above 0.95 is counted in units of the paper's sigmoid. "
        f"The most class-specific block is {best['path'].removesuffix('.se')}.",
        "",
        *gate_table(part),
        "",
        f"Each gate alone held at its mean, on the {part['plan']['images']:,} training images "
        "(without augmentation) that the constants are means over; chosen: greedily, as long as "
        f"all together cost at most {part['plan']['max_drop']:g} points on these:",
        "",
        *block_costs(part),
        "",
        f"Folded, on the test images, on which nothing was chosen (outputs differ by "
        f"{part['error']:.0e} of the largest from those with constant gates):",
        "",
        *fold_table(part),
    ]


def comparison_text(result: dict[str, Any]) -> list[str]:
    """The section of one comparison."""
    config = result["config"]
    seeds = upgraded(result)["summary"]["differences"][0]["difference"]["n"]
    return [
        f"ResNet-20, {config['train_images']:,} training images, {config['epochs']} epochs, "
        f"{seeds} seeds, batch {config['batch_size']}, learning rate "
        f"{config['lr']:g}, r = {config['se']['reduction']}, {config['precision']}; the arms of a "
        "seed start as the "
        "same function and see the same images.",
        "",
        *arm_table(result),
    ]
