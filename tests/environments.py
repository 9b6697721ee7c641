"""Virtual environments that hold only the packages of some extras, taken from those at hand."""

from __future__ import annotations

import os
import subprocess
import tomllib
import venv
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent


def project() -> dict[str, Any]:
    """Return the table `project` of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def requirements(*extras: str) -> list[Requirement]:
    """Return what this package needs with extras, those that they name in turn included."""
    tables = project()
    lines = list(tables["dependencies"])
    waiting, seen = list(extras), set(extras)
    while waiting:
        for requirement in map(Requirement, tables["optional-dependencies"][waiting.pop()]):
            if requirement.name != "senet":
                lines.append(str(requirement))
            else:
                waiting += requirement.extras - seen
                seen |= requirement.extras
    return [Requirement(line) for line in lines]


def installed(wanted: Iterable[Requirement]) -> dict[str, Distribution]:
    """Return the installed distributions that pip would bring for these requirements."""
    waiting, seen = [(each.name, extra) for each in wanted for extra in ("", *each.extras)], set()
    distributions = {}
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            distributions[name] = distribution(name)
        except PackageNotFoundError:  # as the CUDA libraries beside a build of torch for CPUs
            continue
        for needed in map(Requirement, distributions[name].requires or []):
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                waiting += [(needed.name, each) for each in ("", *needed.extras)]
    return distributions


class Environment:
    """A virtual environment with the packages of some extras, by links to those at hand.

    Args:
        folder: where it is made.
        extras: those of this package; without any, torch and safetensors and what they need.
    """

    def __init__(self, folder: Path, *extras: str) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        self.python = folder / "bin" / "python"
        self.site = next(folder.glob("lib/python*/site-packages"))
        for each in installed(requirements(*extras)).values():
            for top in {file.parts[0] for file in each.files or []} - {"..", "__pycache__"}:
                link = self.site / top
                if not link.exists():
                    link.symlink_to(Path(each.locate_file(top)).resolve())

    def run(
        self, *arguments: str, cwd: Path, source: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run this environment's Python and return what it prints.

        Args:
            arguments: the command line behind the interpreter.
            cwd: the working directory.
            source: whether `senet` is that of this source tree.
        """
        return subprocess.run(
            [str(self.python), *arguments],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src") if source else ""},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
