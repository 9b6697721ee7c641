"""What commands show on the terminal: one line of progress, tables at the end."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

import senet.progress

__all__ = [
    "INTERRUPTED",
    "ablation_table",
    "class_line",
    "command_line",
    "data_notes",
    "finished",
    "one_class_only",
    "result_table",
    "run_job",
    "show_models",
    "show_result",
    "showing_progress",
]

INTERRUPTED = 130  # the exit code of a command that Ctrl-C ended
_REQUEUE = 75  # of one that a batch system ended, to be started again: EX_TEMPFAIL
_MISSING = "-"


def command_line() -> str:
    """Return the command that is running, to be pasted into a shell."""
    return shlex.join(["senet", *sys.argv[1:]])


def run_job(
    job: Callable[..., dict[str, Any]], *arguments: Any, quiet: bool = False, **options: Any
) -> tuple[Console, dict[str, Any]]:
    """Run what takes long under a line of progress; return where to print, and the result."""
    console = Console(quiet=quiet)
    try:
        with showing_progress(console) as on_progress:
            result = job(*arguments, command=command_line(), on_progress=on_progress, **options)
    except KeyboardInterrupt:
        typer.echo("senet: interrupted before the first step; nothing was written", err=True)
        raise typer.Exit(INTERRUPTED) from None
    return console, result


def finished(console: Console, result: Mapping[str, Any], *, resume: bool) -> None:
    """Say how to go on with what was interrupted, and end with its exit code."""
    if result["state"] == "done":
        return
    again = command_line() if resume else f"{command_line()} --resume"
    line = f"interrupted; go on with: {again}"
    console.print(line, soft_wrap=True, highlight=False, markup=False)
    raise typer.Exit(_REQUEUE if result["state"] == "requeue" else INTERRUPTED)


@contextmanager
def showing_progress(console: Console) -> Iterator[senet.progress.Progress]:
    """Give an `on_progress` that shows what is being done, how far it is, and how long it takes.

    On a terminal it is one line that changes; elsewhere, a line for each new thing that is done,
    and for each epoch that has ended.
    """
    if not console.is_terminal:
        yield _line_by_line(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("reading the data", total=None)
        seen: list[int] = []

        def on_progress(description: str, done: int, total: int) -> None:
            if seen != [total]:  # another kind of work: its speed is another one
                seen[:] = [total]
                progress.reset(task, total=total)
            progress.update(task, description=description, completed=done)

        yield on_progress


def _line_by_line(console: Console) -> senet.progress.Progress:
    said: set[str] = set()

    def on_progress(description: str, _done: int, _total: int) -> None:
        subject = description.partition(", epoch")[0]
        if subject not in said:
            said.add(subject)
            console.print(subject, highlight=False)
        if ": " in description[len(subject) :]:  # an epoch has ended
            console.print(description, highlight=False, soft_wrap=True)

    return on_progress


def class_line(scores: Mapping[str, Any], prefix: str = "") -> str:
    """Return what accuracy hides where classes are unequal, in one line."""
    balanced, f1, largest = (
        scores[f"{prefix}{name}"] for name in ("balanced_accuracy", "macro_f1", "majority_share")
    )
    return (
        f"balanced accuracy {100 * balanced:.2f} %, macro F1 {100 * f1:.2f} %; always answering "
        f"the largest class would give {100 * largest:.2f} % accuracy"
    )


def one_class_only(name: str) -> str:
    """Return the warning about a network that answers every image alike."""
    return f"warning: the network answers {name} for every test image: it tells no classes apart"


def data_notes(data: Mapping[str, Any]) -> list[str]:
    """Return a line for each kind of files and images that were left out of the data."""
    from senet.training.data import left_out

    lines = [*data.get("passed_over", ()), left_out(data.get("left_out", ()))]
    return [line for line in lines if line]


def show_result(console: Console, result: Mapping[str, Any], report: Path) -> None:
    """Print the table, the verdict, what was left out of the data, and where the report is."""
    for table in result_tables(result):
        console.print(table)
    console.print(f"[bold]{result['summary']['verdict']}[/bold]", highlight=False)
    notes = data_notes(result["data"])
    if result["summary"].get("warning"):
        notes.insert(0, f"warning: {result['summary']['warning']}")
    for line in notes:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    console.print(f"report: {report}", soft_wrap=True, highlight=False)


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
    if summary.get("majority_share") is not None:
        share = 100 * summary["majority_share"]
        table.caption = f"always answering the largest class would give {share:.2f} % accuracy"
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
    table = Table(title=f"{config['model']} on {result['data']['name']}", title_justify="left")
    if result.get("cost"):
        batch = result["cost"]["input"][0][0]
        table.caption = f"multiply-adds, memory and times of a batch of {batch}"
        table.caption_justify = "left"
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
    """Return a row of means and differences, and one of intervals where there are some."""
    cells = [_spread(estimate, unit, digits) for estimate in of["arms"].values()]
    differences = [each["difference"] for each in of["differences"]]
    means = [
        _MISSING if each is None else f"{each['mean'] / unit:+.{digits}f}" for each in differences
    ]
    rows = [(label, *cells, *means)]
    if any(each and each["low"] is not None for each in differences):
        name = f"  {100 * next(filter(None, differences))['confidence']:g} % interval"
        ends = [_interval(each, unit, digits) for each in differences]
        rows.append((name, *[""] * len(cells), *ends))
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
}


def _cost_rows(
    cost: Mapping[str, Any] | None, arms: Sequence[str], compared: Sequence[str]
) -> list[tuple[str, ...]]:
    """Return what plain and SE cost, in their columns and that of their difference."""
    total = cost["total"] if cost else {}
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


def show_models(console: Console, names: Sequence[str]) -> None:
    """Print a table of this project's networks, then the names of the other libraries'."""
    from senet.models import NETWORKS

    table = Table(caption="errors in percent, printed in the paper", caption_justify="left")
    table.add_column("network", no_wrap=True)
    for head in ("SE", "image", "top-1 / top-5", "table"):
        table.add_column(head, justify="right")
    own = [name for name in names if name in NETWORKS]
    for name in own:
        network = NETWORKS[name]
        paper = network.paper
        errors = () if paper is None else (paper.top1, paper.top5)
        table.add_row(
            name,
            "" if network.se is None else "SE",
            "x".join(str(size) for size in network.family.input_size[1:]),
            " / ".join(f"{error:.2f}" for error in errors if error is not None),
            "" if paper is None else str(paper.table),
        )
    if own:
        console.print(table)
    for name in names:
        if name not in NETWORKS:
            console.print(name, highlight=False, soft_wrap=True)
