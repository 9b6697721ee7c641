"""One page that shows a comparison: the verdict first, then the numbers, the figures, the recipe.

`report.html` is the page and `report.css` its style sheet; this file reads from the result what
Jinja2 fills in. The page is self-contained: style and figures are inside, and it loads nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from senet.analysis import number_texts as texts
from senet.analysis.class_results import class_section
from senet.analysis.gates import spaced
from senet.analysis.pages import environment
from senet.analysis.run_page import run_page
from senet.analysis.series import (
    Run,
    arms_of,
    contrasts,
    curves,
    is_done,
    number,
    pairs,
    part,
    runs_of,
    shorten,
    summary_of,
    title,
    upgraded,
)
from senet.analysis.worth import with_deployed, worth
from senet.errors import InputError

if TYPE_CHECKING:
    from senet.analysis.figures import Drawing

__all__ = ["render_report"]

_SCHEMA = "senet.compare/"
_RUN = "senet.train/"
_MOST_PROFILES = 12
# In the order of the table; what is not listed follows under its own name.
_LABELS = {
    "parameters": "Parameters",
    "macs": "Multiply-adds",
    "bytes_moved_forward": "Bytes moved, forward",
    "bytes_moved_step": "Bytes moved, step",
    "bytes_kept": "Kept for backward",
    "latency_ms": "Latency, forward",
    "deployed_ms": "Latency, deployed",
    "deployed": "Latency, deployed",
    "step_ms": "Training step",
}
_BY_STAGE = ("parameters", "macs", "bytes_moved_step", "bytes_kept")


def render_report(
    result: Mapping[str, Any],
    *,
    folder: str = "RUN",
    gates: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return a comparison, or a run, as one self-contained HTML page.

    Gaps are shown as gaps: an interrupted comparison, a single seed, a result without cost or
    excitations all give a page.

    Args:
        result: what `senet compare` writes as results.json, schema `senet.compare/2`; one of
            schema 1 is shown as well. Or what `senet train` writes as run.json.
        folder: of the run, as the commands on its page name it.
        gates: of the run, the rows of its gates.csv.

    Raises:
        InputError: the dict is of another schema.
        MissingPackageError: Jinja2, matplotlib or scipy is not installed, whatever the result.

    Example:
        >>> html = render_report({"schema": "senet.compare/2", "config": {"model": "resnet20"}})
        >>> "senet compare: resnet20" in html, "no verdict" in html
        (True, True)
    """
    if str(result.get("schema")).startswith(_RUN):
        return run_page(result, folder=folder, gates=gates)
    return _comparison_page(_checked(result))


def _checked(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a comparison in today's schema."""
    schema = str(result.get("schema") or _SCHEMA)
    if not schema.startswith(_SCHEMA):
        raise InputError(f"a report shows a result of schema {_SCHEMA}2 or {_RUN}1, got {schema!r}")
    return upgraded(result)


def _comparison_page(result: Mapping[str, Any]) -> str:
    page = environment("the HTML report", arm_title=title).get_template("report.html")
    config, data = part(result, "config"), part(result, "data")
    cost = with_deployed(part(result, "cost"))
    runs, timing = runs_of(result), part(cost, "timing")
    quantities, arms = _quantities(cost, timing), arms_of(result)
    summary = summary_of(result)
    return page.render(
        result=result,
        config=config,
        settings={name: value for name, value in config.items() if name != "se"},
        se=part(config, "se"),
        where={**part(result, "versions"), **{key: result.get(key) for key in ("device", "date")}},
        data=data,
        verdict=str(summary["verdict"]),
        warning=part(result, "summary").get("warning"),
        majority_share=number(part(result, "summary").get("majority_share")),
        arms=_arms(summary, arms),
        evidence=_evidence(result, summary),
        worth=worth(result),
        power=part(part(result, "summary"), "power").get("text"),
        until=part(result, "until"),
        over_images=any(part(each, "over_images") for each in summary["differences"]),
        no_image_intervals=part(result, "summary").get("no_image_intervals"),
        differences=[_named(each) for each in summary["differences"]],
        means=summary["arms"],
        difference=next(_se_against_plain(summary), None),
        runs=sorted(runs, key=lambda run: (str(run.get("seed")), str(run.get("arch")))),
        done=sum(is_done(run) for run in runs),
        planned=len(arms) * len(config.get("seeds") or []),
        cost=cost,
        timing=timing,
        quantities=quantities,
        stages=list(_stages(cost)),
        labels=_LABELS,
        stage_columns=[_LABELS[name].lower() for name in _BY_STAGE],
        training=_learning_curves(result),
        balance=_balance(result, quantities),
        classes=class_section(_by_arm(runs, arms), data.get("classes") or []),
        gates=_gates(part(result, "excitations")),
    )


def _by_arm(runs: Sequence[Run], arms: Sequence[str]) -> dict[str, list[Run]]:
    done = [run for run in runs if is_done(run)]
    return {title(arm): [run for run in done if run.get("arch") == arm] for arm in arms}


def _arms(summary: Mapping[str, Any], arms: Sequence[str]) -> list[dict[str, Any]]:
    """Return each arm with its name, colour and mean accuracy, where it has one."""
    from senet.analysis.figures.drawing import COLOUR, arm_colour

    means = part(summary, "arms")
    tones = {arm: f"var(--{arm})" if arm in COLOUR else arm_colour(arm, arms) for arm in arms}
    return [
        {"arm": arm, "name": title(arm), "tone": tones[arm], "accuracy": part(means, arm)}
        for arm in arms
    ]


# name in the summary: what the page calls it, and whether it is a share
_MEASURES = {
    "test_loss": ("test loss", False),
    "balanced_accuracy": ("balanced accuracy", True),
    "macro_f1": ("macro F1", True),
    "top5": ("top-5 accuracy", True),
}


def _evidence(result: Mapping[str, Any], summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each measure: its name, the arms' means, the differences with intervals.

    Empty where the accuracy alone is known.
    """
    measures, rows = part(part(result, "summary"), "measures"), []
    known = {name: part(measures, name) for name in _MEASURES if name in measures}
    for name, of in {"test_accuracy": summary, **known}.items() if known else ():
        label, share = _MEASURES.get(name, ("test accuracy", True))
        unit, digits = (100, 2) if share else (1, 4)
        means = [each["mean"] for each in part(of, "arms").values() if each]
        if not means or len(means) < len(of["arms"]):
            continue
        rows.append(
            {
                "label": f"{label}, %" if share else label,
                "means": [texts.decimal(unit * mean, digits) for mean in means],
                "differences": [_ends(each, unit, digits) for each in of["differences"]],
            }
        )
    return rows


def _ends(entry: Mapping[str, Any], unit: float, digits: int) -> list[str]:
    """Return a difference, and the ends of its intervals over seeds and over images."""
    difference, images = part(entry, "difference"), part(entry, "over_images")

    def text(value: Any) -> str:
        return texts.decimal(unit * number(value), digits, sign=True)

    intervals = [
        texts.NONE if of.get("low") is None else f"{text(of['low'])} to {text(of['high'])}"
        for of in (difference, images)
    ]
    return [text(difference.get("mean")), *intervals]


def _named(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a difference with its name."""
    name = f"{title(str(entry.get('arm')))} \u2212 {title(str(entry.get('against')))}"
    return {"name": name, "verdict": entry.get("verdict"), **part(entry, "difference")}


def _se_against_plain(summary: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for entry in summary["differences"]:
        if (entry.get("arm"), entry.get("against")) == ("se", "plain"):
            yield _named(entry)


class _Quantity(NamedTuple):
    """One cost of both networks; lower and upper are the quartiles of a measured ratio."""

    name: str
    label: str
    plain: float
    se: float
    difference: float
    ratio: float
    lower: float
    upper: float


def _quantities(cost: Mapping[str, Any], timing: Mapping[str, Any]) -> list[_Quantity]:
    """Return every total that has a plain and an SE value, in a fixed order.

    Example:
        >>> cost = {"total": {"plain": {"parameters": 100}, "se": {"parameters": 110}}}
        >>> [(q.label, q.difference, q.ratio) for q in _quantities(cost, {})]
        [('Parameters', 10.0, 1.1)]
    """
    total = part(cost, "total")
    names = [name for name in part(total, "plain") if name in part(total, "se")]
    order = [*_LABELS, *names]
    rows = [_quantity(total, name, timing) for name in sorted(names, key=order.index)]
    return [row for row in rows if not (math.isnan(row.plain) or math.isnan(row.se))]


def _quantity(total: Mapping[str, Any], name: str, timing: Mapping[str, Any]) -> _Quantity:
    columns = ("plain", "se", "difference", "ratio")
    plain, se, difference, ratio = (number(part(total, column).get(name)) for column in columns)
    if math.isnan(difference):
        difference = se - plain
    if math.isnan(ratio) and plain:
        ratio = se / plain
    measured = part(part(timing, name), "ratio")
    quartiles = number(measured.get("lower")), number(measured.get("upper"))
    label = _LABELS.get(name, name.replace("_", " ").capitalize())
    return _Quantity(name, label, plain, se, difference, ratio, *quartiles)


def _stages(cost: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Give the name of each stage in which SE adds something, and what it adds by quantity."""
    for stage in cost.get("stages") or []:
        rows = _quantities({"total": stage} if isinstance(stage, Mapping) else {}, {})
        added = {row.name: row.difference for row in rows}
        if any(added.values()):
            cells = [texts.quantity(added.get(name), name, sign=True) for name in _BY_STAGE]
            yield str(stage.get("name", "")), cells


def _balance(result: Mapping[str, Any], quantities: list[_Quantity]) -> dict[str, Drawing]:
    """What SE gains, seed by seed, and what it costs."""
    from senet.analysis.figures import cost_bars, paired_accuracy

    drawings, runs, arms = {}, runs_of(result), arms_of(result)
    if any(pairs(runs, *both)[0] for both in contrasts(arms)):
        drawings["gain"] = paired_accuracy(runs, arms=arms)
    ratios = {q.label: q.ratio for q in quantities if math.isfinite(q.ratio)}
    if ratios:
        drawings["cost"] = cost_bars(ratios)
    return drawings


def _learning_curves(result: Mapping[str, Any]) -> list[Drawing]:
    from senet.analysis.figures import learning_curves

    runs, arms = runs_of(result), arms_of(result)
    return [
        learning_curves(runs, arms=arms, quantities=[name], name=name)
        for name in ("test_accuracy", "train_loss")
        if any(curves(runs, arm, name) for arm in arms)
    ]


def _known(blocks: list[Mapping[str, Any]]) -> list[str]:
    """What is drawn along the depth beside mean and spread; older results do not have it."""
    quantities = {"specificity": "eta2", "constancy": "variance_share"}
    return [name for name, key in quantities.items() if all(block.get(key) for block in blocks)]


def _gates(excitations: Mapping[str, Any]) -> dict[str, Any]:
    """The gates by depth, by class and block, and by channel; empty where nothing was recorded."""
    from senet.analysis import figures
    from senet.analysis.figures.drawing import CLASS_COLOURS
    from senet.analysis.figures.gate_figures import gate_range

    classes = excitations.get("classes") or []
    blocks = [block for block in excitations.get("blocks") or [] if block.get("mean")]
    if not blocks or not classes:
        return {}
    shown = [blocks[i]["path"] for i in spaced(len(blocks), _MOST_PROFILES)]
    options: dict[str, Any] = {"columns": 1, "legend": False, "limits": gate_range(blocks)}
    names = [shorten(str(classes[k]), 28) for k in spaced(len(classes), len(CLASS_COLOURS))]
    return {
        "depth": [
            figures.excitation_depth(excitations, quantity=quantity, name=f"depth-{quantity}")
            for quantity in ("mean", "spread", *_known(blocks))
        ],
        "heat": {
            quantity: figures.excitation_heat_map(
                excitations, quantity=quantity, name=f"heat-{quantity}"
            )
            for quantity in ("mean", "distance")
        },
        "profiles": [
            figures.excitation_profiles(excitations, paths=[path], name=f"profile-{i}", **options)
            for i, path in enumerate(shown)
        ],
        "legend": list(zip(names, CLASS_COLOURS, strict=False)),
        "blocks": len(blocks),
        "images": [int(n) for n in excitations.get("images") or [] if n],
        "never_ran": [str(path) for path in excitations.get("never_ran") or []],
    }
