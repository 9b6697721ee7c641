"""Labels become class indices by name."""

from __future__ import annotations

import pytest

from senet.errors import DataError
from senet.training import DataConfig
from senet.training.data.class_names import class_names, numbered
from senet.training.data.dataset import Split


def unnamed(*labels: object) -> Split:
    return Split("train", (), labels, str)


def test_a_negative_label_without_a_name_is_refused() -> None:
    with pytest.raises(DataError, match="must be 0 or more, or have names, got -1"):
        class_names(DataConfig(), unnamed(), unnamed(), [0, 1, -1])
    assert class_names(DataConfig(), unnamed(), unnamed(), [0, 5]) == ("0", "5")


def test_names_are_one_in_both_of_their_unicode_forms() -> None:
    """NFC writes é as one character, NFD as two."""
    composed, apart = "\u00e9l\u00e9phant", "e\u0301le\u0301phant"
    train, test = Split("train", ("chien", composed), [0, 1], str), Split("val", (apart,), [0], str)

    classes = class_names(DataConfig(), train, test, train.labels)
    assert classes == ("chien", composed)
    assert numbered(test, test.labels, classes) == [1]
    assert numbered(unnamed(), [apart, "chien"], classes) == [1, 0]
    said = [apart, composed, "chien"]
    assert class_names(DataConfig(), unnamed(*said), unnamed(), said) == ("chien", composed)


def test_two_classes_of_one_name_are_refused() -> None:
    with pytest.raises(DataError, match=r"classes of the train split must differ, .*twice: "):
        Split("train", ("\u00e9", "e\u0301"), [0, 1], str)


def test_numbers_and_names_together_have_an_order() -> None:
    assert class_names(DataConfig(), unnamed(), unnamed(), ["b", 10, "a", 9]) == (
        "9",
        "10",
        "a",
        "b",
    )
