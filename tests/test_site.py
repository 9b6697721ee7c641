"""The documentation site builds without a warning, and its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import senet


class Page(HTMLParser):
    """The links of a page of HTML, and what they may point at in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            elif name in ("href", "src") and value is not None:
                self.links.append(value)


def broken_links(site: Path) -> list[str]:
    """Return the links between the pages of a site that name no file, or no anchor of one."""
    pages = {path.resolve(): Page(path.read_text()) for path in site.rglob("*.html")}
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue  # the tests stay off the network
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[target].anchors if target in pages else set()
            if not target.exists() or (parts.fragment and unquote(parts.fragment) not in anchors):
                broken.append(f"{path.relative_to(site.resolve())}: {link}")
    return broken


@pytest.fixture(scope="session")
def site(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "sphinx", "-q", "--fail-on-warning", "--keep-going"),
            *("-d", str(folder / "doctrees"), "-c", "docs", ".", str(folder / "html")),
        ],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


def test_the_links_of_the_site_lead_somewhere(site: Path) -> None:
    assert len(list(site.rglob("*.html"))) > 20
    assert broken_links(site) == []


def test_the_reference_documents_every_public_name(site: Path) -> None:
    page = Page((site / "docs" / "reference.html").read_text())
    documented = {re.split(r"[.-]", anchor)[-1] for anchor in page.anchors}

    assert set(senet.__all__) <= documented


def test_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<a href="b.html#here">x</a> <a href="b.html#gone">x</a> <a href="c.html">x</a>'
        '<img src="d.png"> <a href="https://example.org/e">x</a> <a href="#gone">x</a>'
    )
    (tmp_path / "b.html").write_text('<h1 id="here">x</h1>')

    assert broken_links(tmp_path) == [
        "a.html: b.html#gone",
        "a.html: c.html",
        "a.html: d.png",
        "a.html: #gone",
    ]
