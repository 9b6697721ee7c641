"""What a test says of each class, as the pages show it: a table, the matrix, what is mistaken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from senet.analysis import number_texts as texts
from senet.analysis.series import number, part

if TYPE_CHECKING:
    from senet.analysis.figures import Drawing

__all__ = ["class_section"]

_LISTED = 50  # classes in the table
_DRAWN = 40  # classes in the matrix
_MISTAKES = 8

Matrix = Sequence[Sequence[int]]


def class_section(
    tests: Mapping[str, Sequence[Mapping[str, Any]]], classes: Sequence[str]
) -> dict[str, Any]:
    """Return the part of a page on the classes; empty where no test has results by class.

    Args:
        tests: what the columns are called: the tests of networks of this kind, of which each has
            "per_class" and "confusion" (see `senet.training.loop.counts.class_results`). Shares are
            means over them, matrices sums.
        classes: names of the classes, in the order of the matrix.
    """
    known = {name: [test for test in of if part(test, "per_class")] for name, of in tests.items()}
    known = {name: of for name, of in known.items() if of}
    if not known:
        return {}
    first = next(iter(known.values()))[0]["per_class"]
    recall = {
        name: {each: _mean(of, each, "proportion") for each in first} for name, of in known.items()
    }
    order = list(first)
    if len(order) > _LISTED:
        order = sorted(order, key=lambda each: min(of[each] for of in recall.values()))[:_LISTED]
    alone = len(known) == 1
    columns = ["right", "95 % interval", "precision", "F1"] if alone else list(known)
    matrices = {name: _summed(of) for name, of in known.items()}
    return {
        "columns": ["images", *columns],
        "rows": [(each, _cells(first[each], each, known, recall)) for each in order],
        "of": len(first),
        "matrices": list(_drawn(matrices, classes)),
        "mistakes": _mistakes(next(iter(matrices.values())), classes) if alone else [],
    }


def _mean(of: Sequence[Mapping[str, Any]], name: str, what: str) -> float:
    values = [number(test["per_class"].get(name, {}).get(what)) for test in of]
    return sum(values) / len(values)


def _cells(
    first: Mapping[str, Any],
    name: str,
    known: Mapping[str, Sequence[Mapping[str, Any]]],
    recall: Mapping[str, Mapping[str, float]],
) -> list[str]:
    shares = [texts.percent(of[name]) for of in recall.values()]
    images = f"{first.get('n', 0):,}"
    [of, *others] = known.values()
    if others:
        return [images, *shares]
    low, high = (texts.decimal(100 * number(first.get(end)), 1) for end in ("low", "high"))
    rest = (texts.percent(_mean(of, name, what)) for what in ("precision", "f1"))
    return [images, *shares, f"{low} to {high}", *rest]


def _summed(of: Sequence[Mapping[str, Any]]) -> Matrix:
    matrices = [test["confusion"] for test in of if test.get("confusion")]
    return [list(map(sum, zip(*rows, strict=True))) for rows in zip(*matrices, strict=True)]


def _drawn(matrices: Mapping[str, Matrix], classes: Sequence[str]) -> list[Drawing]:
    from senet.analysis.figures import confusion_map

    shown = {name: each for name, each in matrices.items() if 0 < len(each) <= _DRAWN}
    return [
        confusion_map(
            matrix,
            classes,
            heading="Answers by class" if len(matrices) == 1 else f"Answers by class, {name}",
            name=f"confusion-{place}",
        )
        for place, (name, matrix) in enumerate(shown.items())
    ]


def _mistakes(matrix: Matrix, classes: Sequence[str]) -> list[tuple[str, str, int, int]]:
    """Return the most frequent mistakes: of which class, for which, how many, of how many."""
    cells = [
        (classes[of], classes[answer], count, sum(row))
        for of, row in enumerate(matrix)
        for answer, count in enumerate(row)
        if count and of != answer
    ]
    return sorted(cells, key=lambda cell: -cell[2])[:_MISTAKES]
