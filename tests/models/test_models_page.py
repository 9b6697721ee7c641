"""docs/models.md is what benchmarks/write_models_page.py writes; a few of its rows are counted."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from senet.models import NETWORKS


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "write_models_page.py"
    spec = importlib.util.spec_from_file_location("write_models_page", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lines(script: ModuleType, table: str) -> list[str]:
    page = script.PAGE.read_text()
    match = re.search(rf"<!-- {table} -->\n(.*?)\n<!-- /{table} -->", page, re.DOTALL)
    assert match is not None
    return match[1].splitlines()


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ("imagenet", "se_resnet18"),
        ("imagenet", "mobilenet_v1"),
        ("imagenet", "se_mobilenet_v1"),  # SE behind an activation
        ("imagenet", "se_shufflenet_v1_g3"),
        ("cifar", "resnet20"),
        ("ablations", "se_resnet50_nosqueeze"),
    ],
)
def test_row_is_what_the_script_counts(script: ModuleType, table: str, name: str) -> None:
    head, rule, row = script.table(table, [name])

    assert lines(script, table)[:2] == [head, rule]
    assert row in lines(script, table), f"run {Path(script.__file__).name}; it counts\n{row}"


def test_every_network_has_its_row(script: ModuleType) -> None:
    for table in script.TABLES:
        listed = re.findall(r"^\| `(\w+)`", "\n".join(lines(script, table)), re.MULTILINE)
        assert listed == script.names(table)
    shown = {name for table in script.TABLES for name in script.names(table)}
    assert shown == set(NETWORKS)


def test_errors_are_the_papers(script: ModuleType) -> None:
    """Tables 2, 3 and 4, cell by cell, for one network each."""
    cells = {
        line.split("`")[1]: [cell.strip() for cell in line.split("|")[5:-1]]
        for table in ("imagenet", "cifar")
        for line in lines(script, table)[2:]
    }

    assert cells["resnet152"] == ["23.0 / 6.7", "22.42 / 6.34", "2"]
    assert cells["se_resnet152"] == ["", "21.57 / 5.73", "2"]
    assert cells["mobilenet_v1"] == ["29.4 / -", "28.40 / 9.40", "3"]
    assert cells["se_wrn16_8"] == ["3.88", "19.14", "4, 5"]
    assert cells["se_densenet121"] == ["", "", ""]
