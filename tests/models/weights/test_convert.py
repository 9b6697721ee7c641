"""senet convert: another library's file becomes one of ours, which says where it comes from."""

from __future__ import annotations

import json
from pathlib import Path

import caffe_net
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import senet
from senet.cli import main
from senet.errors import ConfigError, DataError
from senet.models.origin import Origin
from senet.models.weights import CAFFE, convert_weights, load_weights, preprocessing


@pytest.fixture(scope="module")
def caffemodel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = caffe_net.inception(classes=7)
    return caffe_net.write(net, tmp_path_factory.mktemp("caffe") / "SE-BN-Inception.caffemodel")


@pytest.fixture(scope="module")
def converted(caffemodel: Path) -> Path:
    """The same weights as a file of ours; which network they are of is found out."""
    out = caffemodel.parent / "new" / "net.safetensors"
    assert convert_weights(caffemodel, out) == "se_bn_inception"
    assert [path.name for path in out.parent.iterdir()] == ["net.safetensors"]
    return out


def test_a_caffe_model(caffemodel: Path, converted: Path) -> None:
    direct = senet.create_model("se_bn_inception", num_classes=7)
    model = senet.create_model("se_bn_inception", num_classes=7)
    load_weights(direct, caffemodel)

    report = load_weights(model, converted)

    assert report.layout == "authors"
    assert preprocessing(model) == CAFFE
    for name, tensor in direct.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    model.load_state_dict(load_file(converted))  # plain PyTorch reads it too


def test_what_the_file_says(converted: Path) -> None:
    with safe_open(converted, framework="pt") as file:
        facts = json.loads(file.metadata()["senet"])

    assert facts == {
        "format": "senet.weights/1",
        "model": "se_bn_inception",
        "network": Origin("se_bn_inception", 7, layout=None).to_dict(),
        "written": True,
        "plan": None,
        "blocks": ["avg, sigmoid"],
        "classes": None,
        "layout": "authors",
        "preprocessing": CAFFE.to_dict() | {k: list(getattr(CAFFE, k)) for k in ("mean", "std")},
        "source": "SE-BN-Inception.caffemodel",
        "sha256": None,
    }


@pytest.mark.parametrize("name", ["resnet32", "se_resnet18", "se_preact_resnet164"])
def test_networks_are_recognised(name: str, tmp_path: Path) -> None:
    torch.save(senet.create_model(name, num_classes=3).state_dict(), tmp_path / "net.pth")

    assert convert_weights(tmp_path / "net.pth", tmp_path / "net.safetensors") == name


def test_tensors_of_no_network(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "net.pth")
    out = tmp_path / "net.safetensors"
    with pytest.raises(DataError, match="its 1 tensors are of none; name the network"):
        convert_weights(tmp_path / "net.pth", out)
    with pytest.raises(DataError, match=r"conv1\.weight \[16, 3, 3, 3\] is missing"):
        convert_weights(tmp_path / "net.pth", out, model="resnet20")
    assert not out.exists()


def test_plain_weights_are_not_made_up_to_se(tmp_path: Path) -> None:
    torch.save(senet.create_model("resnet20").state_dict(), tmp_path / "net.pth")
    with pytest.raises(DataError, match="must have the SE blocks of se_resnet20, but has none"):
        convert_weights(tmp_path / "net.pth", tmp_path / "net.safetensors", model="se_resnet20")


def test_options_that_cannot_be(caffemodel: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must be called \*\.safetensors, got 'net.pth'"):
        convert_weights(caffemodel, tmp_path / "net.pth")
    with pytest.raises(ConfigError, match="must be a network of this project, got 'timm/resnet50'"):
        convert_weights(caffemodel, tmp_path / "net.safetensors", model="timm/resnet50")


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"format": "senet.weights/9"}, "must have the format 'senet.weights/1', has 'senet.we"),
        ({}, "has metadata that senet convert did not write"),
        ({"format": "senet.weights/1", "preprocessing": {"x": 1}}, "a preprocessing must have"),
        (None, "has metadata that senet convert did not write"),
    ],
)
def test_metadata_of_another_kind(facts: object, message: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "net.safetensors"
    model = senet.create_model("resnet20")
    save_file(model.state_dict(), path, metadata={"senet": json.dumps(facts)})
    with pytest.raises(DataError, match=message):
        load_weights(model, path)


def test_the_command(caffemodel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "net.safetensors"
    with pytest.raises(SystemExit) as ended:
        main(["convert", str(caffemodel), str(out), "--model", "se_bn_inception"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"{out}: weights of se_bn_inception; ")
    assert out.is_file()


def test_the_command_ends_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "net.caffemodel"
    broken.write_bytes(b"\x0a\x02SE\xa2\x06\x7f")
    with pytest.raises(SystemExit) as ended:
        main(["convert", str(broken), str(tmp_path / "net.safetensors")])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"senet: error: {broken} must be a whole .caffemodel")
    assert error.count("\n") == 1
