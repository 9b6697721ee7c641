"""Hubs: their caches, and one clear line where they cannot be reached."""

from __future__ import annotations

import json
import re
import socket
import time
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from safetensors.torch import save_file

import senet
from senet.errors import DataError, UnknownNameError
from senet.models import ResNet
from senet.models.weights import load_weights, preprocessing
from senet.models.weights.hubs import read_source

ONE = (1, 1, 1, 1)


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No sockets, and empty caches."""

    def refuse(*args: Any, **options: Any) -> NoReturn:
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the client's attempts
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "torch"))
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hf"))
    return tmp_path


@pytest.mark.parametrize("mode", ["no sockets", "HF_HUB_OFFLINE"])
@pytest.mark.parametrize(
    ("source", "host"),
    [
        ("hf://timm/seresnet50.a1_in1k", r"huggingface\.co"),
        ("timm/seresnet50", r"huggingface\.co"),
        ("timm/legacy_seresnet50.in1k", "github|huggingface"),
        ("torchvision/resnet50", r"download\.pytorch\.org"),
        ("torchvision/resnet50.IMAGENET1K_V1", r"download\.pytorch\.org"),
    ],
)
def test_offline_is_one_clear_line(
    source: str, host: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mode == "HF_HUB_OFFLINE":
        import huggingface_hub.constants as hub

        monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    model = torch.nn.Linear(2, 2)

    with pytest.raises(DataError) as caught:
        load_weights(model, source)

    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{source} must be in the cache or be fetched from ")
    assert str(caught.value).endswith("connect to the network, or give the path of a file")
    assert re.search(host, str(caught.value))


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("timm/seresnet5", UnknownNameError, "unknown timm model 'seresnet5'; did you mean: .*50"),
        ("timm/seresnet18", DataError, "must have published weights, but timm knows of none"),
        ("torchvision/resnet51", UnknownNameError, "unknown torchvision model 'resnet51'"),
        ("torchvision/resnet50.V3", UnknownNameError, "unknown torchvision weights 'V3'"),
        ("hf://resnet50", DataError, r"must be hf://OWNER/REPOSITORY\[@REVISION\]\[/FILE\]"),
    ],
)
def test_names_that_no_hub_has(source: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_source(source)


def repository(cache: Path, name: str, files: dict[str, bytes], *, sums: bool = False) -> None:
    """A repository in the cache of huggingface_hub, as its client lays it out."""
    import hashlib

    folder = cache / "hf" / f"models--{name.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "blobs").mkdir()
    snapshot = folder / "snapshots" / commit
    for file, data in files.items():
        blob = folder / "blobs" / hashlib.sha256(data).hexdigest()
        blob.write_bytes(data + (b"x" if sums else b""))
        (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / file).symlink_to(blob)


def resnet(layout: str = "torchvision") -> ResNet:
    se = {"reduction": 16}
    return ResNet(depths=ONE, stride_first=True, layout=layout, num_classes=10, se=se)


def in_bytes(model: torch.nn.Module, folder: Path) -> bytes:
    save_file(model.state_dict(), folder / "made.safetensors")
    return (folder / "made.safetensors").read_bytes()


TIMM = {
    "architecture": "seresnet50",
    "pretrained_cfg": {
        "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1], "input_size": [3, 160, 160],
        "crop_pct": 0.95, "interpolation": "bicubic",
    },
}  # fmt: skip


def test_a_repository_in_the_cache(offline: Path) -> None:
    source, model = resnet(), resnet()
    files = {
        "model.safetensors": in_bytes(source, offline),
        "config.json": json.dumps(TIMM).encode(),
    }
    repository(offline, "somebody/seresnet", files)

    report = load_weights(model, "hf://somebody/seresnet")

    assert torch.equal(model.get_parameter("conv1.weight"), source.get_parameter("conv1.weight"))
    assert report.sha256 is not None  # the name of a large file in the cache
    assert report.layout == "torchvision"
    wanted = preprocessing(model)
    assert (wanted.mean, wanted.crop, wanted.resize) == ((0.5, 0.4, 0.3), 160, 168)
    assert wanted.interpolation == "bicubic"
    with pytest.raises(DataError, match=r"Build the network with layout='torchvision'"):
        load_weights(resnet("authors"), "hf://somebody/seresnet")


def test_a_repository_of_no_library(offline: Path) -> None:
    source, model = resnet(), resnet()
    torch.save(source.state_dict(), offline / "made.pth")
    repository(offline, "somebody/net", {"sub/net.pth": (offline / "made.pth").read_bytes()})

    report = load_weights(model, "hf://somebody/net@main/sub/net.pth")

    assert report.layout is None
    assert report.preprocessing is None
    assert torch.equal(model.get_parameter("fc.bias"), source.get_parameter("fc.bias"))


def test_a_broken_file_in_the_cache(offline: Path) -> None:
    files = {"model.safetensors": in_bytes(resnet(), offline)}
    repository(offline, "somebody/net", files, sums=True)

    with pytest.raises(DataError, match="must have a sha256 that begins with"):
        load_weights(resnet(), "hf://somebody/net")


def test_a_file_in_the_cache_of_torch_hub(offline: Path) -> None:
    """torchvision's name, torchvision's url, a file of the right name: its sum is compared."""
    folder = offline / "torch" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(resnet().state_dict(), folder / "resnet50-0676ba61.pth")

    with pytest.raises(DataError, match="must have a sha256 that begins with 0676ba61"):
        load_weights(resnet(), "torchvision/resnet50.IMAGENET1K_V1")


def test_files_that_torchvision_publishes_are_known_by_name(
    offline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = offline / "resnet50-0676ba61.pth"
    model = ResNet(depths=ONE, stride_first=True, num_classes=10)
    torch.save(model.state_dict(), path)
    from senet.models.weights import source as sources

    monkeypatch.setattr(sources, "check_sha256", lambda path, expected: expected)

    with pytest.raises(DataError, match="was trained in the layout 'torchvision'"):
        load_weights(model, path)
    report = load_weights(
        ResNet(depths=ONE, layout="torchvision", num_classes=10, stride_first=True), path
    )
    assert report.preprocessing is not None
    assert (report.preprocessing.resize, report.preprocessing.crop) == (256, 224)


def test_a_local_file_comes_before_a_hub(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(offline)
    (offline / "timm").mkdir()
    model = senet.create_model("resnet20")
    torch.save(model.state_dict(), offline / "timm" / "resnet50")

    assert load_weights(model, "timm/resnet50").tensors == len(model.state_dict())
