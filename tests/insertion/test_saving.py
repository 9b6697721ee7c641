"""A changed model on disk and back, and files that cannot be what they should be."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import families
import properties
import pytest
import torch
from safetensors import safe_open
from torch import nn

import senet
from senet.errors import DataError, InsertionError

EXAMPLE = torch.randn(1, 3, 32, 32)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = families.build("torchvision/resnet18")
    senet.insert(model, EXAMPLE)
    senet.save(model, tmp_path / "net")
    return tmp_path / "net"


def fresh() -> nn.Module:
    return families.build("torchvision/resnet18")


def refused(folder: Path, model: nn.Module, message: str) -> None:
    before = properties.anatomy(model)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(DataError, match=message):
        senet.load(model, folder)
    assert properties.anatomy(model) == before
    for key, value in model.state_dict().items():
        assert torch.equal(value, weights[key])


def test_the_files(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == ["model.safetensors", "senet.json"]
    plan = json.loads((saved / "senet.json").read_text())
    assert plan["format"] == "senet.insertion/1"
    assert len(plan["sites"]) == 8
    assert plan["sites"][0]["path"] == "layer1.0.bn2"


def test_a_filter_by_function_is_kept_as_the_sites_it_chose(tmp_path: Path) -> None:
    model = fresh()
    senet.insert(
        model, EXAMPLE, senet.SEConfig(include=lambda site: site.channels == 512, hidden=5)
    )
    senet.save(model, tmp_path)
    other = fresh()
    assert [site.hidden for site in senet.load(other, tmp_path)] == [5, 5]
    properties.assert_same(
        properties.outputs(model.eval(), EXAMPLE), properties.outputs(other.eval(), EXAMPLE), ""
    )


def test_tied_weights(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
            self.b.weight = self.a.weight
            self.act = nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(self.b(self.a(x)))  # type: ignore[no-any-return]

    model = Tied()
    senet.insert(model, EXAMPLE)
    senet.save(model, tmp_path)
    other = Tied()
    senet.load(other, tmp_path)
    assert other.a.weight is other.b.weight
    properties.assert_same(
        properties.outputs(model, EXAMPLE), properties.outputs(other, EXAMPLE), "tied"
    )


def test_without_blocks_there_is_nothing_to_save(tmp_path: Path) -> None:
    with pytest.raises(InsertionError, match=r"call senet\.insert first"):
        senet.save(fresh(), tmp_path / "net")
    assert not (tmp_path / "net").exists()


def test_a_missing_folder(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", fresh(), r"must hold senet\.json and model\.safetensors")


def test_a_cut_off_file(saved: Path) -> None:
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(saved, fresh(), "must be a whole safetensors file")


def test_broken_json_and_another_format(saved: Path) -> None:
    (saved / "senet.json").write_text("{")
    refused(saved, fresh(), "must be JSON")
    (saved / "senet.json").write_text('{"format": "senet.insertion/9"}')
    refused(saved, fresh(), r"must have the format 'senet\.insertion/1', got 'senet\.insertion/9'")


def test_another_base_network(saved: Path) -> None:
    with pytest.raises(InsertionError, match=r"'layer1\.0\.bn2' must be a module of the model"):
        senet.load(families.build("torchvision/vgg11"), saved)
    refused(
        saved, families.build("torchvision/resnet34"), "must fit this ResNet, but .* is missing"
    )


def test_a_model_with_blocks_is_refused(saved: Path) -> None:
    model = fresh()
    senet.insert(model, EXAMPLE)
    with pytest.raises(InsertionError, match="must be the plain base network"):
        senet.load(model, saved)


def with_blocks() -> nn.Module:
    model = fresh().eval()
    senet.insert(model, EXAMPLE)
    for block in senet.se_modules(model).values():
        nn.init.normal_(block.fc2.weight)
    return model


def flat(model: nn.Module) -> None:
    """Parameters that are views of one vector."""
    vector = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    torch.nn.utils.vector_to_parameters(vector, model.parameters())


def overlapping(model: nn.Module) -> None:
    """Two biases that share half of their values."""
    values = torch.randn(96)
    model.get_submodule("layer1.0.bn1").bias.data = values[:64]
    model.get_submodule("layer1.0.bn2").bias.data = values[32:]


def in_another_shape(model: nn.Module) -> None:
    """Two parameters of one storage and of different shapes."""
    weight = model.get_submodule("layer2.0.downsample.0").weight
    model.register_parameter("other", nn.Parameter(weight.data.view(-1)))


@pytest.mark.parametrize("share", [flat, overlapping, in_another_shape])
def test_shared_storage_is_written_whole(
    share: Callable[[nn.Module], None], tmp_path: Path
) -> None:
    model = with_blocks()
    share(model)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    senet.save(model, tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(expected)
        for name, value in expected.items():
            assert torch.equal(file.get_tensor(name), value), name


def test_an_interrupted_save_leaves_one_model_or_the_other(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off between any two steps: what loads is the old model or the new one, whole."""
    old, new = fresh().eval(), fresh().eval()
    senet.load(old, saved)
    senet.insert(new, EXAMPLE, senet.SEConfig(reduction=4, stages=(4, 5)))
    expected = [properties.outputs(model, EXAMPLE)[0] for model in (old, new)]
    real, seen = Path.replace, []
    for step in (1, 2, 3):
        calls = []

        def cut_off(self: Path, target: Path, step: int = step, calls: list = calls) -> Path:  # type: ignore[type-arg]
            calls.append(target)
            if len(calls) == step:
                raise KeyboardInterrupt
            return real(self, target)

        monkeypatch.setattr(Path, "replace", cut_off)
        with contextlib.suppress(KeyboardInterrupt):
            senet.save(new, saved)
        monkeypatch.undo()
        model = fresh().eval()
        senet.load(model, saved)
        seen.append([torch.equal(properties.outputs(model, EXAMPLE)[0], y) for y in expected])
    assert seen == [[True, False], [False, True], [False, True]]


def test_the_first_save_interrupted_before_its_plan(saved: Path) -> None:
    (saved / "senet.json").unlink()
    assert len(senet.load(fresh(), saved)) == 8


def test_weights_of_an_older_version_have_no_plan_in_them(saved: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(saved / "model.safetensors")
    save_file(weights, saved / "model.safetensors", {"format": "pt"})
    assert len(senet.load(fresh(), saved)) == 8
    (saved / "senet.json").unlink()
    refused(saved, fresh(), r"must hold senet\.json and model\.safetensors")


@pytest.mark.parametrize("place", ["a file", "below a file"])
def test_a_folder_that_cannot_be_written(place: str, tmp_path: Path) -> None:
    file = tmp_path / "net"
    file.write_text("kept")
    with pytest.raises(DataError, match="must be a folder that can be written: ") as caught:
        senet.save(with_blocks(), file if place == "a file" else file / "folder")
    assert "\n" not in str(caught.value)
    assert file.read_text() == "kept"


def test_what_fails_does_not_draw_from_the_generator(saved: Path) -> None:
    model = families.build("torchvision/resnet34")
    before = torch.get_rng_state()
    refused(saved, model, "must fit this ResNet")
    assert torch.equal(torch.get_rng_state(), before)
