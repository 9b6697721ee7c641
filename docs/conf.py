"""The documentation site: `make docs` builds it from the Markdown pages and the docstrings.

The pages stay what a reader of the repository sees. What a site needs beside them, its contents, is
added to the first page while it is read.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

project = "senet"
author = PROJECT["authors"][0]["name"]
copyright = author  # noqa: A001 - Sphinx's name
root_doc = "README"
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/**.md"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 4  # as GitHub makes them, so that links to headings are checked
# "Returns" too: its text is a sentence, not "type: description".
napoleon_custom_sections = ["Formula", "Returns", "Shapes", "Source", "Units"]
default_role = "py:obj"  # `senet.insert` in a docstring is a link where the name is documented
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = "senet"
html_show_sourcelink = False
html_copy_source = False

CONTENTS = {
    "Use": [
        "insertion",
        "block",
        "cost",
        "compare",
        "train",
        "evaluate",
        "see",
        "slim",
        "deploy",
        "detection",
        "coming-from",
    ],
    "Networks": ["models", "weights", "coverage", "scale"],
    "Background": ["free-se", "paper", "results/*"],
    "Reference": ["reference"],
    "The project": [
        *("architecture", "dependencies", "/CONTRIBUTING", "/CHANGELOG"),
    ],
    "Decisions": ["adr/*"],
}


def add_contents(_: Any, name: str, source: list[str]) -> None:
    """Append the contents of the site to its first page."""
    if name != root_doc:
        return
    for caption, pages in CONTENTS.items():
        entries = [page if page.startswith("/") else f"docs/{page}" for page in pages]
        source[0] += "\n".join(
            [
                "",
                "```{toctree}",
                ":hidden:",
                ":glob:",
                f":caption: {caption}",
                "",
                *entries,
                "```",
                "",
            ]
        )


def as_markup(*event: Any) -> None:
    """Turn a docstring, which is plain text, into what Sphinx reads."""
    lines: list[str] = event[-1]  # the application, kind, name, object and options stand before
    text, literal, hanging = [], False, False
    for line, *behind in zip(lines, [*lines[1:], ""], [*lines[2:], "", ""], strict=False):
        indented = line.startswith(" ")
        literal = literal and (indented or not line)
        hanging = indented and hanging
        section = re.fullmatch(r"(Formula|Shapes|Source|Units): (.*)", line)
        if section:  # begins in its own line: a section of one paragraph
            text += [f"{section[1]}:", f"    {section[2]}"]
        elif line.endswith(":") and behind[0] == "" and behind[1].startswith("    "):
            text.append(f"{line}:")  # code stands indented behind an empty line
            literal = True
        else:
            text.append(line.lstrip() if hanging else line)
        if not literal and not re.match(r"\s*(>>>|\.\.\.) ", line):
            text[-1] = text[-1].replace("*", r"\*")  # [N, C, *spatial], 2 * x: no emphasis
        if line and not indented:  # a line that goes on indented is one paragraph, not a list
            hanging = not line.endswith(":") and not section
    lines[:] = text


def setup(app: Any) -> None:
    """Connect the two changes above."""
    app.connect("source-read", add_contents)
    app.connect("autodoc-process-docstring", as_markup, priority=400)  # before napoleon
