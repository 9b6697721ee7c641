"""The report says the same in every form: attributes, JSON, text and Markdown."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from senet.cost import QUANTITIES, SCHEMA, Conditions, CostReport, Deployed, Timing
from senet.cost.cost_rows import Group, Ledger, by_block, by_stage, total
from senet.cost.cost_tables import compact
from senet.errors import UnknownNameError

BLOCKS = (Group("layer1.0", ("layer1.0",), 2), Group("layer2.0", ("layer2.0",), 3))
CONDITIONS = Conditions("ResNet", ((2, 3, 8, 8),), "float32", "cpu", 2, "2.0", 3, 1)


def ledger(first: int, second: int) -> dict[str, Counter[str] | None]:
    counts = Counter({"conv1": 1_000_000, "layer1.0.bn": first, "layer2.0": second})
    return dict.fromkeys(QUANTITIES, counts)


def make(*, alone: bool = False, **changes: Any) -> CostReport:
    ledgers: dict[str, Ledger] = {"plain": ledger(2000, 300), "se": ledger(2500, 345)}
    if alone:
        ledgers = {"model": ledgers["se"]}
    samples = {"plain": (2.0, 4.0, 8.0), "se": (3.0, 6.0, 10.0)}
    fields: dict[str, Any] = {
        "total": total(ledgers),
        "stages": by_stage(ledgers, BLOCKS),
        "blocks": by_block(ledgers, BLOCKS),
        "latency": Timing({"model": samples["se"]} if alone else samples),
        "step": None,
        "deployed": None,
        "unavailable": {"step_ms": "ValueError: no targets"},
        "without_formula": {label: {"aten::relu": 2} for label in ledgers},
        "notes": ("a note",),
        "conditions": CONDITIONS,
    }
    return CostReport(**fields | changes)


def test_dict_has_every_number_with_its_unit() -> None:
    numbers = make().to_dict()

    assert numbers["schema"] == SCHEMA == "senet.cost/1"
    assert numbers["columns"] == ["plain", "se"]
    assert numbers["input"] == [[2, 3, 8, 8]]
    times = {"latency_ms", "step_ms"}
    for column in ("plain", "se", "difference", "ratio"):
        assert set(numbers["total"][column]) == set(QUANTITIES) | times
    assert numbers["total"]["plain"]["macs"] == 1_002_300
    assert numbers["total"]["difference"]["macs"] == 545
    assert numbers["total"]["ratio"]["macs"] == 1_002_845 / 1_002_300
    assert [(part["name"], part["stage"]) for part in numbers["blocks"]] == [
        ("layer1.0", 2),
        ("layer2.0", 3),
        ("other", None),
    ]
    assert numbers["blocks"][0]["se"]["bytes_kept"] == 2500
    assert numbers["stages"][1]["ratio"]["bytes_kept"] == 1.15
    assert numbers["unavailable"] == {"step_ms": "ValueError: no targets"}
    assert numbers["without_formula"]["se"] == {"aten::relu": 2}


def test_dict_has_medians_and_quartiles_of_times() -> None:
    numbers = make().to_dict()

    assert numbers["total"]["se"]["latency_ms"] == 6.0
    assert numbers["total"]["difference"]["latency_ms"] == 2.0
    # of the pairs 1.5, 1.5, 1.25
    assert numbers["total"]["ratio"]["latency_ms"] == 1.5
    assert numbers["timing"]["latency_ms"]["ratio"] == {"lower": 1.375, "median": 1.5, "upper": 1.5}
    assert numbers["timing"]["latency_ms"]["plain"] == {"lower": 3.0, "median": 4.0, "upper": 6.0}
    assert numbers["timing"]["step_ms"] is None
    assert numbers["timing"]["repeats"] == 3
    assert numbers["total"]["ratio"]["step_ms"] is None


def test_json_is_the_dict() -> None:
    for report in (make(), make(alone=True), make(latency=None)):
        assert json.loads(report.to_json()) == report.to_dict()


def test_without_timing_there_is_none() -> None:
    report = make(latency=None, unavailable={})

    assert report.to_dict()["timing"] is None
    assert "ms" not in str(report)


def test_the_deployed_networks_are_a_table_of_their_own() -> None:
    report = make()
    report = make(deployed=Deployed(report.total, report.latency))
    numbers = report.to_dict()["deployed"]

    assert numbers["total"]["se"] == {
        "parameters": 1_002_845,
        "macs": 1_002_845,
        "bytes_moved_forward": 1_002_845,
        "latency_ms": 6.0,
    }
    assert numbers["total"]["difference"]["latency_ms"] == 2.0
    assert (
        numbers["total"]["ratio"]["latency_ms"] == numbers["latency_ms"]["ratio"]["median"] == 1.5
    )
    assert json.loads(report.to_json())["deployed"] == numbers
    text = str(report)
    assert "as senet.deploy leaves them" in text
    assert "deployed forward, SE / plain of each pair: median 1.5000" in text
    assert "| forward, ms | 4.000 | 6.000 | +2.000 | 1.5000 |" in report.to_markdown()
    counted = make(deployed=Deployed(report.total, None), latency=None, unavailable={})
    assert "ms" not in str(counted)


def test_alone_there_is_no_difference() -> None:
    report = make(alone=True)
    numbers = report.to_dict()

    assert report.alone
    assert numbers["columns"] == ["model"]
    assert set(numbers["total"]) == {"model"}
    assert set(numbers["blocks"][0]) == {"name", "stage", "model"}
    assert numbers["timing"]["latency_ms"]["ratio"] is None
    assert "ratio" not in str(report)
    assert "SE" not in report.to_markdown()


TEXT = """\
cost of ResNet, input [2, 3, 8, 8], float32
                                     plain             SE  difference   ratio
parameters                       1,002,300      1,002,845        +545  1.0005
multiply-adds                    1,002,300      1,002,845        +545  1.0005
bytes moved, forward             1,002,300      1,002,845        +545  1.0005
bytes moved, training step       1,002,300      1,002,845        +545  1.0005
bytes kept for the backward      1,002,300      1,002,845        +545  1.0005
forward, ms                          4.000          6.000      +2.000  1.5000
training step, ms            not available  not available
"""

STAGES = """\
what SE adds by stage, and SE / plain; moved and kept in bytes
stage      parameters  multiply-adds  moved, forward   moved, step          kept
stage 2  +500  x1.250   +500  x1.250    +500  x1.250  +500  x1.250  +500  x1.250
stage 3   +45  x1.150    +45  x1.150     +45  x1.150   +45  x1.150   +45  x1.150
other       0  x1.000      0  x1.000       0  x1.000     0  x1.000     0  x1.000
total    +545  x1.001   +545  x1.001    +545  x1.001  +545  x1.001  +545  x1.001
"""

NOTES = """\
times: medians of 3 interleaved pairs after 1 of warm-up; cpu, 2 CPU threads, torch 2.0
forward, SE / plain of each pair: median 1.5000, half of them between 1.3750 and 1.5000
not available: training step, ms: ValueError: no targets
counted without multiply-adds (calls, SE): aten::relu 2
a note"""

KEPT = """\
bytes kept for the backward
part            plain         SE  difference   ratio
stage 2         2,000      2,500        +500  1.2500
- layer1.0      2,000      2,500        +500  1.2500
stage 3           300        345         +45  1.1500
- layer2.0        300        345         +45  1.1500
other       1,000,000  1,000,000           0  1.0000
total       1,002,300  1,002,845        +545  1.0005"""


def test_text() -> None:
    shown = str(make()).split("\n\n")

    assert shown[0] + "\n" == TEXT
    assert shown[1] + "\n" == STAGES
    assert shown[2].startswith("what SE adds by block")
    assert shown[3] == NOTES


def test_long_notes_are_wrapped() -> None:
    report = make(notes=("word " * 60,))

    assert max(len(line) for line in str(report).splitlines()) <= 100


def test_table_of_one_quantity() -> None:
    assert make().table("bytes_kept") == KEPT


def test_unknown_quantity_lists_near_ones() -> None:
    with pytest.raises(UnknownNameError, match="unknown quantity 'bytes_keep'; did you mean: byte"):
        make().table("bytes_keep")


def test_markdown_has_every_number() -> None:
    report = make()
    shown = report.to_markdown()

    for quantity, name in QUANTITIES.items():
        assert f"### {name}\n\n| part | plain | SE | difference | ratio |\n" in shown
        for row in (*report.blocks, *report.stages, report.total):
            plain, se = row.values(quantity)
            assert f"{row.name} | {plain:,} | {se:,} | " in shown
    assert "| - layer1.0 | 2,000 | 2,500 | +500 | 1.2500 |" in shown
    assert "\n- a note\n" in shown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (1000, "1.00 k"),
        (-1536, "-1.54 k"),
        (99_999, "100 k"),
        (999_499, "999 k"),
        (999_500, "1.00 M"),
        (4_089_184_256, "4.09 G"),
        (2 * 10**12, "2.00 T"),
    ],
)
def test_compact(value: int, text: str) -> None:
    assert compact(value) == text
