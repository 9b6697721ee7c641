"""The page of `benchmarks/evidence.py`, from its JSON files: whatever is finished, and what is not.

Accuracies, losses and F1 are read from the runs, so results of any schema give the same tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from senet.analysis import PairedDifference, mean_std
from senet.analysis.series import arms_of, contrasts, title, upgraded
from senet.compare.experiment import paired

__all__ = ["page"]

NAME = "CIFAR-10 (JPEG)"
TITLES = {"resnet20": "ResNet-20", "resnet32": "ResNet-32"}
# in a run, and in the tables: unit, digits
MEASURES = {
    "test_accuracy": ("accuracy, points", 100, 2),
    "test_loss": ("loss", 1, 4),
    "macro_f1": ("macro F1, points", 100, 2),
}
PARTS = {  # of the script: the name of its section, and how many seeds are planned
    "scratch": ("From scratch, all 50,000 images", 5),
    "adapters": ("From trained weights, whole and by adapters", 5),
    "cells": ("Blood cells: an unbalanced folder", 5),
}
EARLIER = {  # results of this script before it trained on all images
    "cifar10_scratch": "ResNet-20 from scratch",
    "cifar10_resnet32_scratch": "ResNet-32 from scratch",
    "cifar10_finetune": "pretrained ResNet-20, fine-tuned",
    "cifar10_resnet32_finetune": "pretrained ResNet-32, fine-tuned",
}
FINE_TUNED = "excitations_finetune"  # of benchmarks/excitations.py


def values(result: Mapping[str, Any], arm: str, name: str) -> dict[int, float]:
    """Seed -> value of a measure of the finished runs of an arm."""
    return {
        run["seed"]: run[name]
        for run in result["runs"]
        if run["arch"] == arm and run.get("state") == "done" and run.get(name) is not None
    }


def difference(
    result: Mapping[str, Any], arm: str, against: str, name: str
) -> PairedDifference | None:
    """The paired difference of two arms."""
    return paired(values(result, against, name), values(result, arm, name))


def interval(low: float | None, high: float | None, unit: float, digits: int) -> str:
    """The ends of an interval, where there is one."""
    if low is None or high is None:
        return ""
    return f" [{unit * low:+.{digits}f}, {unit * high:+.{digits}f}]"


def over_images(result: Mapping[str, Any], place: int, name: str) -> str:
    """The interval over test images, where what the networks said of each was kept."""
    summary = result.get("summary") or {}
    of = summary if name == "test_accuracy" else (summary.get("measures") or {}).get(name, {})
    entries = of.get("differences") or []
    kept = entries[place].get("over_images") if place < len(entries) else None
    _, unit, digits = MEASURES[name]
    return interval(kept["low"], kept["high"], unit, digits).strip() if kept else ""


def arm_table(result: Mapping[str, Any], measures: Sequence[str]) -> list[str]:
    """A row for each arm: means and spreads over the seeds."""
    names = [MEASURES[name][0].partition(",")[0] for name in measures]
    lines = [f"| arm | seeds | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for arm in arms_of(result):
        cells = []
        for name in measures:
            _, unit, digits = MEASURES[name]
            of = list(values(result, arm, name).values())
            if of:
                mean, std = mean_std(of).mean, mean_std(of).std
                spread = "" if std is None else f" ± {unit * std:.{digits}f}"
                cells.append(f"{unit * mean:.{digits}f}{' %' * (unit == 100)}{spread}")
        count = len(values(result, arm, measures[0]))
        lines.append(f"| {title(arm)} | {count} | {' | '.join(cells)} |")
    return lines


def difference_table(result: Mapping[str, Any], measures: Sequence[str]) -> list[str]:
    """A row for each difference and measure, with its intervals."""
    lines = ["| difference | of | mean [other seeds] | [other images] |", "|---|---|---|---|"]
    for place, (arm, against) in enumerate(contrasts(arms_of(result))):
        for name in measures:
            label, unit, digits = MEASURES[name]
            gap = difference(result, arm, against, name)
            if gap is not None:
                seeds = f"{unit * gap.mean:+.{digits}f}{interval(gap.low, gap.high, unit, digits)}"
                images = over_images(result, place, name)
                lines.append(f"| {title(arm)} - {title(against)} | {label} | {seeds} | {images} |")
    return lines


def recipe(result: Mapping[str, Any]) -> str:
    """What was done."""
    config, data, blocks = result["config"], result["data"], result["config"]["se"]
    rates = [f"learning rate {config['lr']:g}"]
    for name, what in (("lr_se", "blocks"), ("lr_head", "last layer")):
        if config.get(name):
            rates.append(f"{config[name]:g} for the {what}")
    return (
        f"{data['train_images']:,} training images, {data['test_images']:,} test images, "
        f"{config['epochs']} epochs, batch {config['batch_size']}, {', '.join(rates)}, SGD with "
        f"Nesterov momentum, weight decay {config['weight_decay']:g}, cosine, "
        f"{config.get('precision', 'fp32')}, r = {blocks['reduction']}; statistics of the batch "
        f"norms {config.get('bn_statistics', 'updated')} in all arms."
    )


def verdict(result: Mapping[str, Any], name: str) -> str:
    """What SE gains over plain by one measure, in words; empty without a pair."""
    gap = difference(result, "se", "plain", name)
    if gap is None:
        return ""
    label, unit, digits = MEASURES[name]
    text = f"{unit * gap.mean:+.{digits}f}{interval(gap.low, gap.high, unit, digits)}"
    kind = label.replace(", points", "")
    return f"{kind} {text}{'' if gap.significant else ' (open)'}"


def section(name: str, parts: Mapping[str, Any]) -> list[str]:
    """One part of the script: what is finished, and what is missing."""
    heading, planned = PARTS[name]
    lines = [f"## {heading}", ""]
    tried = parts.get(f"{name}_pilot")
    if tried:
        lines += [
            "The learning rate was chosen on a fifth of a part of the training images, by the"
        ]
        lines[-1] += f" mean loss over the arms: {pilot_text(tried)}."
        lines.append("")
    networks = {key: of for key, of in parts.items() if key in (f"{name}_{m}" for m in TITLES)}
    if not networks:
        lines += ["Not finished: no pair of networks is complete. The script goes on with it.", ""]
    for key, result in networks.items():
        measures = ["test_accuracy", "test_loss", *(["macro_f1"] if name == "cells" else [])]
        pairs = len(values(result, contrasts(arms_of(result))[0][0], "test_accuracy"))
        missing = f" {planned - pairs} more are to come." if pairs < planned else ""
        model = TITLES[key.removeprefix(f"{name}_")]
        lines += [f"**{model}, {pairs} of {planned} seeds.**{missing} {recipe(result)}", ""]
        lines += [*arm_table(result, measures), "", *difference_table(result, measures), ""]
    return lines


def fine_tuned(parts: Mapping[str, Any]) -> list[str]:
    """Plain, SE and a constant gate from trained weights: five pairs, both intervals."""
    result = parts.get(FINE_TUNED)
    if result is None:
        return []
    measures = ["test_accuracy", "test_loss"]
    lines = ["## From trained weights: SE against a constant gate", "", recipe(result), ""]
    lines += [*arm_table(result, measures), "", *difference_table(result, measures), ""]
    power = result["summary"].get("power")
    return [*lines, f"{power['text']}.", ""] if power else lines


def pilot_text(tried: Sequence[Mapping[str, Any]]) -> str:
    """Each choice with its mean loss."""
    losses: dict[tuple[Any, ...], list[float]] = {}
    for each in tried:
        losses.setdefault(tuple(each["rates"]), []).append(each["loss"])
    named = {
        (f"{lr:g}" + (f" (blocks and last layer {lr_se:g})" if lr_se else "")): sum(of) / len(of)
        for (lr, lr_se, _), of in losses.items()
    }
    return ", ".join(f"{rate}: {loss:.4f}" for rate, loss in named.items())


def earlier(parts: Mapping[str, Any]) -> list[str]:
    """The results of smaller budgets, in one table."""
    lines = [
        "## Smaller budgets",
        "",
        "10,000 of the training images (a fixed stratified subset), [ ] over seeds; what the "
        "networks said of each image was not kept then, so there is no interval over images. What "
        "is known of the gates is on [its own page](excitations.md).",
        "",
        "| network | epochs | seeds | plain | SE - plain, points | SE - plain, loss |",
        "|---|---|---|---|---|---|",
    ]
    for name, called in EARLIER.items():
        result = parts.get(name)
        if result is None:
            continue
        plain = values(result, "plain", "test_accuracy")
        cells = []
        for measure in ("test_accuracy", "test_loss"):
            _, unit, digits = MEASURES[measure]
            gap = difference(result, "se", "plain", measure)
            if gap is not None:
                ends = interval(gap.low, gap.high, unit, digits)
                cells.append(f"{unit * gap.mean:+.{digits}f}{ends}")
        mean = 100 * mean_std(list(plain.values())).mean
        lines.append(
            f"| {called} | {result['config']['epochs']} | {len(plain)} | {mean:.2f} % | "
            f"{' | '.join(cells)} |"
        )
    exact = [parts[name] for name in ("cifar10_inserted", "cifar10_resnet32_inserted")]
    lines += ["", "Put into the published networks, the blocks change nothing at first:", ""]
    lines += [
        "| network | right before | right after | same class | largest difference of a logit |"
    ]
    lines += ["|---|---|---|---|---|"]
    for network, of in zip(TITLES.values(), exact, strict=True):
        lines.append(
            f"| {network} | {of['correct_before']:,} of {of['images']:,} | "
            f"{of['correct_after']:,} | {of['same_class']:,} | {of['largest_logit_difference']:g} |"
        )
    return [*lines, ""]


def short(parts: Mapping[str, Any]) -> list[str]:
    """What came out, from what is finished."""
    lines = ["## What came out", ""]
    named = {FINE_TUNED: "pretrained ResNet-20, fine-tuned, r = 4, two epochs"}
    for name, called in (named | EARLIER).items():
        result = parts.get(name)
        if result is not None:
            said = [verdict(result, measure) for measure in ("test_accuracy", "test_loss")]
            subject = f"{called[0].upper()}{called[1:]}, 10,000 images"
            lines.append(f"- {subject}: {', '.join(filter(None, said))}.")
    for name, (heading, _) in PARTS.items():
        for model, called in TITLES.items():
            result = parts.get(f"{name}_{model}")
            if result is not None:
                said = [verdict(result, measure) for measure in MEASURES]
                lines.append(f"- {heading} ({called}): {', '.join(filter(None, said))}.")
    return [*lines, ""]


def page(parts: Mapping[str, Any]) -> str:
    """The page, of the parts that are there."""
    parts = {name: upgraded(of) if "runs" in of else of for name, of in parts.items()}
    lines = [
        f"# SE on {NAME} and on blood cells",
        "",
        "Written by `benchmarks/evidence.py` from the runs that are finished; do not edit. The "
        f"images of {NAME} are CIFAR-10 re-encoded as JPEG, which makes them harder: none of these "
        "numbers may be set beside the paper's or anyone's on the original images. Two CPU cores "
        "with other work: the budgets are small, and no time is given. The arms of a seed start "
        "from the same weights and see the same images; differences are SE minus plain in pairs, "
        "with 95 % intervals: over other seeds, and over other test images (a bootstrap, seeds "
        "inside). Nothing is chosen on test images.",
        "",
        *short(parts),
        *fine_tuned(parts),
    ]
    for name in PARTS:
        lines += section(name, parts)
    lines += earlier(parts)
    lines += [
        "## How to repeat this",
        "",
        "```",
        "python benchmarks/evidence.py --data ../shared/data/cifar10 --bccd ../shared/data/bccd \\",
        "    --weights ../shared/data/weights/resnet20-12fca82f.th",
        "```",
        "",
        "Interrupted, the same command goes on; runs go seed by seed over all arms and networks. "
        "The fine-tuned networks are those of `benchmarks/excitations.py`. The smaller budgets and "
        "the published networks were measured by the script before this one, "
        "`benchmarks/cifar10.py` of commit 4e1ad36: `git worktree add ../before 4e1ad36`.",
    ]
    return "\n".join(lines) + "\n"
