"""Networks in folders of the Hub's form: saved and built again, without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from safetensors import safe_open
from torch import nn

from senet.errors import ConfigError, DataError
from senet.insertion import SEConfig, insert, remove, se_modules
from senet.models import (
    create_model,
    from_pretrained,
    register_with_timm,
    save_pretrained,
)
from senet.models.origin import origin_of
from senet.models.weights import CAFFE, preprocessing
from senet.models.weights.preprocess import remember

PLAIN = {"README.md", "config.json", "model.safetensors"}
CHANGED = PLAIN | {"senet.json"}


def changed(name: str, config: SEConfig | None = None, **options: Any) -> nn.Module:
    model = create_model(name, **options)
    insert(model, torch.zeros(1, 3, 32, 32), config)
    for block in se_modules(model).values():
        nn.init.normal_(block.fc2.weight, std=0.1)
    return model


def without(model: nn.Module) -> nn.Module:
    remove(model)
    return model


@pytest.mark.parametrize(
    ("make", "files"),
    [
        (lambda: create_model("resnet20"), PLAIN),
        (lambda: create_model("se_resnet20", se={"reduction": 4, "bias": False}), PLAIN),
        (lambda: create_model("se_resnet18", num_classes=3, layout="torchvision"), PLAIN),
        (lambda: create_model("se_resnet20", se={"integration": "pre"}), CHANGED),
        (lambda: create_model("se_mobilenet_v1", num_classes=4), CHANGED),
        (lambda: without(create_model("se_mobilenet_v1", num_classes=4)), PLAIN),
        (lambda: create_model("timm/resnet10t", num_classes=4), PLAIN),
        (lambda: changed("resnet20"), CHANGED),
        (lambda: changed("timm/resnet10t", num_classes=4), CHANGED),
        (lambda: changed("torchvision/squeezenet1_1", num_classes=4), CHANGED),
        (lambda: changed("se_resnet20", SEConfig(existing="add")), CHANGED),
    ],
    ids=["plain", "se", "layout", "pre", "grown", "removed", "timm", "changed", "changed timm",
         "changed torchvision", "changed se"],
)  # fmt: skip
def test_network_comes_back(make: Any, files: set[str], tmp_path: Path) -> None:
    model = make()
    x = torch.randn(2, 3, 32, 32)
    model.train()(x)  # running statistics of its own

    save_pretrained(model, tmp_path)
    again = from_pretrained(tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == files
    with torch.no_grad():
        assert torch.equal(again(x), model.eval()(x))
    assert not again.training
    assert [*again.state_dict()] == [*model.state_dict()]
    assert origin_of(again) == origin_of(model)


def test_head_comes_back(tmp_path: Path) -> None:
    model = create_model("se_resnet18")
    model.reset_classifier(0, "")
    model.drop_rate = 0.3

    save_pretrained(model, tmp_path)
    again = from_pretrained(tmp_path)

    assert (again.num_classes, again.global_pool, again.drop_rate) == (0, "", 0.3)
    assert again(torch.zeros(1, 3, 64, 64)).shape == (1, 512, 2, 2)


def test_images_come_back(tmp_path: Path) -> None:
    model = create_model("resnet20")
    remember(model, CAFFE)

    save_pretrained(model, tmp_path)

    assert preprocessing(from_pretrained(tmp_path)) == CAFFE
    config = json.loads((tmp_path / "config.json").read_text())
    assert [round(255 * mean) for mean in config["pretrained_cfg"]["mean"]] == [123, 117, 104]


def test_files_are_what_the_hub_expects(tmp_path: Path) -> None:
    save_pretrained(create_model("se_resnet20", num_classes=7), tmp_path / "new" / "folder")

    folder = tmp_path / "new" / "folder"
    config = json.loads((folder / "config.json").read_text())
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        facts = json.loads(weights.metadata().pop("senet"))
        assert (weights.metadata()["format"], facts["blocks"]) == ("pt", ["avg, sigmoid"])
        assert weights.get_slice("linear.weight").get_shape() == [7, 64]
    assert config["architecture"] == "se_resnet20"
    assert config["num_classes"] == 7
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert card.data.library_name == "senet"
    assert card.data.pipeline_tag == "image-classification"
    assert "# se_resnet20" in card.text


def test_own_card_and_another_network_in_the_folder(tmp_path: Path) -> None:
    save_pretrained(changed("resnet20"), tmp_path)
    (tmp_path / "README.md").write_text("mine")

    save_pretrained(create_model("se_resnet20"), tmp_path)

    assert (tmp_path / "README.md").read_text() == "mine"
    assert not (tmp_path / "senet.json").exists()
    assert origin_of(from_pretrained(tmp_path)).name == "se_resnet20"


@pytest.mark.parametrize("name", ["se_resnet20", "se_mobilenet_v1", "timm/resnet10t"])
def test_timm_reads_the_folder(name: str, tmp_path: Path) -> None:
    register_with_timm()
    options = {"se": {"reduction": 8}} if name.startswith("se_") else {}
    model = create_model(name, num_classes=5, in_chans=1, **options).eval()
    x = torch.randn(1, 1, 32, 32)

    save_pretrained(model, tmp_path)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()

    assert torch.equal(theirs(x), model(x))


# ---- what cannot be


def test_network_of_another_origin() -> None:
    with pytest.raises(ConfigError, match=r"one that senet.create_model built"):
        save_pretrained(nn.Linear(2, 2), "nowhere")
    assert not Path("nowhere").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json must be there, as senet.save_pre"),
        (lambda f: (f / "config.json").write_text("{"), "has no part for senet; weights of other"),
        (lambda f: (f / "config.json").write_text('{"senet": {"format": "senet.hub/9"}}'),
         "must have the format 'senet.hub/1', has 'senet.hub/9'"),
        (lambda f: (f / "model.safetensors").unlink(), "must be a whole safetensors file with"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 99), "weights of resnet20, but: "),
        (lambda f: save_pretrained(create_model("resnet20", num_classes=3), f / "other")
         or (f / "other" / "model.safetensors").replace(f / "model.safetensors"),
         "size mismatch for linear"),
    ],
    ids=["no config", "broken config", "version", "no weights", "broken weights", "other weights"],
)  # fmt: skip
def test_spoilt_folders(spoil: Any, message: str, tmp_path: Path) -> None:
    save_pretrained(create_model("resnet20"), tmp_path)
    spoil(tmp_path)

    with pytest.raises(DataError, match=message) as caught:
        from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


# ---- the Hub


def test_repository_is_fetched_with_what_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_pretrained(create_model("resnet20"), tmp_path)
    asked: dict[str, Any] = {}

    def fetch(repository: str, **options: Any) -> str:
        asked.update(options, repository=repository)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)

    model = from_pretrained("me/net", revision="v1", token="t", cache_dir="c")

    assert origin_of(model).name == "resnet20"
    assert asked["repository"] == "me/net"
    assert (asked["revision"], asked["token"], asked["cache_dir"]) == ("v1", "t", "c")
    assert set(asked["allow_patterns"]) == CHANGED - {"README.md"}


def test_offline_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nobody/net must be a folder, a repository in") as caught:
        from_pretrained("nobody/net", cache_dir=tmp_path, local_files_only=True)

    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


# ---- whole or not at all


def outputs(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return from_pretrained(folder)(torch.ones(1, 3, 32, 32))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


BEFORE = [lambda: changed("resnet20"), lambda: create_model("se_resnet20")]
AFTER = [lambda: create_model("resnet32"), lambda: changed("se_resnet20", SEConfig(existing="add"))]


@pytest.mark.parametrize("at", range(8))
@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("after", AFTER)
def test_a_save_that_fails_leaves_what_was_there(
    at: int, before: Any, after: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every rename of a whole save fails once: those of the writer, and those into the folder."""
    save_pretrained(before(), tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    there, expected, model = files(tmp_path), outputs(tmp_path), after()
    renames, replace = [0], Path.replace

    def fail(self: Path, target: Path) -> Path:
        renames[0] += 1
        if renames[0] == at + 1:
            raise OSError(28, "No space left on device", str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    try:
        save_pretrained(model, tmp_path)
    except OSError:
        monkeypatch.undo()
        assert files(tmp_path) == there
        assert torch.equal(outputs(tmp_path), expected)
    else:
        assert renames[0] <= at  # the save has fewer of them
        monkeypatch.undo()
        assert origin_of(from_pretrained(tmp_path)) == origin_of(model)


def test_a_save_that_fails_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("senet.models.hub.write_text", fail)
    with pytest.raises(OSError, match="No space left"):
        save_pretrained(create_model("resnet20"), tmp_path / "new" / "folder")
    assert not [*tmp_path.iterdir()]


def test_views_of_one_buffer_are_written(tmp_path: Path) -> None:
    from torch.nn.utils import parameters_to_vector, vector_to_parameters

    model = create_model("resnet20").eval()
    vector = parameters_to_vector(model.parameters()).detach().clone()
    vector_to_parameters(vector, model.parameters())
    x = torch.ones(1, 3, 32, 32)

    save_pretrained(model, tmp_path)

    assert torch.equal(outputs(tmp_path), model(x).detach())


def test_files_can_be_read_by_whom_the_umask_allows_and_say_nothing_private(
    tmp_path: Path,
) -> None:
    import os

    before = os.umask(0o022)
    try:
        save_pretrained(changed("resnet20"), tmp_path / "net")
    finally:
        os.umask(before)

    for path in (tmp_path / "net").iterdir():
        assert path.stat().st_mode & 0o777 == 0o644, path.name
        assert str(tmp_path).encode() not in path.read_bytes()


def test_a_file_that_timm_read_is_not_recorded(tmp_path: Path) -> None:
    model = create_model("timm/resnet10t", num_classes=4)
    model.pretrained_cfg = {**model.pretrained_cfg, "file": str(tmp_path / "secret.pth")}

    save_pretrained(model, tmp_path / "net")

    assert "secret" not in (tmp_path / "net" / "config.json").read_text()
