"""Files of weights are data: read whole, or refused by name; nothing in them is run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from senet.errors import ConfigError, DataError
from senet.models import CifarResNet
from senet.models.weights import load_weights
from senet.models.weights.formats import check_sha256, kind_of, read_torch, sha256_in_name


def network() -> CifarResNet:
    return CifarResNet(depth=8)


def written(path: Path, kind: str) -> Path:
    """Weights of a network in one of the formats."""
    state = network().state_dict()
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    return path


def refused(path: Path, message: str) -> None:
    model = network()
    before: dict[str, Tensor] = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(DataError, match=message):
        load_weights(model, path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("kind", ["zip", "pickle", "safetensors"])
def test_formats_are_told_by_their_content(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path / "weights", kind)  # no suffix
    assert kind_of(path) == ("safetensors" if kind == "safetensors" else "torch")
    assert load_weights(network(), path).tensors == len(network().state_dict())


@pytest.mark.parametrize("kind", ["zip", "pickle", "safetensors"])
@pytest.mark.parametrize("share", [0.0002, 0.005, 0.05, 0.5, 0.95, 0.9999])
def test_cut_off_files_are_named_as_such(kind: str, share: float, tmp_path: Path) -> None:
    path = written(tmp_path / "weights.pth", kind)
    data = path.read_bytes()
    path.write_bytes(data[: max(10, int(share * len(data)))])

    refused(path, r"weights\.pth must be a whole .*; fetch or copy it again")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "must hold weights, but is empty"),
        (b"<!DOCTYPE html><html>404</html>", "but is a page of a web server"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "but is a Git LFS pointer"),
        (b"GIF89a" + bytes(40), r"must be a \.safetensors, \.pth or \.caffemodel file, but begins"),
        (b"PK\x05\x06" + bytes(18), "must be a whole file of torch.save, but is cut off or broken"),
        (b"\x80\x02.", "must be a whole file of torch.save, but is cut off or broken"),
    ],
)
def test_files_that_are_something_else(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "net.bin"
    path.write_bytes(data)
    refused(path, message)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    refused(tmp_path / "gone.pth", r"gone\.pth must be a file that can be read: No such file")
    refused(tmp_path, "must be a file that can be read: Is a directory")


class Payload:
    """What a file of a stranger could hold: unpickled, it makes a file."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.made),)


@pytest.mark.parametrize("kind", ["zip", "pickle", "bare"])
def test_a_file_that_wants_to_run_code_is_refused(kind: str, tmp_path: Path) -> None:
    made, path = tmp_path / "made", tmp_path / "net.pth"
    content: dict[str, Any] = {"conv1.bias": Payload(made)}
    if kind == "bare":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")

    refused(path, r"must hold tensors only, but asks to run (posix|nt)\.mkdir; it was refused")
    assert not made.exists()
    # The payload is a real one: what unpickles without asking makes the folder.
    if kind == "bare":
        pickle.loads(path.read_bytes())  # noqa: S301
        assert made.is_dir()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "lr": 0.1}, r"must hold a state dict, .* but holds \['epoch', 'lr'\]"),
        ([torch.ones(2)], "must hold a state dict, names with tensors, but holds list"),
        ({}, r"but holds \[\]"),
    ],
)
def test_files_without_a_state_dict(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "net.pth")
    refused(tmp_path / "net.pth", message)


@pytest.mark.parametrize("entry", ["state_dict", "model_state_dict", "model", "net", "params"])
def test_entries_of_checkpoints(entry: str, tmp_path: Path) -> None:
    torch.save({"rate": torch.ones(1), entry: {"w": torch.zeros(2)}}, tmp_path / "net.pth")
    assert list(read_torch(tmp_path / "net.pth")) == ["w"]


def test_the_sum_in_a_name() -> None:
    names = {
        "resnet50-0676ba61.pth": "0676ba61",
        "net-0676ba6.pth": None,
        "net-20260101.pth": None,  # a date
        "net-0676ba61": None,
        "net-" + "ab" * 32 + ".safetensors": "ab" * 32,
    }
    assert {name: sha256_in_name(Path(name)) for name in names} == names


def test_sums_are_compared(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    whole = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of FIPS 180-2

    assert check_sha256(path, "BA7816BF") == check_sha256(path, whole) == whole
    with pytest.raises(DataError, match="sha256 that begins with ba7816be, has ba7816bf"):
        check_sha256(path, "ba7816be")
    for wrong in ("ba7816b", "ba7816bx", whole + "0"):
        with pytest.raises(ConfigError, match="must be 8 to 64 hexadecimal digits"):
            check_sha256(path, wrong)


def test_a_wrong_sum_in_the_name_or_the_option(tmp_path: Path) -> None:
    path = written(tmp_path / "net-0123abcd.pth", "zip")
    refused(path, "must have a sha256 that begins with 0123abcd")

    import hashlib

    right = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_weights(network(), path, sha256=right[:12]).sha256 == right  # over the name's
    plain = written(tmp_path / "net.pth", "zip")
    with pytest.raises(DataError, match=r"net\.pth must have a sha256 that begins with 0123abcd"):
        load_weights(network(), plain, sha256="0123abcd")
