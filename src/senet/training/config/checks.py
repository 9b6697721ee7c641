"""What the fields of a configuration may hold, checked when it is made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from senet.errors import ConfigError, unknown_name

__all__ = [
    "choice",
    "flag",
    "fraction",
    "is_number",
    "known_fields",
    "number",
    "positive",
    "rising",
    "whole",
]


def is_number(value: object, *, least: float, below: float = math.inf) -> bool:
    """Whether a value is a number in [least, below)."""
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and least <= value < below  # type: ignore[operator]


def _check(name: str, value: object, what: str, *, ok: bool) -> None:
    if not ok:
        raise ConfigError(f"{name} must be {what}, got {value!r}")


def _each(config: Any, names: Sequence[str], *, optional: bool) -> list[tuple[str, Any]]:
    values = [(name, getattr(config, name)) for name in names]
    return [(name, value) for name, value in values if not (optional and value is None)]


def whole(config: Any, *names: str, least: int, optional: bool = False) -> None:
    """Raise `ConfigError` unless the fields are whole numbers."""
    what = f"a whole number of at least {least}" + (", or None" if optional else "")
    for name, value in _each(config, names, optional=optional):
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        _check(name, value, what, ok=is_whole and value >= least)


def positive(config: Any, *names: str, optional: bool = False) -> None:
    """Raise `ConfigError` unless the fields are positive numbers."""
    for name, value in _each(config, names, optional=optional):
        _check(name, value, "positive", ok=is_number(value, least=math.ulp(0.0)))


def fraction(config: Any, *names: str, optional: bool = False) -> None:
    """Raise `ConfigError` unless the fields lie in [0, 1)."""
    for name, value in _each(config, names, optional=optional):
        _check(name, value, "in [0, 1)", ok=is_number(value, least=0, below=1))


def number(config: Any, *names: str) -> None:
    """Raise `ConfigError` unless the fields are numbers of at least 0."""
    for name, value in _each(config, names, optional=False):
        _check(name, value, "at least 0", ok=is_number(value, least=0))


def flag(config: Any, *names: str) -> None:
    """Raise `ConfigError` unless the fields are True or False."""
    for name, value in _each(config, names, optional=False):
        _check(name, value, "true or false", ok=isinstance(value, bool))


def choice(config: Any, **choices: Mapping[str, str]) -> None:
    """Raise `UnknownNameError` unless each field is one of its choices."""
    for name, known in choices.items():
        if getattr(config, name) not in known:
            raise unknown_name(name, str(getattr(config, name)), known)


def rising(config: Any, name: str) -> tuple[float, ...]:
    """Return the field as a tuple of rising positive numbers, or raise `ConfigError`."""
    value = getattr(config, name)
    several = isinstance(value, Sequence) and not isinstance(value, str)
    found = tuple(value) if several else (value,)
    ok = all(is_number(each, least=math.ulp(0.0)) for each in found) and list(found) == sorted(
        set(found)
    )
    _check(name, value, "rising positive numbers", ok=ok)
    return found


def known_fields(kind: type[Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields, or raise `UnknownNameError` for one that the configuration lacks."""
    known = {field.name for field in dataclasses.fields(kind)}
    for name in fields:
        if name not in known:
            raise unknown_name(f"{kind.__name__} field", name, known)
    return dict(fields)
