"""Configurations: frozen dataclasses that are checked, read, written, changed and compared alike.

A field is checked by its declared type, and by what `option` says of it. An error is one line.
Results that are written as JSON are a `Record`, and their numbers pass through `finite`.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

from senet.errors import ConfigError, unknown_name

__all__ = [
    "Config",
    "Record",
    "differences",
    "finite",
    "flat",
    "option",
    "overridden",
]

C = TypeVar("C", bound="Config")
_INTEGERS = 2**63  # integers are smaller: torch's are of 64 bits


class _Rule(NamedTuple):
    """What a value must be besides its type; see `option`."""

    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf
    below: float = math.inf
    choices: Collection[str] | None = None
    rising: bool = False
    what: str | None = None
    advice: str | None = None
    check: Callable[[str, Any], Any] | None = None
    blank: Callable[[], Any] | None = None


def option(default: Any, **rule: Any) -> Any:
    """Return a dataclass field with a default, and what its value must be besides its type.

    Args:
        default: the value where none is given.
        **rule: any of
            least, above, most, below: bounds of a number, or of each number of a tuple;
            choices: the names that a text may be;
            rising: whether the numbers of a tuple must rise;
            what: what the value must be, for the message, where the type and bounds do not say it;
            advice: what to try instead, the end of the message;
            check: instead of all that, a function (name, value) that returns the value or raises;
            blank: returns the configuration that changes begin with, for a field that may be None.

    Example:
        >>> @dataclass(frozen=True)
        ... class Recipe(Config):
        ...     lr: float = option(0.1, above=0)
        ...     epochs: int | None = option(None, least=1)
        >>> Recipe(lr=1).lr
        1.0
        >>> Recipe(epochs=0)
        Traceback (most recent call last):
        ...
        senet.errors.ConfigError: epochs must be a whole number of at least 1, or None, got 0
    """
    return field(default=default, metadata={"rule": _Rule(**rule)})


@dataclass(frozen=True)
class Config:
    """Base of the configurations: checks its fields when it is made.

    Numbers become floats where the field is one, and sequences tuples.

    Raises:
        ConfigError: a value that a field cannot have.
        UnknownNameError: a name that is not among a field's choices.
    """

    def __post_init__(self) -> None:
        for name, (kind, rule) in _declared(type(self)).items():
            object.__setattr__(self, name, _checked(name, getattr(self, name), kind, rule))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values; a function becomes its name."""
        return {each.name: _jsonable(getattr(self, each.name)) for each in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Return the configuration of `to_dict`; a field that is missing has its default.

        Raises:
            UnknownNameError: a field that there is not.
        """
        return overridden(cls(), _known(cls, fields))


class Record:
    """Base of the dataclasses whose fields are JSON-able as they are: a result, or a fact.

    Attributes:
        schema: the name of the form, for a result that is written to a file of its own.
    """

    schema: ClassVar[str | None] = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values, behind the name of the schema if there is one."""
        head = {} if self.schema is None else {"schema": self.schema}
        return head | dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]


def finite(value: float) -> float | None:
    """Return a number as JSON can hold it: None for one that is not finite."""
    return value if math.isfinite(value) else None


def _declared(kind: type[Config]) -> dict[str, tuple[Any, _Rule]]:
    """Return name -> declared type and rule of the fields."""
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)
    return {each.name: (hints[each.name], each.metadata.get("rule", _Rule())) for each in fields}


def _jsonable(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_jsonable(each) for each in value]
    return f"<function {getattr(value, '__qualname__', value)}>" if callable(value) else value


# ---- checking


class _Unfit(Exception):  # noqa: N818 - becomes a ConfigError that names the field
    """A value that the type or the rule does not allow."""


def _checked(name: str, value: Any, kind: Any, rule: _Rule) -> Any:
    """Return the value as its type holds it, or raise the error that names the field."""
    if rule.check is not None:
        return rule.check(name, value)
    kinds = typing.get_args(kind) if _is_union(kind) else (kind,)
    if value is None and types.NoneType in kinds:
        return None
    if rule.choices is not None:
        if value not in tuple(rule.choices):
            raise unknown_name(name, str(value), rule.choices)
        return value
    for each in kinds:
        try:
            return _fitted(value, each, rule)
        except _Unfit:
            continue
    what = rule.what or _meaning(kinds[0], rule, value)
    if kinds[0] is int and isinstance(value, int) and value >= _INTEGERS:
        what += " and below 2**63"
    or_none = ", or None" if types.NoneType in kinds else ""
    advice = f"; {rule.advice}" if rule.advice else ""
    raise ConfigError(f"{name} must be {what}{or_none}, got {f'{value!r}'[:80]}{advice}")


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def _fitted(value: Any, kind: Any, rule: _Rule) -> Any:
    if typing.get_origin(kind) is tuple:
        several = isinstance(value, Sequence | Set) and not isinstance(value, str)
        inner = typing.get_args(kind)[0]
        values = tuple(_fitted(each, inner, rule) for each in (value if several else (value,)))
        if rule.rising and list(values) != sorted(set(values)):
            raise _Unfit
        return values
    if kind not in (int, float):
        if isinstance(value, kind):
            return value
        raise _Unfit
    real = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if not real or not abs(value) < (_INTEGERS if kind is int else 1e300):
        raise _Unfit
    if not (rule.least <= value <= rule.most and rule.above < value < rule.below):
        raise _Unfit
    return kind(value)


def _meaning(kind: Any, rule: _Rule, value: Any) -> str:
    """Return what a value of a type must be, for the message."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return "a whole number" + (f" of at least {rule.least:g}" if rule.least > -math.inf else "")
    if kind is float and rule.above == 0:
        return "positive" if number else "a positive number"
    if kind is float and rule.below < math.inf:
        return "a number " * (not number) + f"in [{rule.least:g}, {rule.below:g})"
    if kind is float and rule.least > -math.inf:
        return "a number of " * (not number) + f"at least {rule.least:g}"
    if kind is float:
        return "a number"
    words = {bool: "true or false", str: "a text"}
    return words.get(kind, f"a {getattr(kind, '__name__', kind)}")


# ---- changing and comparing


def overridden(config: C, changes: Mapping[str, Any]) -> C:
    """Return the configuration with other values.

    Args:
        config: before.
        changes: by name: a field ("model"), a section with a table of fields ("train":
            {"lr": 0.2}), a field of a section ("train.lr"), or the name of a section's field alone
            ("lr").

    Raises:
        ConfigError: a value that cannot be.
        UnknownNameError: no such field.
    """
    own: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    sections = _sections(type(config))
    for key, value in changes.items():
        section, name = _place(type(config), key)
        if section:
            inner.setdefault(section, {})[name] = value
        elif name in sections and isinstance(value, Mapping):
            inner.setdefault(name, {}).update(_known(sections[name], value))
        elif name in sections and not isinstance(value, Config | None):
            raise ConfigError(f"{name} must be a table of fields, got {value!r}")
        else:
            own[name] = value
    config = replace(config, **own)
    for section, fields in inner.items():
        before = getattr(config, section)
        if before is None:
            blank = _declared(type(config))[section][1].blank or sections[section]
            before = blank()
        config = replace(config, **{section: overridden(before, fields)})
    return config


def _sections(kind: type[Config]) -> dict[str, type[Config]]:
    """Return name -> type of the fields that are configurations."""
    sections = {}
    for name, (declared, _) in _declared(kind).items():
        for each in typing.get_args(declared) if _is_union(declared) else (declared,):
            if isinstance(each, type) and issubclass(each, Config):
                sections[name] = each
    return sections


def _place(kind: type[Config], key: str) -> tuple[str, str]:
    """Return section ("" for the configuration itself) and field of a key."""
    own, sections = _declared(kind), _sections(kind)
    if key in own:
        return "", key
    section, _, name = key.rpartition(".")
    for each, inner in sections.items():
        if section in ("", each) and name in _declared(inner):
            return each, name
    names = [f"{each}.{name}" for each, inner in sections.items() for name in _declared(inner)]
    if "." not in key:
        names = [name.rpartition(".")[2] for name in names]
    raise unknown_name("setting" if sections else f"{kind.__name__} field", key, [*names, *own])


def _known(kind: type[Config], fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields, or raise `UnknownNameError` for one that the configuration lacks."""
    for name in fields:
        if name not in _declared(kind):
            raise unknown_name(f"{kind.__name__} field", name, _declared(kind))
    return fields


def flat(config: Config | Mapping[str, Any]) -> dict[str, Any]:
    """Return every value by its full name, as in "train.lr"."""
    values: dict[str, Any] = {}
    for name, value in (config.to_dict() if isinstance(config, Config) else config).items():
        if isinstance(value, Mapping):
            values |= {f"{name}.{inner}": each for inner, each in flat(value).items()}
        else:
            values[name] = list(value) if isinstance(value, tuple) else value
    return values


def differences(
    before: Config | Mapping[str, Any], now: Config | Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Return the values that differ, by their full name; one that is not there is None.

    Example:
        >>> differences({"lr": 0.1, "se": {"bias": True}}, {"lr": 0.2, "se": {"bias": True}})
        {'lr': (0.1, 0.2)}
    """
    old, new = flat(before), flat(now)
    pairs = {name: (old.get(name), new.get(name)) for name in {**old, **new}}
    return {name: (was, now_is) for name, (was, now_is) in pairs.items() if was != now_is}
