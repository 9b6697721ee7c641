"""The results folder: what may be there, and how results get into it whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from senet.analysis.report import render_report
from senet.compare.settings import Settings, differences
from senet.errors import ConfigError, DataError
from senet.training.loop.checkpoints import write_atomically

__all__ = ["SCHEMA", "ResultsFolder"]

SCHEMA = "senet.compare/1"


@final
class ResultsFolder:
    """results.json, report.html and runs/ of one comparison; nothing is written when it is made.

    Args:
        path: the folder.
        settings: of the comparison.
        resume: go on with the comparison that is there.

    Raises:
        ConfigError: the folder is not empty and not to be resumed, or holds a comparison with
            other options.
        DataError: what is to be resumed cannot be read.
    """

    def __init__(self, path: Path, settings: Settings, *, resume: bool) -> None:
        self.path = path
        self.earlier: dict[str, Any] | None = None
        if path.exists() and not path.is_dir():
            raise ConfigError(f"out must be a folder, {path} is a file")
        if not path.exists() or not any(path.iterdir()):
            return  # with resume too: there is nothing yet to go on with
        if not resume:
            raise ConfigError(
                f"out must be a new or an empty folder, {path} is not empty; go on with what is "
                "there by --resume, or choose another folder"
            )
        self.earlier = self._read()
        changed = differences(self.earlier["config"], settings.to_dict())
        if changed:
            raise ConfigError(
                f"--resume goes on with the same options, but {'; '.join(changed)}; "
                "give the old ones, or another out folder"
            )

    def _read(self) -> dict[str, Any]:
        path = self.path / "results.json"
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            known = found["schema"] == SCHEMA and isinstance(found["config"], Mapping)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"there is nothing to resume in {self.path}: its results.json cannot be read "
                f"({type(error).__name__})"
            ) from error
        if not known:
            raise DataError(f"{path} must be of schema {SCHEMA!r}, is of {found['schema']!r}")
        return found

    def of_run(self, arch: str, seed: int) -> Path:
        """Return the folder of one run."""
        return self.path / "runs" / f"{arch}-seed{seed}"

    def write_results(self, result: Mapping[str, Any]) -> None:
        """Write results.json."""
        text = json.dumps(result, indent=1, allow_nan=False)
        write_atomically(self.path / "results.json", text)

    def write_report(self, result: Mapping[str, Any]) -> Path:
        """Write report.html and return its path."""
        path = self.path / "report.html"
        write_atomically(path, render_report(result))
        return path
