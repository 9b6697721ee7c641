"""What a comparison of many arms looks like on a terminal."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from senet.cli.result_tables import result_tables

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
