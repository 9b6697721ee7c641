"""What commands show on the terminal: one line of progress, tables at the end."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

import senet.progress

__all__ = [
    "INTERRUPTED",
    "class_line",
    "command_line",
    "data_notes",
    "finished",
    "one_class_only",
    "run_job",
    "show_models",
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
