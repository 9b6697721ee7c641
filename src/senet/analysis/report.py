"""One page that shows a comparison: the verdict first, then the numbers, the pictures, the recipe.

The page is self-contained: the style sheet and all figures are inside, and it loads nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from senet.analysis._cost import notes, quantities, stages
from senet.analysis._format import NONE, decimal, duration, interval, percent, points, quantity
from senet.analysis._page import page
from senet.analysis._pictures import balance_section, excitations_section, training_section
from senet.analysis._series import is_done, number, part, runs_of, summary_of
from senet.analysis.stats import proportion_interval
from senet.errors import InputError

__all__ = ["render_report"]

_SCHEMA = "senet.compare/"


def render_report(result: Mapping[str, Any]) -> str:
    """Return a comparison as one self-contained HTML page.

    Gaps are shown as gaps: an interrupted comparison, a single seed, a result without cost or
    excitations all give a page.

    Args:
        result: what `senet compare` writes as results.json, schema `senet.compare/1`.

    Raises:
        InputError: the dict is of another schema.

    Example:
        >>> html = render_report({"schema": "senet.compare/1", "config": {"model": "resnet20"}})
        >>> "senet compare: resnet20" in html, "no verdict" in html
        (True, True)
    """
    schema = str(result.get("schema") or _SCHEMA)
    if not schema.startswith(_SCHEMA):
        raise InputError(f"a report shows a result of schema {_SCHEMA}1, got {schema!r}")
    sections = (
        _head,
        _table,
        balance_section,
        _stages,
        training_section,
        excitations_section,
        _runs,
        _recipe,
    )
    body = "\n".join(text for text in (section(result) for section in sections) if text)
    return page(f"senet compare: {_subject(result)}", body)


def _subject(result: Mapping[str, Any]) -> str:
    config = part(result, "config")
    model, data = config.get("model", "a network"), part(result, "data").get("name")
    data = data or config.get("data")
    return escape(f"{model} on {data}" if data else str(model))


def _facts(result: Mapping[str, Any]) -> Iterator[str]:
    data, config = part(result, "data"), part(result, "config")
    for key, name in (("train_images", "training images"), ("test_images", "test images")):
        if not math.isnan(number(data.get(key))):
            yield f"{data[key]:,} {name}"
    if data.get("classes"):
        yield f"{len(data['classes']):,} classes"
    if data.get("image_size"):
        yield escape("\u00d7".join(str(n) for n in data["image_size"]))
    if config.get("epochs"):
        yield f"{escape(str(config['epochs']))} epoch{'' if config['epochs'] == 1 else 's'}"


def _head(result: Mapping[str, Any]) -> str:
    summary = summary_of(result)
    sentence = escape(str(summary["verdict"]))
    facts = " \u00b7 ".join(_facts(result))
    return f"""<header>
<p class="eyebrow">senet compare \u00b7 {_subject(result)}</p>
<h1>{sentence[:1].upper()}{sentence[1:]}</h1>
<p class="quiet">{facts}</p>
</header>
{_notice(result)}{_tiles(summary)}"""


def _tiles(summary: Mapping[str, Any]) -> str:
    difference = summary["difference"]
    note = "two pairs or more give an interval"
    if not math.isnan(number(difference.get("low"))):
        ends = interval(difference["low"], difference["high"])
        note = f"{_confidence(difference)} interval {ends}"
    tiles = [
        ("Plain, test accuracy", _accuracy(summary["plain"]), _seeds(summary["plain"]), "plain"),
        ("With SE, test accuracy", _accuracy(summary["se"]), _seeds(summary["se"]), "se"),
        ("SE \u2212 plain, in pairs", points(difference.get("mean")), note, "muted"),
    ]
    return '<dl class="tiles">' + "".join(_tile(*tile) for tile in tiles) + "</dl>"


def _tile(term: str, value: str, note: str, tone: str) -> str:
    return (
        f'<div class="tile" style="--tone: var(--{tone})"><dt>{term}</dt>'
        f'<dd class="value">{value}</dd><dd class="note">{note}</dd></div>'
    )


def _confidence(difference: Mapping[str, Any]) -> str:
    return f"{100 * number(difference.get('confidence', 0.95)):g} %"


def _accuracy(summary: Mapping[str, Any]) -> str:
    return percent(summary.get("mean"), spread=summary.get("std"))


def _seeds(summary: Mapping[str, Any]) -> str:
    n = summary.get("n") or 0
    if n < 2:
        return "one seed" if n else "no finished run"
    return f"mean \u00b1 standard deviation, {n} seeds"


def _notice(result: Mapping[str, Any]) -> str:
    planned = 2 * len(part(result, "config").get("seeds") or [])
    done = sum(is_done(run) for run in runs_of(result))
    if done >= planned:
        return ""
    return (
        f'<p class="notice"><strong>Unfinished: {done} of {planned} runs are done.</strong> '
        "This page shows what there is so far. The same command with <code>--resume</code> "
        "goes on.</p>\n"
    )


def _row(cells: Iterable[str], *, kind: str = "") -> str:
    first, *rest = cells
    mark = f' class="{kind}"' if kind else ""
    return f'<tr{mark}><th scope="row">{first}</th>{"".join(f"<td>{c}</td>" for c in rest)}</tr>'


def _grid(heads: Sequence[str], rows: Iterable[str], *, caption: str = "") -> str:
    head = "".join(f'<th scope="col">{text}</th>' if text else "<td></td>" for text in heads)
    note = f"<figcaption>{caption}</figcaption>" if caption else ""
    return (
        f'<figure><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{note}</figure>"
    )


def _table(result: Mapping[str, Any]) -> str:
    return "<h2>Plain and SE, side by side</h2>" + _grid(
        ("", "Plain", "SE", "SE \u2212 plain", "SE / plain"),
        [*_accuracy_rows(result), *_cost_rows(result)],
        caption=escape(" ".join(notes(result.get("cost")))),
    )


def _accuracy_rows(result: Mapping[str, Any]) -> Iterator[str]:
    summary = summary_of(result)
    plain, se, difference = summary["plain"], summary["se"], summary["difference"]
    change = points(difference.get("mean"))
    yield _row(
        ("Test accuracy", _accuracy(plain), _accuracy(se), change, ""),
        kind="first",
    )
    ends = interval(difference.get("low"), difference.get("high"))
    if ends != NONE:
        yield _row((f"{_confidence(difference)} interval", "", "", ends, ""))


def _cost_rows(result: Mapping[str, Any]) -> Iterator[str]:
    for q in quantities(result.get("cost")):
        ratio = decimal(q.ratio, 4)
        if not math.isnan(q.lower):
            ratio = f"{decimal(q.ratio, 2)} ({decimal(q.lower, 2)} to {decimal(q.upper, 2)})"
        change = quantity(q.name, q.difference, sign=True)
        values = (quantity(q.name, q.plain), quantity(q.name, q.se), change, ratio)
        yield _row((escape(q.label), *values))


_BY_STAGE = {
    "parameters": "parameters",
    "macs": "multiply-adds",
    "bytes_moved_step": "bytes moved, step",
    "bytes_kept": "kept for the backward",
}


def _stages(result: Mapping[str, Any]) -> str:
    """What SE adds in each stage: early blocks cost time and memory, late ones parameters."""
    rows = []
    for name, counts in stages(result.get("cost")):
        if not any(q.difference for q in counts.values()):
            continue
        cells = [escape(name)]
        for key in _BY_STAGE:
            q = counts.get(key)
            cells.append(NONE if q is None else quantity(key, q.difference, sign=True))
        rows.append(_row(cells))
    if not rows:
        return ""
    return "<h3>What SE adds, stage by stage</h3>" + _grid(("", *_BY_STAGE.values()), rows)


def _runs(result: Mapping[str, Any]) -> str:
    runs = sorted(runs_of(result), key=lambda run: (str(run.get("seed")), str(run.get("arch"))))
    if not runs:
        return ""
    images = number(part(result, "data").get("test_images"))
    rows = [
        _row(
            (
                f"seed {escape(str(run.get('seed', NONE)))}",
                "SE" if run.get("arch") == "se" else escape(str(run.get("arch", NONE))),
                percent(run.get("test_accuracy")),
                _wilson(number(run.get("test_accuracy")), images),
                decimal(run.get("test_loss"), 4),
                str(len(run.get("epochs") or [])),
                duration(run.get("seconds")),
                "done" if is_done(run) else escape(str(run.get("state"))),
            )
        )
        for run in runs
    ]
    heads = (
        "",
        "network",
        "accuracy",
        "95 % interval",
        "test loss",
        "epochs",
        "time",
        "state",
    )
    note = (
        "Wilson's interval of one accuracy: how exactly the test set measures one trained "
        "network. It says nothing about the spread over seeds."
    )
    return "<h2>Every run</h2>" + _grid(heads, rows, caption=note)


def _wilson(accuracy: float, images: float) -> str:
    if not (0 <= accuracy <= 1 and images >= 1):
        return NONE
    found = proportion_interval(round(accuracy * images), int(images))
    return f"{decimal(100 * found.low, 1)} to {decimal(100 * found.high, 1)}"


def _recipe(result: Mapping[str, Any]) -> str:
    config = dict(part(result, "config"))
    se = config.pop("se", None)
    where = {"device": result.get("device"), "date": result.get("date")}
    columns = [
        _list("Configuration", config),
        _list("SE blocks", se if isinstance(se, Mapping) else {}),
        _list("Versions", {**part(result, "versions"), **where}),
    ]
    command = result.get("command")
    shown = f"<pre>{escape(str(command))}</pre>" if command else ""
    return f'<h2>How to repeat it</h2>{shown}<div class="many">{"".join(columns)}</div>'


def _list(title: str, facts: Mapping[str, Any]) -> str:
    rows = [
        _row((escape(str(key)), escape(_plain(value))))
        for key, value in facts.items()
        if value is not None
    ]
    if not rows:
        return ""
    return f'<section><h3>{title}</h3><table class="facts">{"".join(rows)}</table></section>'


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
