"""The code of the pages runs, in order, and prints what the page says that it prints."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import senet

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    "README.md",
    "docs/block.md",
    "docs/coming-from.md",
    "docs/cost.md",
    "docs/insertion.md",
    "docs/models.md",
    "docs/paper.md",
    "docs/see.md",
    "docs/weights.md",
]
PYTHON = re.compile(r"^```python\n(.*?)^```$(?:\n+```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)


MEASURED = re.compile(r"^~ (\d+\.\d+)$", re.MULTILINE)


def same_output(printed: str, expected: str) -> bool:
    """Whether code prints what its page says; a line `~ 1.05` may be half of it, or twice."""
    pairs = list(zip(MEASURED.findall(printed), MEASURED.findall(expected), strict=False))
    near = all(0.5 < float(ours) / float(theirs) < 2 for ours, theirs in pairs)
    return near and MEASURED.sub("~", printed) == MEASURED.sub("~", expected)


class Piece(NamedTuple):
    """A block of code, and what a block of text behind it says that it prints."""

    line: int
    code: str
    printed: str | None


def pieces(page: str) -> Iterator[Piece]:
    for match in PYTHON.finditer(page):
        yield Piece(page.count("\n", 0, match.start()) + 2, match.group(1), match.group(2))


def run(page: str, name: str, *, first: int = 0) -> list[str]:
    """Run the code of a page, from some piece on, and return what does not come out as it says."""
    wrong = []
    space: dict[str, Any] = {"senet": senet, "torch": torch} if first else {}
    for piece in list(pieces(page))[first:]:
        out = StringIO()
        with redirect_stdout(out):
            exec(compile("\n" * (piece.line - 1) + piece.code, name, "exec"), space)
        if piece.printed is not None and not same_output(out.getvalue(), piece.printed):
            wrong.append(f"{name}:{piece.line} prints\n{out.getvalue()}")
    return wrong


@pytest.mark.parametrize("name", PAGES)
def test_the_code_of_a_page_does_what_it_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # what it saves is thrown away
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    page = (ROOT / name).read_text()
    assert list(pieces(page))
    # the first lines of the README run in tests/test_packaging.py, from the wheel alone
    assert run(page, name, first=int(name == "README.md")) == []


def test_another_output_is_found() -> None:
    right = "```python\nprint(1)\nx = 2\n```\n```text\n1\n```\n"
    wrong = "```python\nprint(x)\n```\n\n```text\n1\n```\n"
    assert run(right + wrong, "page.md") == ["page.md:9 prints\n2\n"]


@pytest.mark.parametrize(
    ("printed", "same"),
    [("1\n~ 1.11\n", True), ("1\n~ 0.40\n", False), ("1\n1.05\n", False), ("2\n~ 1.05\n", False)],
)
def test_what_is_measured_may_be_half_or_twice(printed: str, same: bool) -> None:
    assert same_output(printed, "1\n~ 1.05\n") == same
