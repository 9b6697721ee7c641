"""The house keeps its rules (see docs/architecture.md), and each rule can fail."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import architecture

Rule = Callable[[Path], list[str]]

PACKAGE_RULES: list[Rule] = [
    architecture.steps_up,
    architecture.strangers,
    architecture.homeless,
    architecture.twins,
    architecture.circles,
]
SIZE_RULES: list[Rule] = [architecture.long_files, architecture.long_functions]


@pytest.mark.parametrize("rule", PACKAGE_RULES, ids=lambda rule: rule.__name__)
def test_package_keeps(rule: Rule, root: Path) -> None:
    violations = rule(root / "src" / "senet")

    assert not violations, "\n".join(["", f"{rule.__doc__}", *violations])


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks", "examples"])
@pytest.mark.parametrize("rule", SIZE_RULES, ids=lambda rule: rule.__name__)
def test_sizes_keep(rule: Rule, folder: str, root: Path) -> None:
    violations = rule(root / folder)

    assert not violations, "\n".join(["", f"{rule.__doc__}", *violations])


def test_helpers_of_the_tests_have_names_of_their_own(root: Path) -> None:
    """They are imported by their bare names, so one of two would stand for the other."""
    names = [path.name for path in (root / "tests").rglob("*.py")]
    helpers = [
        n for n in names if not n.startswith("test_") and n not in ("conftest.py", "__init__.py")
    ]

    assert sorted(helpers) == sorted(set(helpers))


def test_every_room_of_the_table_that_exists_has_files(root: Path) -> None:
    """The rules read something: a moved package must not make them pass in silence."""
    rooms = {
        each.importer[0] for each in architecture.imports(root / "src" / "senet") if each.importer
    }

    assert {"functional", "blocks", "insertion", "models"} <= rooms


def test_the_figure_in_the_docs_is_that_of_the_table(root: Path) -> None:
    page = (root / "docs" / "architecture.md").read_text()
    floors = [line for line in page.splitlines() if re.match(r"\| \d+ \|", line)]

    # The page draws the house as it stands, the top floor first.
    drawn = [tuple(re.findall(r"`(\w+)`", line.split("|")[2])) for line in floors]
    assert drawn[::-1] == list(architecture.FLOORS)


def write(tree: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tree


BROKEN: list[tuple[Rule, str, str, str]] = [
    (
        architecture.steps_up,
        "blocks/gate.py",
        "import senet.cost.count",
        "blocks imports up from cost",
    ),
    (
        architecture.steps_up,
        "ops/__init__.py",
        "from senet import blocks",
        "ops imports up from blocks",
    ),
    (
        architecture.steps_up,
        "functional.py",
        "def f():\n    from senet.cli import main",
        "functional.py:2: functional imports up from cli",
    ),
    (
        architecture.steps_up,
        "cost/count.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from senet.training import fit",
        "cost imports up from training",
    ),
    (
        architecture.steps_up,
        "slim/record.py",
        "from senet.detection.faster import build",
        "slim imports sideways from detection",
    ),
    (
        architecture.steps_up,
        "cost/count.py",
        "from senet import insert",
        "senet.insert, which is no room",
    ),
    (
        architecture.steps_up,
        "models/vgg.py",
        "import senet",
        "models imports senet, which is no room",
    ),
    (architecture.steps_up, "models/vgg.py", "from .cifar import CifarResNet", "relative import"),
    (
        architecture.strangers,
        "insertion/sites.py",
        "import timm.layers",
        "timm, which belongs to models",
    ),
    (
        architecture.strangers,
        "analysis/record.py",
        "import matplotlib",
        "belongs to analysis.figures",
    ),
    (architecture.strangers, "__init__.py", "import torchvision", "senet imports torchvision"),
    (architecture.strangers, "models/vgg.py", "from einops import reduce", "belongs to no room"),
    (architecture.homeless, "blocks/utils.py", "", "blocks/utils.py: says nothing"),
    (architecture.homeless, "cost/_helpers.py", "", "cost/_helpers.py: says nothing"),
    (architecture.homeless, "zoo/vgg.py", "", "zoo/vgg.py: zoo is no room"),
    (architecture.long_files, "cli.py", "x = 1\n" * 351, "cli.py: 351 lines, at most 350"),
    (
        architecture.long_functions,
        "cli.py",
        "def main():\n" + "    x = 1\n" * 50,
        "cli.py:1: main has 51 lines, at most 50",
    ),
    (
        architecture.long_functions,
        "ops/scale.py",
        "class A:\n    @staticmethod\n    def forward(x):\n" + "        x = 1\n" * 50,
        "forward has 51 lines, at most 50",
    ),
]


# As BROKEN, for rules about several files.
BROKEN_TREES: list[tuple[Rule, dict[str, str], str]] = [
    (
        architecture.twins,
        {"cost/report.py": "", "analysis/report.py": ""},
        "analysis/report.py and cost/report.py: one name for 2 files",
    ),
    (
        architecture.circles,
        {
            "cost/report.py": "def show():\n    from senet.cost.tables import table",
            "cost/tables.py": "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    from senet.cost.report import Report",
        },
        "cost.report -> cost.tables -> cost.report: a circle",
    ),
    (
        architecture.circles,
        {
            "ops/__init__.py": "from senet.ops.api import run",
            "ops/api.py": "from senet.ops import modes",
            "ops/modes.py": "import senet.ops.stages",
            "ops/stages.py": "from senet.ops import run",
        },
        "ops -> ops.api -> ops.modes -> ops.stages -> ops: a circle",
    ),
]


@pytest.mark.parametrize(("rule", "files", "message"), BROKEN_TREES)
def test_rule_finds_among_files(
    rule: Rule, files: dict[str, str], message: str, tmp_path: Path
) -> None:
    violations = rule(write(tmp_path, files))

    assert len(violations) == 1
    assert message in violations[0]


@pytest.mark.parametrize(("rule", "file", "text", "message"), BROKEN)
def test_rule_finds(rule: Rule, file: str, text: str, message: str, tmp_path: Path) -> None:
    violations = rule(write(tmp_path, {file: text}))

    assert len(violations) == 1
    assert message in violations[0]


ALLOWED: dict[str, str] = {
    "__init__.py": "from senet.cli import main\nfrom senet import errors",
    "__main__.py": "from senet.cli import main",
    "blocks/gate.py": "import torch\nfrom senet.errors import X\nfrom senet.blocks import a",
    "models/vgg.py": "def build():\n    import torchvision.models\n    import timm.layers",
    "analysis/figures.py": "import math\nimport matplotlib.pyplot as plt",
    "compare.py": "from senet import __version__, cost\nimport senet.training",
    "cli.py": "def f():\n"
    + '    """What it does.\n'
    + "\n" * 60
    + '    """\n'
    + "    x = 1\n" * 49,
    "cost/count.py": "x = 1\n" * 350,
    "cost/__init__.py": "from senet.cost.count import x",
    "cost/config.py": "from senet.cost import count, sums",
    "cost/sums.py": "from senet.cost.count import x",
    "insertion/config.py": "",
}


@pytest.mark.parametrize("rule", [*PACKAGE_RULES, *SIZE_RULES], ids=lambda rule: rule.__name__)
def test_rule_lets_pass(rule: Rule, tmp_path: Path) -> None:
    assert rule(write(tmp_path, ALLOWED)) == []
