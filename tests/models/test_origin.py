"""A network knows the call that built it."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import senet
from models.counted import on_meta
from senet.errors import ConfigError, DataError
from senet.insertion import SEConfig
from senet.models import create_model
from senet.models.origin import Origin, origin_of


@pytest.mark.parametrize(
    ("name", "options", "origin"),
    [
        ("resnet20", {}, Origin("resnet20", 10)),
        ("se_resnet18", {"num_classes": 0, "layout": "torchvision"},
         Origin("se_resnet18", 0, layout="torchvision")),
        ("se_resnet20", {"se": {"bias": False, "include": "layer3.*"}, "in_chans": 2},
         Origin("se_resnet20", 10, 2, se={"bias": False})),
        ("squeezenet1_1", {}, Origin("torchvision/squeezenet1_1", 1000)),
        ("resnet26", {"num_classes": 3}, Origin("timm/resnet26", 3)),
    ],
)  # fmt: skip
def test_origin_is_the_call(name: str, options: dict[str, object], origin: Origin) -> None:
    model = on_meta(name, **options)

    assert origin_of(model) == origin
    assert origin_of(copy.deepcopy(model)) == origin
    assert Origin.from_dict(json.loads(json.dumps(origin.to_dict()))) == origin


def test_whole_configuration_is_kept_without_its_selectors() -> None:
    model = on_meta("se_resnet20", se=SEConfig(reduction=4, exclude=lambda site: False))

    kept = origin_of(model).se

    assert kept is not None
    assert kept["reduction"] == 4
    assert not {"include", "exclude"} & set(kept)


def test_new_classifier_changes_the_number_of_classes() -> None:
    model = on_meta("resnet20")

    model.reset_classifier(7)

    assert origin_of(model).num_classes == 7


def test_other_networks_have_no_origin() -> None:
    with pytest.raises(ConfigError, match=r"one that senet.create_model built.*Linear is not"):
        origin_of(nn.Linear(2, 2))


def test_fields_of_another_version() -> None:
    with pytest.raises(DataError, match=r"must have the fields \['name', .*has \['nam'\]"):
        Origin.from_dict({"nam": "resnet20"})


@pytest.mark.parametrize("name", ["resnet20", "se_resnet20"])
def test_a_folder_of_senet_save_builds_the_network_again(name: str, tmp_path: Path) -> None:
    """With inserted blocks, and with inserted ones beside those that it has by its name."""
    model, x = create_model(name), torch.randn(2, 3, 32, 32)
    senet.insert(model, x, senet.SEConfig(reduction=4, existing="add"))
    for block in senet.se_modules(model).values():
        torch.nn.init.normal_(block.fc2.weight)
    senet.save(model.eval(), tmp_path)

    again = senet.from_pretrained(tmp_path)
    assert torch.equal(again(x), model(x))
    assert list(senet.se_modules(again)) == list(senet.se_modules(model))
