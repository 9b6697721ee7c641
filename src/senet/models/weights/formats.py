"""What a file of weights is, told by its first bytes; the sum that its name carries."""

from __future__ import annotations

import hashlib
import re
import tarfile
import zipfile
from pathlib import Path

from torch import Tensor

from senet.errors import ConfigError, DataError, first_line

__all__ = ["check_sha256", "kind_of", "read_safetensors", "sha256_in_name"]

_TO_TORCH = "save them as a state dict of PyTorch first, or look for the network in timm/NAME"
# First bytes of files that are not weights of PyTorch or Caffe: what the file is, and what to do.
_FOREIGN = {
    b"version https://git-lfs": "a Git LFS pointer: run `git lfs pull`",
    b"<": "a page of a web server, not the file: download it again",
    b"{": "JSON text: give the file with the tensors (of several shards, one after the other)",
    b"\x1f\x8b": "compressed with gzip: unpack it, and give what is inside",
    b"BZh": "compressed with bzip2: unpack it, and give what is inside",
    b"\xfd7zXZ": "compressed with xz: unpack it, and give what is inside",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it, and give what is inside",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive: unpack it, and give what is inside",
    b"Rar!": "a RAR archive: unpack it, and give what is inside",
    b"\x89HDF\r\n": f"an HDF5 file, as Keras writes: {_TO_TORCH}",
    b"\x93NUMPY": f"an array of NumPy: {_TO_TORCH}",
    b"\x12\x01\0\0\0\0\0\0": f"a file of MXNet: {_TO_TORCH}",
    b"model_checkpoint_path": f"the index of a TensorFlow checkpoint: {_TO_TORCH}",
    b"\x04\0\0\0\x01\0\0\0": f"a file of Lua Torch: {_TO_TORCH}",
}
# The same for files that are known by their names only.
_FOREIGN_NAMES = {
    r"\.(pdparams|pdopt|pdiparams|pdmodel)": f"a file of PaddlePaddle: {_TO_TORCH}",
    r"\.params": f"a file of MXNet: {_TO_TORCH}",
    r"\.(data-\d+-of-\d+|index|meta|pb)": f"a TensorFlow checkpoint or graph: {_TO_TORCH}",
    r"\.tflite": "a network for TensorFlow Lite: take the weights it was made from",
    r"\.(msgpack|flax)": f"a file of Flax: {_TO_TORCH}",
    r"\.onnx": "an ONNX graph: take the weights it was exported from",
    r"\.(prototxt|yaml|yml|py|md)": "text: give the file with the tensors",
}
_WEIGHTS_INSIDE = re.compile(r".*\.(pth|pt|th|bin|ckpt|tar|safetensors|caffemodel)")
_LARGEST_HEADER = 100_000_000  # of a safetensors file, by its specification


def kind_of(path: Path) -> str:
    """Return what a file is: "safetensors", "torch" or "caffe".

    Raises:
        DataError: there is no such file, it is empty, or it is something else: what, and what to
            do with it.
    """
    if (path / "senet.json").is_file():
        raise DataError(
            f"{path} must be a file of weights, but is a folder of senet.save; call "
            "senet.load(model, folder) with the plain base network"
        )
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(32)
    except OSError as error:
        raise DataError(f"{path} must be a file that can be read: {error.strerror}") from error
    if not size:
        raise DataError(f"{path} must hold weights, but is empty; fetch or copy it again")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LARGEST_HEADER:
        return "safetensors"
    foreign = _foreign(path, head)
    if foreign:
        raise DataError(f"{path} must hold weights, but is {foreign}")
    if head.startswith((b"PK", b"\x80")):  # a zip archive, or a bare pickle as before torch 1.6
        return "torch"
    if path.suffix == ".caffemodel" or head[:1] in (b"\x0a", b"\x12") or head[:2] == b"\xa2\x06":
        return "caffe"
    raise DataError(
        f"{path} must be a .safetensors, .pth or .caffemodel file, but begins with "
        f"{head[:8].hex(' ')}; fetch or copy it again"
    )


def _foreign(path: Path, head: bytes) -> str | None:
    """Return what a file is that no reader of this package takes, and what to do; or None."""
    if tarfile.is_tarfile(path):  # also a compressed one
        return "a tar archive: unpack it, and give the file with the tensors"
    for start, meaning in _FOREIGN.items():
        if head.startswith(start):
            return meaning
    for ending, meaning in _FOREIGN_NAMES.items():
        if re.fullmatch(f".*{ending}", path.name.lower()):
            return meaning
    return _foreign_zip(path) if head.startswith(b"PK") else None


def _foreign_zip(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return None  # cut off: the reader of torch's files says so
    inside = next((name for name in names if _WEIGHTS_INSIDE.fullmatch(name)), None)
    if any(name.rpartition("/")[2] == "constants.pkl" for name in names):
        return (
            "a TorchScript archive, which is a program: save torch.jit.load(file).state_dict() "
            "with torch.save, if you trust where it comes from"
        )
    if not names or any(name.rpartition("/")[2] == "data.pkl" for name in names):
        return None
    if all(name.endswith(".npy") for name in names):
        return f"a set of arrays of NumPy (.npz), as of JAX and Flax: {_TO_TORCH}"
    if "model.weights.h5" in names:
        return f"a network of Keras: {_TO_TORCH}"
    if inside is not None:
        return f"a zip archive with {inside} inside: unpack it, and give that file"
    return f"a zip archive of other things ({', '.join(names[:3])})"


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file, mapped from the disk, and its metadata.

    Raises:
        DataError: the file is cut off or broken.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{path} must be a whole safetensors file: {first_line(error)[:200]}; fetch or copy it "
            "again"
        ) from error


def sha256_in_name(path: Path) -> str | None:
    """Return the head of the sha256 that a file name carries as on torch's hub, else None.

    Example:
        >>> sha256_in_name(Path("resnet20-12fca82f.th")), sha256_in_name(Path("run-20260101.pth"))
        ('12fca82f', None)
    """
    match = re.search(r"-([0-9a-f]{8,64})\.", path.name)
    # Digits alone are a date or a number of steps more often than the head of a sum.
    return None if match is None or match[1].isdigit() else match[1]


def check_sha256(path: Path, expected: str) -> str:
    """Return the sha256 of a file whose sum must begin with `expected`.

    Raises:
        ConfigError: `expected` is not the head of a sum.
        DataError: the file has another sum.
    """
    if not re.fullmatch(r"[0-9a-fA-F]{8,64}", expected):
        raise ConfigError(f"sha256 must be 8 to 64 hexadecimal digits, got {expected!r}")
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if not actual.startswith(expected.lower()):
        raise DataError(
            f"{path} must have a sha256 that begins with {expected}, has "
            f"{actual[: len(expected)]}: it is cut off, broken or another file; fetch it again, or "
            "rename it if it is yours"
        )
    return actual
