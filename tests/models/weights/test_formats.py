"""Files of weights are data: read whole, or refused by name; nothing in them is run."""

from __future__ import annotations

import os
import pickle
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from senet.errors import ConfigError, DataError
from senet.models import CifarResNet
from senet.models.weights import load_weights
from senet.models.weights.formats import check_sha256, kind_of, sha256_in_name

Made = Callable[[Path], object]


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


def zipped(*names: str) -> Made:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"x")

    return write


def tarred(mode: str) -> Made:
    def write(path: Path) -> None:
        with tarfile.open(path, mode) as archive:
            archive.add(__file__, "storages")

    return write


def holding(data: bytes) -> Made:
    return lambda path: path.write_bytes(data + bytes(64))


@pytest.mark.parametrize(
    ("name", "write", "what"),
    [
        ("net.pdparams", holding(pickle.dumps({"w": 1}, 4)), "a file of PaddlePaddle: save"),
        ("net-0000.params", holding((0x112).to_bytes(8, "little")), "a file of MXNet: save"),
        ("net.bin", holding((0x112).to_bytes(8, "little")), "a file of MXNet: save"),
        ("net.npz", zipped("conv1/kernel.npy"), r"arrays of NumPy \(.npz\), as of JAX and Flax"),
        ("net.npy", holding(b"\x93NUMPY"), "an array of NumPy: save"),
        ("net.msgpack", holding(b"\x83"), "a file of Flax: save"),
        ("net.h5", holding(b"\x89HDF\r\n\x1a\n"), "an HDF5 file, as Keras writes"),
        ("net.keras", zipped("config.json", "model.weights.h5"), "a network of Keras"),
        ("net.ckpt.data-00000-of-00001", holding(b"xyz"), "a TensorFlow checkpoint or graph"),
        ("checkpoint", holding(b'model_checkpoint_path: "net"'), "index of a TensorFlow"),
        ("net.onnx", holding(b"\x08\x08\x12"), "an ONNX graph: take the weights it was exp"),
        ("net.tflite", holding(b"\x1c\0\0\0TFL3"), "a network for TensorFlow Lite"),
        ("net.t7", holding(b"\x04\0\0\0\x01\0\0\0"), "a file of Lua Torch"),
        ("net.zip", zipped("a/w.pth", "a/x.txt"), "a zip archive with a/w.pth inside: unpack it"),
        ("net.zip", zipped("a.txt"), r"a zip archive of other things \(a.txt\)"),
        ("net.pt", zipped("net/data.pkl", "net/constants.pkl"), "a TorchScript archive, which is"),
        ("net.pth.gz", holding(b"\x1f\x8b\x08"), "compressed with gzip: unpack it"),
        ("net.pth", tarred("w"), "a tar archive: unpack it"),
        ("net.pth", tarred("w:gz"), "a tar archive: unpack it"),
        ("model.safetensors.index.json", holding(b'{"weight_map": {}}'), "JSON text: give the"),
        ("net.yaml", holding(b"model: resnet"), "text: give the file with the tensors"),
    ],
)
def test_foreign_files_are_called_what_they_are(
    name: str, write: Made, what: str, tmp_path: Path
) -> None:
    write(tmp_path / name)
    refused(tmp_path / name, f"must hold weights, but is .*{what}")
    with pytest.raises(DataError) as caught:
        kind_of(tmp_path / name)
    assert not re.search("cut off|broken|again", str(caught.value))
    assert "\n" not in str(caught.value)


def test_a_pickle_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(pickle.dumps({"conv1.weight": np.ones(3)}))
    refused(path, "must be a file of torch.save, but is a pickle of another program; save its")


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
