"""The page says what is in the result, survives what is not, and loads nothing."""

from __future__ import annotations

import html
import itertools
import json
import math
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from senet.analysis import render_report
from senet.analysis.figures.drawing import COLOUR
from senet.errors import InputError

FEW = [("layer1.0.se", 1, 3), ("layer2.0.se", 2, 4)]
VOID = {"meta", "br", "hr", "img", "link", "input"}


class _Checker(HTMLParser):
    """Collects text and ids, and finds tags that do not close."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tags.append((tag, named))
        self.ids += [named["id"] or ""] if "id" in named else []
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data


def _read(page: str) -> _Checker:
    parsed = _Checker(page)
    assert parsed.open == []
    return parsed


@pytest.fixture(scope="module")
def result(make_result: Any) -> dict[str, Any]:
    made: dict[str, Any] = make_result(epochs=3, classes=["cat", "dog"], blocks=FEW)
    return made


@pytest.fixture(scope="module")
def page(result: dict[str, Any]) -> str:
    return render_report(result)


def test_the_whole_page(page: str) -> None:
    parsed = _read(page)

    for text in (
        "No significant difference on 3 seeds",
        "resnet20 on cifar10",
        "50,000 training images \u00b7 10,000 test images \u00b7 2 classes",
        " \u00b7 3\u00d732\u00d732 \u00b7 3 epochs\n",
        "272,095",
        "+2,373",
        "1.26 (1.21 to 1.31)",
        "For one batch of 64 \u00d7 3 \u00d7 32 \u00d7 32, float32.",
        "What SE adds, stage by stage",
        "Test accuracy",
        "Training loss",
        "layer2",
        "100 of each",
        "--epochs 30 --seeds 3",
        "weight_decay",
        "3.12.3",
        "cpu, 2 cores",
        "2030-01-02T03:04:05+00:00",
    ):
        assert text in parsed.text
    assert page.index("<h1>") < page.index("<table")
    assert len(re.findall("<svg ", page)) == 2 + 2 + 2 + 2 + len(FEW)
    assert "Unfinished" not in parsed.text
    assert len(parsed.ids) == len(set(parsed.ids))


def test_accuracies_by_hand(make_result: Any) -> None:
    runs = [
        {"arch": arch, "seed": seed, "test_accuracy": value, "state": "done"}
        for arch, values in (("plain", (0.90, 0.91, 0.92)), ("se", (0.91, 0.93, 0.95)))
        for seed, value in enumerate(values)
    ]
    text = _read(render_report({"runs": runs, "config": {"seeds": [0, 1, 2]}})).text

    assert "91.00 \u00b1 1.00 %" in text
    assert "93.00 \u00b1 2.00 %" in text
    assert "+2.00 points" in text
    assert "95 % interval \u22120.48 to +4.48" in text


def test_the_summary_of_the_result_counts() -> None:
    difference = {"mean": 0.01, "low": 0.004, "high": 0.016, "confidence": 0.9, "n": 3}
    summary = {"difference": difference, "verdict": "SE is better by 1.0 point"}
    text = _read(render_report({"summary": summary})).text

    assert "SE is better by 1.0 point" in text
    assert "90 % interval +0.40 to +1.60" in text


def test_page_loads_nothing(page: str) -> None:
    parsed = _read(page)

    tags = {tag for tag, _ in parsed.tags}
    assert not tags & {"script", "img", "image", "link", "iframe", "object", "form"}
    assert not [name for _, attrs in parsed.tags for name in attrs if name.startswith("on")]
    assert all(link.startswith("#") for link in parsed.links)
    assert not re.search(r"""(?:src|href|action)\s*=\s*["']?\s*(?:[a-z]+:)?//""", page)
    assert not re.search(r"@import|url\((?!#)", page)
    assert "default-src 'none'" in page


def test_the_same_result_gives_the_same_page(result: dict[str, Any], page: str) -> None:
    assert render_report(json.loads(json.dumps(result))) == page


def test_everything_of_the_user_is_escaped() -> None:
    bad = "<script>alert('x')</script>\"&"
    block = {"path": bad, "mean": [[0.5], [0.6]], "overall_mean": 0.5, "overall_std": 0.1}
    page = render_report(
        {
            "command": bad,
            "device": bad,
            "date": bad,
            "versions": {bad: bad},
            "config": {"model": bad, "data": bad, "epochs": bad, bad: [bad], "se": {bad: bad}},
            "data": {"name": bad, "classes": [bad, bad], "image_size": [bad]},
            "runs": [{"arch": bad, "seed": bad, "state": bad, "test_accuracy": 0.5}],
            "summary": {"verdict": bad},
            "cost": {
                "input": [[bad]],
                "dtype": bad,
                "total": {"plain": {bad: 1}, "se": {bad: 2}},
                "stages": [{"name": bad, "plain": {"macs": 1}, "se": {"macs": 2}}],
                "timing": {"repeats": bad, "device": bad},
                "unavailable": {bad: bad},
            },
            "excitations": {"classes": [bad, bad], "blocks": [block], "never_ran": [bad]},
        }
    )

    assert "<script" not in page
    assert "&lt;script&gt;" in page
    # the text of the page holds it as it is: nothing is lost, and nothing is escaped twice
    parsed = _read(page)
    assert parsed.text.count(bad) > 20
    assert "&lt;" not in parsed.text
    assert "&amp;" not in parsed.text


def test_a_reader_who_does_not_see_the_page_can_find_the_way(page: str) -> None:
    parsed = _read(page)
    attributes = {tag: [a for t, a in parsed.tags if t == tag] for tag, _ in parsed.tags}

    assert attributes["html"] == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(deeper <= level + 1 for level, deeper in itertools.pairwise(levels))
    assert len(attributes["main"]) == 1
    assert len(attributes["table"]) == 3
    assert all(a["aria-labelledby"] in parsed.ids for a in attributes["table"])
    assert all(a["scope"] in ("row", "col") for a in attributes["th"])
    assert all(a["role"] == "img" and a["aria-label"] for a in attributes["svg"])
    scrolling = [a for a in attributes["div"] if a.get("class") == "scroll"]
    assert all(a["role"] == "region" and a["tabindex"] == "0" for a in scrolling)


def test_the_figures_have_the_colours_of_the_page(page: str) -> None:
    light = page[page.index(":root {") : page.index("@media")]
    dark = page[page.index("prefers-color-scheme: dark") : page.index("body {")]
    for name, colour in COLOUR.items():
        assert f"--{name}: {colour};" in light
        assert f"--{name}: " in dark
        assert f"var(--{name}, {colour})" in page
    svg = page[page.index("<svg ") : page.rindex("</svg>")]
    assert not re.search("|".join(f"(?<!, ){colour}" for colour in COLOUR.values()), svg)


def test_a_wide_figure_scrolls_and_does_not_shrink(make_result: Any) -> None:
    blocks = [(f"layer1.{k}.se", 1, 2) for k in range(40)]
    less = {"runs": [], "cost": None}  # only the gates are looked at
    page = render_report(make_result(seeds=1, classes=["a", "b"], blocks=blocks, **less))

    assert page.count('class="wide"') == 2
    assert "By channel, block by block, 12 of 40" in _read(page).text


def test_three_arms(make_result: Any) -> None:
    result = make_result(epochs=3, classes=["cat", "dog"], blocks=FEW, arms=("plain", "se", "mute"))
    page = render_report(result)
    parsed = _read(page)

    for text in (
        "Arm against arm",
        "mute, test accuracy",
        "mute \u2212 plain",
        "No significant difference between SE and plain on 3 seeds; no significant difference",
        "272,095",
    ):
        assert text in parsed.text
    assert "Unfinished" not in parsed.text
    labels = [a["aria-label"] or "" for t, a in parsed.tags if t == "svg"]
    assert any("plain and SE and mute" in label for label in labels)
    assert len(parsed.ids) == len(set(parsed.ids))


def test_fine_tuning_says_what_the_batch_norms_do(make_result: Any) -> None:
    result = make_result(seeds=1, epochs=1, excitations=None, cost=None)
    result["config"] |= {"weights": "w.safetensors", "bn_statistics": "frozen"}

    text = _read(render_report(result)).text
    assert "from trained weights, statistics of batch norms frozen in all arms" in text


def test_arms_without_se(make_result: Any) -> None:
    arms = ("plain", "constant")
    page = render_report(make_result(epochs=3, excitations=None, cost=None, arms=arms))
    text = _read(page).text

    assert "constant \u2212 plain" in text
    assert "SE" not in text.partition("How to repeat it")[0]


@pytest.mark.parametrize(("finished", "done"), [(0, 0), (1, 1), (3, 3), (5, 5)])
def test_interrupted(make_result: Any, finished: int, done: int) -> None:
    page = render_report(make_result(epochs=3, finished=finished, excitations=None, cost=None))
    text = _read(page).text

    assert f"Unfinished: {done} of 6 runs are done." in text
    verdict = {0: "No seed has both runs", 1: "No seed has both runs", 3: "One seed: no interval"}
    assert verdict.get(finished, "No significant difference on 2 seeds") in text


def test_one_seed(make_result: Any) -> None:
    result = make_result(seeds=1, epochs=1, excitations=None, cost=None)
    text = _read(render_report(result)).text

    assert "One seed: no interval, no verdict" in text
    assert "95 % interval" in text  # of each run, by its test images
    assert "1 epoch\n" in text


GAPS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "all none": dict.fromkeys(
        ("command", "versions", "device", "date", "config", "data", "runs", "summary", "cost")
    ),
    "runs without numbers": {"runs": [{"arch": "plain"}, {"seed": 1}, {}]},
    "run without epochs": {"runs": [{"arch": "se", "seed": 0, "test_accuracy": 0.5}]},
    "run that diverged": {
        "runs": [
            {"arch": a, "seed": 0, "test_accuracy": math.nan, "test_loss": math.nan}
            | {"epochs": [{"epoch": 1, "train_loss": math.nan, "test_accuracy": None}]}
            for a in ("plain", "se")
        ]
    },
    "cost of one model": {"cost": {"total": {"model": {"macs": 3}}, "stages": [], "timing": None}},
    "cost without times": {
        "cost": {
            "total": {
                "plain": {"macs": 3, "step_ms": None, "bytes_kept": 0},
                "se": {"macs": 4, "step_ms": None, "bytes_kept": 0},
            },
            "unavailable": {"step_ms": "it was not asked for"},
        }
    },
    "no block": {"excitations": {"classes": ["a"], "blocks": []}},
    "classes without images": {
        "excitations": {
            "classes": ["a", "b"],
            "blocks": [{"path": "se", "mean": [[0.5, None], None], "overall_mean": None}],
        }
    },
}


@pytest.mark.parametrize("gap", GAPS)
def test_gaps_do_not_break_the_page(gap: str) -> None:
    text = _read(render_report({"schema": "senet.compare/1"} | GAPS[gap])).text

    assert "no verdict" in text
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", text)


def test_what_is_unavailable_is_said() -> None:
    text = _read(render_report(GAPS["cost without times"])).text

    assert "Not available: Training step (it was not asked for)." in text
    assert "Multiply-adds34+11.3333" in text


def test_another_schema_is_refused() -> None:
    message = r"schema senet\.compare/2 or senet\.train/1, got 'senet\.cost/1'"
    with pytest.raises(InputError, match=message):
        render_report({"schema": "senet.cost/1"})


def test_what_the_class_explains_is_drawn_where_it_is_known(make_result: Any) -> None:
    result = make_result(seeds=1, epochs=1, classes=["cat", "dog"], blocks=FEW)
    older = render_report(result)
    for block in result["excitations"]["blocks"]:
        block |= {"eta2": 0.2, "eta2_by_chance": 0.01, "variance_share": [0.03, 0.02, 0.04]}
    page = render_report(result)

    for title in ("Variation that the class explains", "Output&#39;s variance lost"):
        assert html.unescape(title) not in html.unescape(older)
        assert html.unescape(title) in html.unescape(page)
