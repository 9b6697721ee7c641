"""What `senet models` shows on a terminal."""

from __future__ import annotations

import io

from rich.console import Console

from senet.cli.terminal import show_models


def shown(*names: str) -> list[str]:
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    show_models(console, names)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_own_networks_with_what_the_paper_says() -> None:
    lines = shown("resnet20", "resnet50", "se_resnet50", "se_inception_v3")

    assert [cells(line) for line in lines if line.startswith("│")] == [
        ["resnet20", "", "32x32", "", ""],
        ["resnet50", "", "224x224", "24.80 / 7.48", "2"],
        ["se_resnet50", "SE", "224x224", "23.29 / 6.62", "2"],
        ["se_inception_v3", "SE", "299x299", "", ""],
    ]


def test_other_libraries_come_behind_by_name_alone() -> None:
    assert shown("resnet20", "timm/resnet18", "torchvision/resnet18")[-2:] == [
        "timm/resnet18",
        "torchvision/resnet18",
    ]
    assert shown("timm/resnet18") == ["timm/resnet18"]
