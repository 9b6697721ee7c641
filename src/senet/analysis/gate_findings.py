"""What the numbers of the gates mean, in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from senet.analysis.gate_costs import ALL, BlockCost, GateCosts
from senet.analysis.gate_statistics import BlockGates
from senet.analysis.gates import Gates
from senet.analysis.number_texts import decimal, interval
from senet.analysis.series import short_paths

__all__ = ["KINDS", "findings", "kinds_of"]

_CONSTANT = 0.01  # of the output's variance
_POINTS = 0.001  # of accuracy
# kind: what it says of a block
KINDS = {
    "diverged": "has gates that are no numbers",
    "dead": "95 % or more of its gates are below 0.05",
    "saturated": "half or more of its gates are below 0.05 or above 0.95 of the sigmoid's range",
    "constant": "a constant would do as well: with the gate at its mean less than 1 % of the "
    "output's variance changes and no fall of the accuracy was seen, or the accuracy falls by less "
    "than 0.1 points (at 95 %)",
    "class-specific": "the class explains 10 % or more of its variation, beyond chance",
    "class-agnostic": "the class explains less than 2 % of its variation, beyond chance",
}


def kinds_of(block: BlockGates, costs: GateCosts | None = None) -> list[str]:
    """Return which of `KINDS` a block is of.

    Args:
        block: the block.
        costs: what it is worth, if that was tested.
    """
    if block.diverged:
        return ["diverged"]
    low, high = block.low_share.value, block.high_share.value
    cost = costs.constant.get(block.path) if costs else None
    share = block.variance_share
    held = share.value if math.isnan(share.high) else share.high
    hardly = held < _CONSTANT and (cost is None or not cost.accuracy.high < 0)
    says = block.specificity.beyond_chance
    tests = {
        "dead": low >= 0.95,
        "saturated": low < 0.95 and low + high >= 0.5,
        "constant": hardly or (cost is not None and cost.accuracy.low > -_POINTS),
        "class-specific": says >= 0.10,
        "class-agnostic": says < 0.02,
    }
    return [kind for kind, holds in tests.items() if holds]


def findings(gates: Gates, costs: GateCosts | None = None) -> str:
    """Return one paragraph on what the blocks do.

    Args:
        gates: as recorded.
        costs: what the blocks are worth, if that was tested.
    """
    paths = [block.path for block in gates.blocks]
    short = dict(zip(paths, short_paths(paths), strict=True))
    kinds = {short[block.path]: kinds_of(block, costs) for block in gates.blocks}

    def those(kind: str) -> list[str]:
        return [path for path, each in kinds.items() if kind in each]

    total, constant = len(gates.blocks), those("constant")
    blocks = "1 block" if total == 1 else f"{total} blocks"
    what = "do nothing that a constant would not do"
    if not constant:
        parts = [f"Of {blocks}, none does only what a constant would do too."]
    elif len(constant) == total > 1:
        parts = [f"All {blocks} {what}."]
    else:
        verb = what.replace("do ", "does ", 1) if len(constant) == 1 else what
        parts = [f"Of {blocks}, {len(constant)} {verb}: {_listed(constant)}."]
    for kind, text in (
        ("dead", "closed (95 % of the gates or more are below 0.05)"),
        ("saturated", "saturated (half of the gates or more are near an end of their range)"),
        ("diverged", "diverged (gates that are no numbers)"),
    ):
        if of_kind := those(kind):
            parts.append(f"{_count(of_kind)} {text}: {_listed(of_kind)}.")
    if says := _about_classes(gates, those("class-specific")):
        parts.append(says)
    if costs is not None:
        parts.append(_about_costs(costs, short))
    if gates.never_ran:
        parts.append(f"Never reached by a forward pass: {_listed(gates.never_ran)}.")
    return " ".join(parts)


def _count(paths: Sequence[str]) -> str:
    return f"{len(paths)} {'is' if len(paths) == 1 else 'are'}"


def _listed(paths: Sequence[str], most: int = 4) -> str:
    shown = [path or "the network itself" for path in paths[:most]]
    rest = len(paths) - len(shown)
    if rest:
        return f"{', '.join(shown)} and {rest} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _about_classes(gates: Gates, specific: Sequence[str]) -> str:
    known = [b.specificity for b in gates.blocks if not math.isnan(b.specificity.beyond_chance)]
    if not known:
        return ""
    first, last = known[0], known[-1]
    vary = "" if len(known) == len(gates.blocks) else " whose gates vary"
    shares = [decimal(100 * each.mean, 1) for each in (first, last)]
    chance = f"{decimal(100 * last.chance.mean, 2)} % would by chance"
    if len(known) == 1:
        text = f"The class explains {shares[0]} % of the gates' variation ({chance})."
    else:
        text = (
            f"The class explains {shares[0]} % of the gates' variation in the first block{vary} "
            f"and {shares[1]} % in the last ({chance})"
        )
        text += "; " + _specific(specific, len(gates.blocks)) if specific else "."
    return text


def _specific(paths: Sequence[str], blocks: int) -> str:
    if len(paths) == blocks:
        return "all are class-specific."
    return f"{_count(paths)} class-specific: {_listed(paths)}."


def _about_costs(costs: GateCosts, short: Mapping[str, str]) -> str:
    parts = [
        f"With all gates held at their means the accuracy changes by {_points(costs.constant[ALL])}"
        f", without all gates by {_points(costs.removed[ALL])}, on {costs.images:,} images."
    ]
    single = {path: cost for path, cost in costs.constant.items() if path != ALL}
    worst = min(single, key=lambda path: single[path].accuracy.value, default=None)
    if worst is not None and len(single) > 1 and single[worst].accuracy.high < 0:
        lost = _points(single[worst])
        parts.append(f"Looking at the image is worth most in {short[worst]}: {lost} without.")
    return " ".join(parts)


def _points(cost: BlockCost) -> str:
    value, low, high = cost.accuracy
    return f"{decimal(100 * value, 2, sign=True)} points ({interval(low, high)})"
