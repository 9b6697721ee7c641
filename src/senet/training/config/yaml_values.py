"""Configurations as YAML: files, and the values of `--set KEY=VALUE`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from senet.errors import ConfigError, DataError, optional
from senet.schema import Config

__all__ = ["parse_values", "read_yaml", "to_yaml"]


def to_yaml(config: Config) -> str:
    """Return the configuration as YAML, section by section."""
    with optional("a configuration file"):
        import yaml
    text: str = yaml.safe_dump(config.to_dict(), sort_keys=False, default_flow_style=None)
    return text


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the values of a YAML file, for `overridden`.

    Raises:
        DataError: the file cannot be read, or holds no table.
    """
    try:
        values = _yaml_values(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values or {}, Mapping):
        raise DataError(f"{path} must hold a table such as 'train: {{lr: 0.2}}', holds {values!r}")
    return dict(values or {})


def parse_values(pairs: Iterable[str]) -> dict[str, Any]:
    """Return the changes of "KEY=VALUE" texts, for `overridden`; a value is read as YAML.

    Raises:
        ConfigError: a text without "=", or with a value that is no YAML.

    Example:
        >>> parse_values(["lr=1e-3", "milestones=[30, 60]", "se=null"])
        {'lr': 0.001, 'milestones': [30, 60], 'se': None}
    """
    values = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set takes KEY=VALUE such as lr=0.2, got {pair!r}")
        try:
            values[key.strip()] = _yaml_values(text)
        except ValueError as error:
            raise ConfigError(f"--set {pair[:80]}: the value is no YAML") from error
    return values


def _yaml_values(text: str) -> Any:
    """Return what a YAML text says.

    Raises:
        ValueError: it is no YAML.
    """
    with optional("a value in YAML"):
        import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """YAML 1.1 takes 1e-3 for a text; here, as in YAML 1.2, it is the number."""

    number = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    try:
        return yaml.load(text, Loader)  # a SafeLoader: it makes no objects
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
