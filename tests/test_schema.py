"""Configurations are checked by type and rule, and given back by what they are written as."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from senet.errors import ConfigError, UnknownNameError
from senet.schema import Config, Record, differences, finite, flat, option, overridden


@dataclass(frozen=True)
class Inner(Config):
    rate: float = option(0.5, above=0)
    share: float = option(0.0, least=0, below=1)
    wide: int | float = option(16, above=0, what="a positive number")
    steps: int | None = option(None, least=1, advice="leave it out")
    on: bool = True
    marks: tuple[float, ...] = option((), above=0, rising=True, what="rising positive numbers")
    kind: str = option("a", choices=("a", "b"))


@dataclass(frozen=True)
class Outer(Config):
    title: str = "x"
    inner: Inner = Inner()
    maybe: Inner | None = option(None, blank=lambda: Inner(kind="b"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rate": 0}, "rate must be positive, got 0"),
        ({"rate": float("nan")}, "rate must be positive, got nan"),
        ({"rate": float("inf")}, "rate must be positive, got inf"),
        ({"rate": 10**400}, "rate must be positive, got 1000"),
        ({"rate": "1"}, "rate must be a positive number, got '1'"),
        ({"rate": True}, "rate must be a positive number, got True"),
        ({"share": 1}, r"share must be in \[0, 1\), got 1"),
        ({"steps": 0}, "steps must be a whole number of at least 1, or None, got 0; leave it out"),
        ({"steps": 1.0}, "steps must be a whole number of at least 1, or None, got 1.0"),
        ({"steps": True}, "steps must be a whole number"),
        ({"steps": 2**63}, r"whole number of at least 1 and below 2\*\*63, or None, got 9223"),
        ({"on": 1}, "on must be true or false, got 1"),
        ({"marks": (2, 1)}, "marks must be rising positive numbers, got"),
        ({"marks": "12"}, "marks must be rising positive numbers, got '12'"),
        ({"marks": (1, "2")}, "marks must be rising positive numbers"),
        ({"wide": "8"}, "wide must be a positive number, got '8'"),
    ],
)
def test_a_value_that_does_not_fit_is_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        Inner(**fields)
    assert len(str(error.value)) < 200


def test_numbers_become_what_the_field_is() -> None:
    inner = Inner(rate=1, wide=8, marks=[3, 5])  # type: ignore[arg-type]

    assert [type(each) for each in (inner.rate, inner.wide, *inner.marks)] == [
        *(float, int, float, float)
    ]
    assert Inner(marks=7).marks == (7.0,)  # type: ignore[arg-type]
    assert inner.to_dict()["marks"] == [3.0, 5.0]


def test_choices_list_near_names() -> None:
    with pytest.raises(UnknownNameError, match="unknown kind 'c'; known are: a, b"):
        Inner(kind="c")


def test_written_and_read_it_is_the_same() -> None:
    config = Outer("y", Inner(rate=2, marks=(1, 2)), Inner(on=False))

    assert Outer.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert Outer.from_dict(json.loads(json.dumps(Outer().to_dict()))) == Outer()
    with pytest.raises(UnknownNameError, match="unknown Outer field 'titel'; did you mean: title"):
        Outer.from_dict({"titel": "z"})


def test_changes_by_full_name_alone_and_by_section() -> None:
    config = overridden(Outer(), {"title": "z", "inner": {"rate": 3}, "inner.share": 0.5})
    assert (config.title, config.inner) == ("z", Inner(rate=3, share=0.5))
    assert overridden(Outer(), {"rate": 4}).inner.rate == 4.0
    begun = overridden(Outer(), {"maybe.rate": 4})
    assert begun.maybe == Inner(rate=4, kind="b")
    assert overridden(begun, {"maybe": None}).maybe is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inner": 3}, "inner must be a table of fields, got 3"),
        ({"inner": None}, "inner must be a"),
        ({"inner": {"rat": 3}}, "unknown Inner field 'rat'; did you mean: rate"),
        ({"inner.rat": 3}, "unknown setting 'inner.rat'; did you mean: inner.rate"),
        ({"rat": 3}, "unknown setting 'rat'; did you mean: rate"),
        ({"title": 3}, "title must be a text, got 3"),
    ],
)
def test_a_change_that_cannot_be_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, UnknownNameError), match=message):
        overridden(Outer(), changes)


def test_differences_have_full_names() -> None:
    now = overridden(Outer(), {"inner.rate": 2, "maybe.on": False})

    assert flat(now)["inner.rate"] == 2
    changed = differences(Outer(), now)
    assert changed["inner.rate"] == (0.5, 2.0)
    assert changed["maybe.on"] == (None, False)
    assert differences({"a": (1, 2)}, {"a": [1, 2]}) == {}  # as JSON gives it back


@dataclass(frozen=True)
class Result(Record):
    value: float
    parts: tuple[int, ...]


@dataclass(frozen=True)
class Written(Result):
    schema = "senet.test/1"


def test_a_record_is_its_fields_and_a_schema_is_no_field() -> None:
    assert Result(0.5, (1, 2)).to_dict() == {"value": 0.5, "parts": (1, 2)}
    assert list(Written(0.5, ()).to_dict()) == ["schema", "value", "parts"]
    assert Written(0.5, ()) == Written(0.5, ())


def test_what_is_not_finite_is_none() -> None:
    values = [0.1, float("nan"), float("inf"), -float("inf"), 0.0]
    assert [finite(value) for value in values] == [0.1, None, None, None, 0.0]
