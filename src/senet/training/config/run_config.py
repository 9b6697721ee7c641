"""All that a training run depends on: a frozen configuration, as YAML, overridden and compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

from senet.errors import ConfigError, DataError, unknown_name
from senet.insertion import SEConfig
from senet.training.config import DataConfig, TrainConfig

__all__ = ["RunConfig", "differences", "flat", "overridden", "parse_values", "read_yaml", "to_yaml"]

_SECTIONS: dict[str, type[Any]] = {"data": DataConfig, "train": TrainConfig, "se": SEConfig}
_OWN = ("model", "weights")


@final
@dataclass(frozen=True)
class RunConfig:
    """What `senet train` trains, on what, and how.

    Attributes:
        model: a name that `senet.create_model` takes.
        weights: what the network starts from: a file, or a name, that `senet.load_weights` takes;
            None for random weights.
        se: the SE blocks: of an SE network of this project (None: as its name says), or inserted
            into any other network (None: not at all).
        data: which images.
        train: the recipe.

    Raises:
        ConfigError: a value that cannot be.
        UnknownNameError: a field or a choice that there is not.
    """

    model: str = "se_resnet20"
    weights: str | None = None
    se: SEConfig | None = None
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        for name, kinds in (("model", str), ("weights", str | None)):
            if not isinstance(getattr(self, name), kinds):
                raise ConfigError(f"{name} must be a name, got {getattr(self, name)!r}")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, section by section, as JSON-able values."""
        return {
            "model": self.model,
            "weights": self.weights,
            "se": None if self.se is None else self.se.to_dict(),
            "data": self.data.to_dict(),
            "train": self.train.to_dict(),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> RunConfig:
        """Return the configuration of `to_dict`; what is missing has its default."""
        return overridden(cls(), fields)


def overridden(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """Return the configuration with other values.

    Args:
        config: before.
        changes: by name: "model", a section with a mapping of fields ("train": {"lr": 0.2}), a
            field of a section ("train.lr"), or a field's name alone where only one section has it
            ("lr").

    Raises:
        ConfigError: a value that cannot be.
        UnknownNameError: no such field.

    Example:
        >>> changed = overridden(RunConfig(), {"lr": 0.2, "data.image_size": 8})
        >>> changed.train.lr, changed.data.image_size
        (0.2, 8)
    """
    own: dict[str, Any] = {}
    sections: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        if key in _OWN:
            own[key] = value
        elif key in _SECTIONS:
            if key == "se" and value is None:
                own["se"] = None
            elif isinstance(value, Mapping):
                sections.setdefault(key, {}).update(value)
            else:
                raise ConfigError(f"{key} must be a table of fields, got {value!r}")
        else:
            section, name = _place(key)
            sections.setdefault(section, {})[name] = value
    config = replace(config, **own)
    for section, fields in sections.items():
        config = replace(config, **{section: _section(config, section, fields)})
    return config


def _place(key: str) -> tuple[str, str]:
    """Return section and field of a key."""
    section, dot, name = key.rpartition(".")
    places = [
        (each, known.name)
        for each, kind in _SECTIONS.items()
        for known in dataclasses.fields(kind)
        if known.name == name and section in ("", each)
    ]
    if len(places) == 1:
        return places[0]
    if places:
        raise ConfigError(f"{key} could be {' or '.join('.'.join(place) for place in places)}")
    known = [
        f"{each}.{each_field.name}" if dot else each_field.name
        for each, kind in _SECTIONS.items()
        for each_field in dataclasses.fields(kind)
    ]
    raise unknown_name("setting", key, [*known, *_OWN])


def _section(config: RunConfig, section: str, fields: Mapping[str, Any]) -> Any:
    """Return a section with other values."""
    before = getattr(config, section)
    if before is None:
        before = SEConfig(init="paper")
    kind = _SECTIONS[section]
    try:
        return kind.from_dict({**before.to_dict(), **fields})
    except TypeError as error:
        raise ConfigError(f"{section}: {error}") from error


def to_yaml(config: RunConfig) -> str:
    """Return the configuration as YAML, section by section."""
    import yaml

    text: str = yaml.safe_dump(config.to_dict(), sort_keys=False, default_flow_style=None)
    return text


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the values of a YAML file, for `overridden`.

    Raises:
        DataError: the file cannot be read, or holds no table.
    """
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found or {}, Mapping):
        raise DataError(f"{path} must hold a table such as 'train: {{lr: 0.2}}', holds {found!r}")
    return dict(found or {})


def parse_values(pairs: Sequence[str]) -> dict[str, Any]:
    """Return the changes of "KEY=VALUE" texts; a value is read as YAML.

    Raises:
        ConfigError: a text without "=".

    Example:
        >>> parse_values(["lr=0.2", "milestones=[30, 60]", "se=null"])
        {'lr': 0.2, 'milestones': [30, 60], 'se': None}
    """
    import yaml

    found = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set takes KEY=VALUE such as lr=0.2, got {pair!r}")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {pair}: the value is no YAML") from error
        found[key.strip()] = _number(value)
    return found


def _number(value: Any) -> Any:
    """YAML reads 1e-4 as text; people mean the number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def flat(config: RunConfig) -> dict[str, Any]:
    """Return every value by its full name, as in "train.lr"."""
    found: dict[str, Any] = {}
    for name, value in config.to_dict().items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{key}": each for key, each in value.items()}
        else:
            found[name] = value
    return found


def differences(before: RunConfig, now: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Return the values that differ, by their full name.

    Example:
        >>> differences(RunConfig(), overridden(RunConfig(), {"lr": 0.2}))
        {'train.lr': (0.1, 0.2)}
    """
    old, new = flat(before), flat(now)
    names = [*old, *(name for name in new if name not in old)]
    return {
        name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)
    }
