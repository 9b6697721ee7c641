"""One verdict on what SE gains for what it costs, from results with and without gaps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from browser import Browser, chromium
from senet.analysis import paired_difference, verdict
from senet.analysis.report import render_report
from senet.analysis.worth import worth


def result(gaps: list[float], losses: list[float] | None = None, **total: Any) -> dict[str, Any]:
    """A comparison with these differences of accuracies and losses, and these costs."""

    def entry(of: list[float]) -> dict[str, Any]:
        difference = paired_difference([0.0] * len(of), of)
        ends = {"mean": difference.mean, "low": difference.low, "high": difference.high}
        text = verdict(difference)
        return {"arm": "se", "against": "plain", "difference": ends, "verdict": text}

    loss = {"arms": {}, "differences": [entry(losses)]} if losses else {}
    shipped = total.pop("deployed_ms", None)
    columns = {arm: {name: of[k] for name, of in total.items()} for k, arm in enumerate(ARMS)}
    cost = {"input": [[64, 3, 32, 32]], "total": columns, "timing": {"device": "cpu"}}
    if shipped:
        latencies = {arm: {"latency_ms": shipped[k]} for k, arm in enumerate(ARMS)}
        cost["deployed"] = {"total": latencies, "latency_ms": None}
    return {
        "summary": {"differences": [entry(gaps)], "measures": {"test_loss": loss}},
        "cost": cost,
    }


ARMS = ("plain", "se")
COSTS: dict[str, Any] = {
    "parameters": (1000, 1031),
    "step_ms": (100.0, 121.0),
    "latency_ms": (30.0, 36.0),
    "deployed_ms": (20.0, 21.0),
}
PRICE = (
    "SE costs 21 % more time for a training step, 5 % more latency as deployed and 3.1 % more "
    "parameters"
)


def test_a_gain_and_its_price() -> None:
    judged = worth(result([0.01, 0.02, 0.015], [-0.02, -0.03, -0.025], **COSTS))

    assert judged is not None
    assert judged["verdict"] == (
        "SE is better by 1.5 points (95 % confidence, 3 seeds); it lowers the test loss by 0.0250 "
        f"(0.0126 to 0.0374); {PRICE}"
    )
    assert judged["speed"] == (
        "On cpu that is 529 images a second in training instead of 640 and 3,048 images a second "
        "in inference instead of 3,200."
    )
    assert judged["images_per_second"]["se"] == {"training": 528.9, "inference": 3047.6}


def test_networks_that_never_differ_leave_no_range() -> None:
    judged = worth(result([0.0, 0.0, 0.0], **COSTS))

    assert judged is not None
    assert "points is possible" not in judged["verdict"]
    assert judged["verdict"].endswith(PRICE)


def test_an_open_difference_says_what_is_possible() -> None:
    judged = worth(result([0.01, -0.02, 0.005], [0.01, -0.01, 0.02], **COSTS))

    assert judged is not None
    assert judged["verdict"] == (
        "no significant difference on 3 seeds: anything from \u22124.16 to +3.83 points is "
        f"possible; {PRICE}"
    )


def test_a_loss_is_named_as_one() -> None:
    judged = worth(result([-0.01, -0.02, -0.015], [0.02, 0.03, 0.025], parameters=(1000, 1000)))

    assert judged is not None
    assert judged["verdict"] == (
        "SE is worse by 1.5 points (95 % confidence, 3 seeds); it raises the test loss by 0.0250 "
        "(0.0126 to 0.0374); SE costs no more parameters"
    )
    assert judged["speed"] == ""


def test_the_median_of_pairwise_ratios_counts_where_there_is_one() -> None:
    given = result([0.01, 0.02], **COSTS)
    given["cost"]["timing"]["step_ms"] = {"ratio": {"median": 1.5}}
    given["cost"]["deployed"] = None

    judged = worth(given)

    assert judged is not None
    assert judged["verdict"].endswith(
        "SE costs 50 % more time for a training step, 20 % more latency and 3.1 % more parameters"
    )


@pytest.mark.parametrize("gap", [{}, {"config": {"arms": ["plain", "constant"]}, "cost": None}])
def test_gaps_give_no_price(gap: dict[str, Any]) -> None:
    judged = worth(gap)

    assert judged is None or "costs" not in judged["verdict"]


@pytest.fixture(scope="module")
def page(make_result: Any) -> str:
    given = make_result(seeds=3, epochs=2, classes=["cat", "dog"], blocks=[("layer1.0.se", 1, 3)])
    summary = result([0.01, 0.02, 0.015], [-0.02, -0.03, -0.025])["summary"]
    arms = {arm: {"mean": 0.9, "std": 0.01, "n": 3} for arm in ARMS}
    summary["measures"]["test_loss"]["arms"] = arms
    for of in (summary, summary["measures"]["test_loss"]):
        of["differences"][0]["over_images"] = {"mean": 0.01, "low": 0.002, "high": 0.018}
    power = {"text": "3 seeds show differences above about 1.3 points"}
    goal = {"points": 0.5, "first": 3, "max_seeds": 5, "needed": 9}
    return render_report(
        given | {"summary": summary | {"arms": arms, "power": power}, "until": goal}
    )


def test_the_page_has_verdict_evidence_cost_and_detail_in_this_order(page: str) -> None:
    order = (
        *("SE is better by 1.5 points", "It lowers the test loss", "images a second in training"),
        *("The evidence", "other images", "+0.0020 to +0.0180", "3 seeds show differences"),
        *("took 9 seeds", "at most 5 were allowed", "What it costs", "272,095", "Every run"),
        "How to repeat it",
    )
    places = [page.index(text) for text in order]
    assert places == sorted(places)


def test_a_browser_shows_the_page_light_and_dark_and_on_a_phone(page: str, tmp_path: Path) -> None:
    if chromium() is None:
        pytest.skip("needs Chromium or Chrome on the path, to open the page")
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    with Browser(tmp_path / "profile") as browser:
        for width, dark in ((1280, True), (400, False)):
            browser.open(tmp_path / "report.html", width=width, dark=dark)
            assert browser.value("document.documentElement.scrollWidth") <= width
            colour = browser.value("getComputedStyle(document.body).backgroundColor")
            assert (colour == "rgb(15, 19, 24)") == dark
        # on the phone: two means and their difference, and below them its two intervals, in view
        cells = "[...document.querySelectorAll('table.evidence tbody tr')[0].children]"
        boxes = f"{cells}.map(c => c.getBoundingClientRect()).map(b => [b.top, b.right, b.width])"
        name, *values = browser.value(boxes)
        assert len(values) == 5
        assert name[0] < values[0][0] == values[1][0] == values[2][0] < values[3][0] == values[4][0]
        assert all(right <= 400 and width > 100 for _, right, width in values)
        assert browser.errors == []
