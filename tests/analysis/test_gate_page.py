"""The page of the gates: what it says, and that a browser shows it, with and without scripts."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from browser import Browser, chromium
from senet import SqueezeExcitation
from senet.analysis import GateCosts, Gates, gate_costs, record_gates
from senet.analysis.gate_page import render_gates
from senet.analysis.image_gates import ImageGates, image_gates
from senet.errors import UnknownNameError

BAD = "<script>alert('x')</script>\"&"
CLASSES = [BAD, "cat", "dog", "ship"]


class Net(nn.Module):
    """Two SE blocks; the first hardly looks at the image, the second follows its brightness."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.layer1, self.se1 = nn.Conv2d(3, 8, 3), SqueezeExcitation(8, 2)
        self.layer2, self.se2 = nn.Conv2d(8, 24, 3), SqueezeExcitation(24, 2)
        self.head = nn.Linear(24, classes)
        nn.init.normal_(self.se1.fc2.weight, std=1e-3)
        nn.init.normal_(self.se2.fc2.weight, std=8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.se2(self.layer2(self.se1(self.layer1(x)).relu())).relu()
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def _batches(classes: int, count: int = 6) -> list[tuple[torch.Tensor, torch.Tensor]]:
    made = []
    for _ in range(count):
        labels = torch.randint(0, classes, (32,))
        bright = 0.5 * (labels % 4).float()[:, None, None, None]
        made.append((0.3 * torch.randn(32, 3, 9, 9) + bright, labels))
    return made


@pytest.fixture(scope="module")
def recorded() -> tuple[Gates, GateCosts, list[ImageGates]]:
    torch.manual_seed(0)
    net, batches = Net(), _batches(4)
    gates = record_gates(net, batches, classes=CLASSES)
    costs = gate_costs(net, batches, gates.means(), classes=CLASSES)
    shown = torch.rand(9, 9, 3)
    return gates, costs, [image_gates(net, batches[0][0][0], gates, name=BAD, shown=shown)]


HISTORY = [
    {"epoch": str(e), "block": b, "mean": "0.5", "std": "0.2", "channel_std": "0.1"}
    for e in (1, 2)
    for b in ("se1", "se2")
]


@pytest.fixture(scope="module")
def page(recorded: tuple[Gates, GateCosts, list[ImageGates]]) -> str:
    gates, costs, images = recorded
    facts = {"command": f"senet see {BAD}"}
    return render_gates(gates, title=BAD, costs=costs, history=HISTORY, images=images, facts=facts)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    if chromium() is None:
        pytest.skip("needs Chromium or Chrome on the path, to open the page")
    with Browser(tmp_path / "profile") as opened:
        yield opened


@pytest.fixture
def file(page: str, tmp_path: Path) -> Path:
    path = tmp_path / "gates.html"
    path.write_text(page, encoding="utf-8")
    return path


def test_everything_of_the_user_is_escaped(page: str) -> None:
    outside = re.sub(r"<script[ >].*?</script>", "", page, flags=re.DOTALL)

    assert "alert('x')</script>" not in page
    assert outside.count(html.escape(BAD, quote=False)[:20]) > 5
    assert page.count("<script") == 2
    [data] = re.findall(r'<script type="application/json" id="gates">(.*?)</script>', page)
    assert json.loads(data)["classes"] == CLASSES


def test_page_loads_nothing(page: str) -> None:
    assert not re.search(r"""(?:src|href|action)\s*=\s*["']?\s*(?:[a-z]+:)?//""", page)
    assert not re.search(r"@import|url\((?!#)|<link|<iframe|<object|<form", page)
    assert not re.search(r"\son[a-z]+=", page)
    assert "default-src 'none'" in page


def test_words_and_numbers_are_those_of_the_gates(
    recorded: tuple[Gates, GateCosts, list[ImageGates]], page: str
) -> None:
    gates, costs, _ = recorded
    assert "Of 2 blocks, 1 does nothing that a constant would not do: se1." in page
    share = 100 * gates.block("se2").specificity.mean
    assert f"The class explains {100 * gates.block('se1').specificity.mean:.1f} %" in page
    assert f"{share:.1f} %" in page
    assert f"{100 * costs.accuracy:.2f} %" in page
    block = gates.block("se2")
    both, ends = (
        (block.selectivity, block.selectivity_by_chance),
        (block.minimum.min(), block.maximum.max()),
    )
    assert "{:.3f} (chance {:.3f})".format(*(each.mean() for each in both)) in page
    assert all(f">{end.item():.3f}</td>" in page for end in ends)


def test_chosen_classes_and_one_class_and_an_unknown_one(
    recorded: tuple[Gates, GateCosts, list[ImageGates]],
) -> None:
    gates = recorded[0]
    assert "dog and ship, told apart" in render_gates(gates, classes=["dog", "ship"])
    with pytest.raises(UnknownNameError, match="dog"):
        render_gates(gates, classes=["dgo"])
    alone = render_gates(record_gates(Net(), _batches(4, 1)))
    assert "told apart" not in alone
    assert "<script" not in alone


def test_a_browser_shows_the_page_without_errors_and_without_the_network(
    browser: Browser, file: Path
) -> None:
    for width, dark in ((1280, False), (400, True)):
        browser.open(file, width=width, dark=dark)
        assert browser.value("document.documentElement.scrollWidth") <= width
        assert browser.value("!document.getElementById('choose').hidden")
        dark_page = browser.value("getComputedStyle(document.body).backgroundColor")
        assert (dark_page == "rgb(15, 19, 24)") == dark
    assert browser.errors == []
    browser.open(file, width=794, dark=True)  # A4 at 96 dots per inch
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.value("document.documentElement.scrollWidth") <= 794
    assert browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert {url.partition(":")[0] for url in browser.requests} <= {"file", "data"}


def test_block_class_and_channel_are_chosen_by_keyboard(browser: Browser, file: Path) -> None:
    browser.open(file)
    chosen = "document.getElementById('said').textContent"
    focus = "document.activeElement.id"
    for _ in range(20):
        browser.press("Tab")
        if browser.value(focus) == "block":
            break
    assert browser.value(focus) == "block"
    assert "of se2:" in browser.value(chosen)
    browser.press("ArrowUp")
    assert "of se1:" in browser.value(chosen)
    browser.press("Tab")
    assert browser.value(focus) == "first"
    browser.press("c")  # as any native list: to the class that begins so
    assert "cat 0." in browser.value(chosen)
    browser.press("Tab")
    browser.press("ArrowUp", 4)
    assert f"{BAD} 0." in browser.value(chosen)
    browser.press("Tab")
    assert browser.value(focus) == "channel"
    before = browser.value(chosen)
    browser.press("ArrowRight", 3)
    assert browser.value(chosen) != before
    assert browser.value("document.getElementById('channel').value") == "3"
    assert browser.value("document.querySelectorAll('#chart polyline').length") == 3
    assert browser.value("document.querySelectorAll('#apart tr').length") == 8
    assert browser.errors == []


def test_chosen_values_are_those_of_the_gates(
    recorded: tuple[Gates, GateCosts, list[ImageGates]], browser: Browser, file: Path
) -> None:
    browser.open(file)
    said = browser.value("document.getElementById('said').textContent")
    names = browser.value("document.getElementById('first').selectedOptions[0].text")
    block = recorded[0].block("se2")
    channel = int(re.search(r"Channel (\d+) of se2", said)[1])  # type: ignore[index]
    value = float(said.partition(f"{names} ")[2].partition(",")[0])

    expected = block.mean[CLASSES.index(names), channel].item()
    width = (block.mean.max() - block.mean.min()).item() / 254  # a value is kept in one byte
    assert value == pytest.approx(expected, abs=0.6 * width + 1e-3)


def test_without_scripts_figures_and_tables_stand(browser: Browser, file: Path) -> None:
    browser.open(file, scripts=False)
    height = browser.call("Page.getLayoutMetrics")["cssContentSize"]["height"]

    assert height > 3000
    assert browser.errors == []


def test_a_thousand_classes(browser: Browser, tmp_path: Path) -> None:
    torch.manual_seed(0)
    names = [f"class {k}" for k in range(1000)]
    page = render_gates(record_gates(Net(1000), _batches(1000, 40), classes=names))
    path = tmp_path / "many.html"
    path.write_text(page, encoding="utf-8")
    browser.open(path, width=400)

    assert len(page) < 2_500_000
    assert browser.value("document.getElementById('first').length") == 1000
    assert browser.value("document.documentElement.scrollWidth") <= 400
    assert browser.errors == []
