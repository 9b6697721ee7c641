"""What a comparison of many arms looks like on a terminal."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from senet.cli.result_tables import result_tables, show_result

ARMS = ("plain", "se", "se-only", "head-only")


def measure(scale: float) -> dict[str, Any]:
    gap = {"mean": 0.01 * scale, "low": -0.02 * scale, "high": 0.04 * scale, "confidence": 0.95}
    return {
        "arms": {arm: {"mean": scale, "std": 0.1 * scale, "n": 3} for arm in ARMS},
        "differences": [
            {"arm": arm, "against": "plain", "difference": gap} for arm in ARMS if arm != "plain"
        ],
    }


def test_many_arms_have_a_row_each() -> None:
    summary = {**measure(0.5), "measures": {"test_loss": measure(2.0)}, "majority_share": 0.4}
    result = {"config": {"model": "resnet20"}, "data": {"name": "cells"}, "summary": summary}
    console = Console(width=80, record=True, file=io.StringIO())
    for table in result_tables(result):
        console.print(table)
    lines = console.export_text().splitlines()
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]

    assert cells[:2] == [
        ["plain", "50.00 ± 5.00", "2.0000 ± 0.2000"],
        ["SE", "50.00 ± 5.00", "2.0000 ± 0.2000"],
    ]
    assert cells[4:6] == [
        ["SE - plain", "+0.50", "+0.0200"],
        ["", "[-1.00, +2.00]", "[-0.0400, +0.0800]"],
    ]
    assert "always answering the largest class would give 40.00 % accuracy" in " ".join(
        " ".join(lines).split()
    )


def test_verdict_evidence_cost_and_what_more_seeds_would_show() -> None:
    def of(scale: float) -> dict[str, Any]:
        gap = {"mean": 0.01 * scale, "low": -0.02 * scale, "high": 0.04 * scale, "n": 3}
        images = {"low": 0.001 * scale, "high": 0.019 * scale, "confidence": 0.95}
        entry = {"arm": "se", "against": "plain", "difference": gap | {"confidence": 0.95}}
        arms = {arm: {"mean": scale, "std": 0.1 * scale, "n": 3} for arm in ("plain", "se")}
        verdict = "no significant difference on 3 seeds"
        return {"arms": arms, "differences": [entry | {"over_images": images, "verdict": verdict}]}

    summary = of(1.0) | {"measures": {"test_loss": of(2.0)}, "verdict": "not used"}
    summary["power"] = {"text": "3 seeds show differences above about 1.3 points"}
    total = {"plain": {"step_ms": 10.0}, "se": {"step_ms": 12.0}}
    total |= {"difference": {"step_ms": 2.0}, "ratio": {"step_ms": 1.2}}
    result = {
        "config": {"model": "resnet20", "weights": "w.pth", "bn_statistics": "frozen"},
        "data": {"name": "cells"},
        "summary": summary,
        "cost": {"input": [[64, 3, 8, 8]], "total": total, "timing": {"device": "cpu"}},
        "until": {"points": 0.5, "first": 3, "max_seeds": 5, "needed": 9},
    }
    console = Console(width=100, record=True, file=io.StringIO())
    show_result(console, result, Path("out") / "report.html")
    text = " ".join(console.export_text().split())

    order = (
        *("no significant difference on 3 seeds: anything from", "SE costs 20 % more time"),
        *("5,333 images a second in training instead of 6,400", "test accuracy, %"),
        *("other seeds", "[-2.00, +4.00]", "other images", "[+0.10, +1.90]"),
        *("[+0.0020, +0.0380]", "training step, ms", "from w.pth; statistics of the batch norms"),
        *("frozen in all arms", "3 seeds show differences above", "± 0.5 points take 9 seeds"),
        "report: out/report.html",
    )
    places = [text.index(each) for each in order]
    assert places == sorted(places)
