"""What a comparison came to, on the terminal: the verdict, the evidence, the cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from senet.cli.terminal import data_notes

__all__ = ["ablation_table", "result_table", "result_tables", "show_result"]

_MISSING = "-"


def show_result(console: Console, result: Mapping[str, Any], report: Path) -> None:
    """Print the verdict, the evidence and the cost, what was left out, where the report is."""
    from senet.analysis.worth import worth

    summary, worth_it = result["summary"], worth(result)
    alone = worth_it and len(summary["differences"]) == 1
    verdict = worth_it["verdict"] if worth_it and alone else summary["verdict"]
    console.print(f"[bold]{verdict}[/bold]", highlight=False)
    further = [] if alone or not worth_it else [worth_it["verdict"]]
    for line in (*further, worth_it["speed"] if worth_it else ""):
        if line:
            console.print(line, highlight=False, markup=False)
    for table in result_tables(result):
        console.print(table)
    for line in _notes(result):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    console.print(f"report: {report}", soft_wrap=True, highlight=False)


def _notes(result: Mapping[str, Any]) -> list[str]:
    """Return what stands below the tables: warnings, what more seeds would show, the data."""
    summary, notes = result["summary"], []
    if summary.get("warning"):
        notes.append(f"warning: {summary['warning']}")
    if result["config"].get("weights"):
        notes.append(
            f"from {result['config']['weights']}; statistics of the batch norms "
            f"{result['config']['bn_statistics']} in all arms"
        )
    if summary.get("no_image_intervals"):
        notes.append(f"no intervals over images: {summary['no_image_intervals']}")
    if summary.get("power"):
        notes.append(summary["power"]["text"])
    goal = result.get("until")
    if goal and goal["needed"] > goal["max_seeds"]:
        notes.append(
            f"± {goal['points']:g} points take {goal['needed']} seeds, by the spread of the first "
            f"{goal['first']}; --max-seeds was {goal['max_seeds']}"
        )
    return [*notes, *data_notes(result["data"])]


def result_tables(result: Mapping[str, Any]) -> list[Table]:
    """Return what a comparison came to: of more than three arms, with a row for each."""
    from senet.analysis.series import title

    summary = result["summary"]
    if len(summary["arms"]) <= 3:
        return [result_table(result)]
    rows: list[list[str]] = []
    for label, *cells in _accuracy_rows({**summary, "majority_share": None}):
        if label.startswith("  "):  # an interval belongs below its means
            cells = [f"{a}\n{b}" if b else a for a, b in zip(rows[-1][1:], cells, strict=True)]
            label = rows.pop()[0]
        rows.append([label, *cells])
    table = Table("", title=f"{result['config']['model']} on {result['data']['name']}")
    captions = []
    if any(each.get("over_images") for each in summary["differences"]):
        captions.append("below each difference: its 95 % intervals, other seeds, then other images")
    if summary.get("majority_share") is not None:
        share = 100 * summary["majority_share"]
        captions.append(f"always answering the largest class would give {share:.2f} % accuracy")
    table.caption = "\n".join(captions)
    for label, *_ in rows:
        table.add_column(label, justify="right")
    heads = [title(arm) for arm in summary["arms"]]
    heads += [f"{title(each['arm'])} - {title(each['against'])}" for each in summary["differences"]]
    for place, head in enumerate(heads, 1):
        table.add_row(head, *(row[place] for row in rows))
    return [table]


def result_table(result: Mapping[str, Any]) -> Table:
    """Return accuracy and cost of the arms, side by side."""
    from senet.analysis.series import title

    config, summary = result["config"], result["summary"]
    arms = list(summary["arms"])
    compared = [
        f"{title(each['arm'])} - {title(each['against'])}" for each in summary["differences"]
    ]
    table = Table(
        title=f"{config['model']} on {result['data']['name']}", title_justify="left", padding=0
    )
    captions = []
    if any(each.get("over_images") for each in summary["differences"]):
        captions.append("in brackets: 95 % intervals over other seeds and other images")
    if result.get("cost"):
        batch = result["cost"]["input"][0][0]
        captions.append(f"multiply-adds, memory and times of a batch of {batch}")
    table.caption, table.caption_justify = "\n".join(captions) or None, "left"
    table.add_column("")
    for head in (*map(title, arms), *compared):
        table.add_column(head, justify="right")
    if "SE - plain" in compared:
        table.add_column("SE / plain", justify="right")
    for row in (*_accuracy_rows(summary), *_cost_rows(result.get("cost"), arms, compared)):
        table.add_row(*row)
    return table


def _spread(estimate: Mapping[str, Any] | None, unit: float = 1, digits: int = 2) -> str:
    """Return mean ± standard deviation."""
    if estimate is None:
        return _MISSING
    text = f"{estimate['mean'] / unit:.{digits}f}"
    return text if estimate["std"] is None else f"{text} ± {estimate['std'] / unit:.{digits}f}"


# name in the summary: what the table calls it, its unit, digits
_MEASURES = {
    "test_loss": ("test loss", 1, 4),
    "balanced_accuracy": ("balanced accuracy, %", 0.01, 2),
    "macro_f1": ("macro F1, %", 0.01, 2),
    "top5": ("top-5, %", 0.01, 2),
}


def _accuracy_rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows = _measured(summary, "test accuracy, %", 0.01, 2)
    if summary.get("majority_share") is not None:
        largest = f"{100 * summary['majority_share']:.2f}"
        rows.append(("  of the largest class alone", largest, *[""] * (len(rows[0]) - 2)))
    for name, look in _MEASURES.items():
        measure = summary.get("measures", {}).get(name)
        if measure and any(measure["arms"].values()):
            rows += _measured(measure, *look)
    return rows


def _measured(of: Mapping[str, Any], label: str, unit: float, digits: int) -> list[tuple[str, ...]]:
    """Return a row of means and differences, and rows of intervals where there are some."""
    cells = [_spread(estimate, unit, digits) for estimate in of["arms"].values()]
    differences = [each["difference"] for each in of["differences"]]
    means = [
        _MISSING if each is None else f"{each['mean'] / unit:+.{digits}f}" for each in differences
    ]
    rows = [(label, *cells, *means)]
    over_images = [each.get("over_images") for each in of["differences"]]
    for label, intervals in (("other seeds", differences), ("other images", over_images)):
        if any(each and each["low"] is not None for each in intervals):
            confidence = 100 * next(filter(None, intervals))["confidence"]
            label = f"  {label}" if any(over_images) else f"  {confidence:g} % interval"
            ends = [_interval(each, unit, digits) for each in intervals]
            rows.append((label, *[""] * len(cells), *ends))
    return rows


def _interval(difference: Mapping[str, Any] | None, unit: float, digits: int) -> str:
    if difference is None or difference["low"] is None:
        return ""
    low, high = (f"{difference[end] / unit:+.{digits}f}" for end in ("low", "high"))
    return rf"\[{low}, {high}]"


# name in the cost report: what the table calls it, its unit, digits
_COSTS = {
    "parameters": ("parameters", 1, 0),
    "macs": ("multiply-adds, M", 1e6, 3),
    "bytes_kept": ("kept for backward, MB", 1e6, 2),
    "step_ms": ("training step, ms", 1, 2),
    "latency_ms": ("forward, ms", 1, 2),
    "deployed_ms": ("forward, deployed, ms", 1, 2),
}


def _cost_rows(
    cost: Mapping[str, Any] | None, arms: Sequence[str], compared: Sequence[str]
) -> list[tuple[str, ...]]:
    """Return what plain and SE cost, in their columns and that of their difference."""
    from senet.analysis.worth import with_deployed

    total = with_deployed(cost)["total"] if cost else {}
    rows: list[tuple[str, ...]] = []
    for name, (label, unit, digits) in _COSTS.items() if total else ():
        values = [total[column].get(name) for column in ("plain", "se", "difference")]
        if None not in values:
            plain, se, more = (value / unit for value in values)
            cells = {"plain": f"{plain:,.{digits}f}", "se": f"{se:,.{digits}f}"}
            cells["SE - plain"] = f"{more:+,.{digits}f}"
            shown = [cells.get(column, "") for column in (*arms, *compared)]
            rows.append((label, *shown, f"{total['ratio'][name]:.4f}"))
    return rows


def ablation_table(table: Mapping[str, Any]) -> Table:
    """Return one of the ablation's tables."""
    title = f"table {table['table']}: {table['subject']} (compared with {table['compared_with']})"
    shown = Table(title=title, title_justify="left")
    for head in ("", "top-1 error, %", "difference", "paper, ImageNet", "difference", "direction"):
        shown.add_column(head, justify="left" if head in ("", "direction") else "right")
    for row in table["rows"]:
        gap, difference = row["difference"], ""
        if gap is not None:
            difference = f"{gap['mean']:+.2f}"
            if gap["low"] is not None:
                difference += f" ({gap['low']:+.2f}, {gap['high']:+.2f})"
        published = f"{row['paper_difference']:+.2f}" if row["paper_difference"] else ""
        paper = (f"{row['paper_error']:.2f}", published, row["direction"] or "")
        shown.add_row(row["name"], _spread(row["error"]), difference, *paper)
    return shown
