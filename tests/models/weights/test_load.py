"""Other libraries' weights into these networks: the same outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from networks import (
    PAIRS,
    animated,
    outputs,
    saved,
    with_classes,
)
from safetensors.torch import save_file
from torch import nn

import senet
from senet.models.weights import load_weights, preprocessing


@pytest.mark.parametrize("name", PAIRS)
def test_outputs_equal_those_of_timm(name: str, tmp_path: Path) -> None:
    theirs, ours = (build() for build in PAIRS[name])
    animated(theirs)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)[..., : 32 if "154" in name else 64]

    report = load_weights(ours, saved(theirs, tmp_path / "net.pth"))

    expected = outputs(theirs, x)
    assert expected.std() > 0.01
    torch.testing.assert_close(outputs(ours, x), expected, rtol=1e-10, atol=1e-10)
    assert report.layout == ("authors" if name.startswith("legacy") else "torchvision")
    assert all(key.endswith("num_batches_tracked") for key in report.ignored)


@pytest.mark.parametrize(
    ("theirs", "ours", "layout"),
    [
        ("legacy_seresnet50", "se_resnet50", "authors"),
        ("legacy_seresnext101_32x4d", "se_resnext101_32x4d", "authors"),
        ("legacy_senet154", "senet154", "authors"),
        ("seresnet50", "se_resnet50", "torchvision"),
        ("seresnext101_32x4d", "se_resnext101_32x4d", "torchvision"),
        ("senet154", "senet154", "torchvision"),
        ("resnet50", "resnet50", "torchvision"),
        ("resnet18", "se_resnet18", "torchvision"),
    ],
)
def test_whole_networks_of_timm_have_their_place(theirs: str, ours: str, layout: str) -> None:
    from senet.models.weights.matching import match
    from senet.models.weights.source import Source
    from senet.models.weights.strides import check_layout

    with torch.device("meta"):
        source = Source(theirs, timm.create_model(theirs).state_dict(), layout=layout)
        model = senet.create_model(ours, layout=layout)
    check_layout(model, source)
    matched = match(model, source)

    counters = {key for key in model.state_dict() if key.endswith("num_batches_tracked")}
    absent = {
        key
        for key in model.state_dict()
        if any(key.startswith(f"{path}.") for path in matched.absent_se)
    }
    assert set(matched.tensors) - counters == set(model.state_dict()) - counters - absent
    assert bool(absent) == (ours.startswith("se") and "se" not in theirs)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module.", "model."])
def test_prefixes_and_nesting_of_training_programs(prefix: str, tmp_path: Path) -> None:
    source, model = animated(with_classes(10)), with_classes(10)
    state = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state, "best": 0.5}, tmp_path / "net.pth")

    load_weights(model, tmp_path / "net.pth")

    assert torch.equal(model.get_parameter("fc.bias"), source.get_parameter("fc.bias"))


def test_auxiliary_classifiers_are_ignored(tmp_path: Path) -> None:
    source, model = animated(with_classes(10)), with_classes(10)
    extra = {"AuxLogits.fc.bias": torch.ones(3), "aux1.bn.bias": torch.ones(1)}
    save_file({**source.state_dict(), **extra}, tmp_path / "net.safetensors")

    report = load_weights(model, tmp_path / "net.safetensors")

    assert sorted(report.ignored) == ["AuxLogits.fc.bias", "aux1.bn.bias"]
    assert report.tensors == len(source.state_dict())


def test_half_precision_becomes_the_type_of_the_network(tmp_path: Path) -> None:
    source, model = animated(with_classes(10)).half(), with_classes(10)
    load_weights(model, saved(source, tmp_path / "net.pth"))

    assert model.get_parameter("fc.bias").dtype == torch.float32
    assert torch.equal(model.get_parameter("fc.bias"), source.get_parameter("fc.bias").float())


def test_what_is_told(tmp_path: Path) -> None:
    theirs, ours = (build() for build in PAIRS["legacy_seresnet"])
    path = saved(theirs, tmp_path / "net.pth")

    assert str(load_weights(ours, path)).split("\n") == [
        f"{path}: {len(ours.state_dict())} tensors loaded",
        "layout: authors",
        "sha256: not known, not compared",
        "images: shorter side 256 (bilinear), crop 224; RGB in [0, 1], mean 0.485 0.456 0.406, "
        "std 0.229 0.224 0.225",
    ]
    assert preprocessing(ours).mean == (0.485, 0.456, 0.406)


def test_the_published_resnet20(shared_data: Path) -> None:
    """1,000 of the test images; all 10,000 give 81.03 %: benchmarks/results/cifar10_*.json."""
    from io import BytesIO

    import pyarrow.parquet as pq
    from PIL import Image

    model = senet.create_model("resnet20")
    report = load_weights(model, shared_data / "weights" / "resnet20-12fca82f.th")
    rows = pq.read_table(shared_data / "cifar10" / "test.parquet").slice(0, 1000).to_pylist()
    transform = preprocessing(model).transform()
    images = torch.stack([transform(Image.open(BytesIO(row["image"]["bytes"]))) for row in rows])
    labels = torch.tensor([row["label"] for row in rows])
    with torch.no_grad():
        right = int((model.eval()(images).argmax(1) == labels).sum())

    assert report.sha256 is not None
    assert report.sha256.startswith("12fca82f")
    assert abs(right - 820) <= 2  # JPEG decoders may differ in a bit


@pytest.mark.parametrize("integration", ["standard", "identity", "inner"])
def test_a_whole_network_with_inserted_blocks(integration: str, tmp_path: Path) -> None:
    def changed() -> nn.Module:
        net = torchvision.models.resnet18(num_classes=10).eval()
        senet.insert(net, torch.zeros(1, 3, 64, 64), senet.SEConfig(integration=integration))
        for parameter in senet.se_parameters(net).se:
            nn.init.normal_(parameter)
        return net

    net, other = changed(), changed()
    torch.save(net, tmp_path / "whole.pth")
    report = senet.load_weights(other, tmp_path / "whole.pth")
    assert not report.ignored
    for name, value in net.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(other.state_dict()[name], value), name
