"""Every door that needs an extra says so: what needs which package, and the pip line."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from environments import Environment

# A command line, the extras that are installed, and the one that is missing.
COMMANDS = [
    ("compare", (), "cli"),
    ("--help", (), "cli"),
    ("compare", ("cli",), "train"),
    ("train --recipe cifar", ("cli",), "train"),
    ("eval runs/none", ("cli",), "train"),
    ("plan timm/resnet18", ("cli",), "timm"),
    ("cost torchvision/resnet18", ("cli",), "timm"),
    ("models 'timm/*'", ("cli",), "timm"),
]


@pytest.fixture(scope="session")
def command(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment as `pip install "senet[cli]"` leaves it."""
    return Environment(tmp_path_factory.mktemp("cli"), "cli")


@pytest.mark.parametrize(("line", "extras", "missing"), COMMANDS)
def test_a_command_says_what_is_missing(
    line: str,
    extras: tuple[str, ...],
    missing: str,
    core: Environment,
    command: Environment,
    tmp_path: Path,
) -> None:
    environment = command if extras else core

    done = environment.run("-m", "senet", *shlex.split(line), cwd=tmp_path)

    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    named = missing == "timm"  # then the network is named that needs it
    needs = "a network named t" if named else f"senet {line.split()[0]}".removesuffix(" --help")
    assert done.stderr.startswith(f"senet: error: {needs}")
    assert done.stderr.endswith(f'pip install "senet[{missing}]"\n')
    assert done.stderr.count("\n") == 1


def test_a_command_of_the_core_runs_with_the_command_alone(
    command: Environment, tmp_path: Path
) -> None:
    assert "16 sites" in command.run("-m", "senet", "plan", "resnet50", cwd=tmp_path).stdout
