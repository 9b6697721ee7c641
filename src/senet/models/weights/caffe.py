"""Reads the layers of a Caffe model: their names and their blobs, without Caffe.

A `.caffemodel` is one protobuf message, NetParameter. Its layers are read one at a time out of the
mapped file, so that no more than a layer is in memory beside the tensors. Of the messages, the
fields that are needed are described here; the packed floats of a blob are declared as bytes, which
is the same on disk and spares a Python object for each number.

Source: src/caffe/proto/caffe.proto of github.com/BVLC/caffe (field names and numbers).
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from senet.errors import DataError

__all__ = ["CaffeLayer", "read_layers"]

# (field, number, type), for the types of a protobuf field that occur; "[]" is a repeated field.
_MESSAGES: dict[str, tuple[tuple[str, int, str], ...]] = {
    "BlobShape": (("dim", 1, "int64[]"),),
    "BlobProto": (
        ("num", 1, "int32"),
        ("channels", 2, "int32"),
        ("height", 3, "int32"),
        ("width", 4, "int32"),
        ("data", 5, "bytes[]"),  # float, packed
        ("shape", 7, "BlobShape"),
        ("double_data", 8, "bytes[]"),  # double, packed
    ),
    "BatchNormParameter": (("eps", 3, "float"),),
    "LayerParameter": (
        ("name", 1, "string"),
        ("type", 2, "string"),
        ("blobs", 7, "BlobProto[]"),
        ("batch_norm_param", 139, "BatchNormParameter"),
    ),
    # Its type is an enum, and is not needed: it has no batch norm.
    "V1LayerParameter": (("name", 4, "string"), ("blobs", 6, "BlobProto[]")),
}
_LEGACY_SHAPE = ("num", "channels", "height", "width")
# The fields of NetParameter that hold layers: number -> message.
_LAYERS = {2: "V1LayerParameter", 100: "LayerParameter"}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LARGEST_FIELD = 1000  # NetParameter ends at 100


class CaffeLayer(NamedTuple):
    """One layer that holds numbers: its name, its type ("" in the old format), blobs, epsilon."""

    name: str
    kind: str
    blobs: tuple[Tensor, ...]
    eps: float | None


def read_layers(path: Path) -> Iterator[CaffeLayer]:
    """Yield the layers of a `.caffemodel` that have blobs, in the order of the file.

    Args:
        path: the file, of either generation (`layers` or `layer`, four legacy sizes or `shape`).

    Raises:
        DataError: the file is cut off, broken, or no Caffe model.
    """
    from google.protobuf.message import DecodeError

    with path.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    found = False
    for number, start, end in _fields(data, path):
        if number not in _LAYERS:
            continue
        found = True
        message = _classes()[_LAYERS[number]]()
        try:
            message.ParseFromString(data[start:end])
        except DecodeError as error:
            raise _broken(path, f"the layer at byte {start} cannot be decoded") from error
        if message.blobs:
            yield _layer(message, path)
    if not found:
        raise _broken(path, "it has no layers")


def _layer(message: Any, path: Path) -> CaffeLayer:
    blobs = tuple(
        _tensor(blob, f"blob {i} of layer {message.name!r}", path)
        for i, blob in enumerate(message.blobs)
    )
    current = hasattr(message, "batch_norm_param")
    eps = None
    if current and message.HasField("batch_norm_param"):
        eps = message.batch_norm_param.eps if message.batch_norm_param.HasField("eps") else None
    return CaffeLayer(message.name, message.type if current else "", blobs, eps)


def _tensor(blob: Any, where: str, path: Path) -> Tensor:
    """Return a blob as a tensor of its own memory, in float32."""
    chunks, dtype = (blob.data, torch.float32) if blob.data else (blob.double_data, torch.float64)
    raw = bytearray(b"".join(chunks))
    if blob.HasField("shape"):
        shape = list(blob.shape.dim)
    elif any(blob.HasField(name) for name in _LEGACY_SHAPE):
        shape = [getattr(blob, name) for name in _LEGACY_SHAPE]
    else:
        shape = [len(raw) // dtype.itemsize]
    if min(shape, default=1) < 1 or math.prod(shape) * dtype.itemsize != len(raw):
        raise _broken(
            path, f"{where} has the shape {shape} and {len(raw) / dtype.itemsize:g} numbers"
        )
    return torch.frombuffer(raw, dtype=dtype).reshape(shape).float()


def _fields(data: memoryview, path: Path) -> Iterator[tuple[int, int, int]]:
    """Yield (number, start, end) of each field of the outermost message."""
    at = 0
    while at < len(data):
        begin = at
        key, at = _varint(data, at, path)
        number, wire = key >> 3, key & 7
        if not 0 < number <= _LARGEST_FIELD:
            raise _broken(path, f"what stands at byte {begin} is no field of a network")
        if wire == _VARINT:
            _, end = _varint(data, at, path)
        elif wire == _BYTES:
            size, at = _varint(data, at, path)
            end = at + size
        elif wire in (_FIXED32, _FIXED64):
            end = at + (4 if wire == _FIXED32 else 8)
        else:
            raise _broken(path, f"what stands at byte {begin} is no field of a network")
        if end > len(data):
            raise _broken(
                path,
                f"the field at byte {begin} ends at byte {end}, and the file has {len(data)}: "
                "it is cut off",
            )
        yield number, at, end
        at = end


def _varint(data: memoryview, at: int, path: Path) -> tuple[int, int]:
    """Return the number at a position, and the position behind it."""
    value = 0
    for i in range(10):
        if at + i >= len(data):
            raise _broken(path, f"it is cut off within a number at byte {at}")
        value |= (data[at + i] & 0x7F) << (7 * i)
        if data[at + i] < 0x80:
            return value, at + i + 1
    raise _broken(path, f"what stands at byte {at} is no number")


def _broken(path: Path, what: str) -> DataError:
    return DataError(f"{path} must be a whole .caffemodel, but {what}; fetch or copy it again")


@cache
def _classes() -> dict[str, Any]:
    """Return the message classes by name, built from `_MESSAGES`."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="senet_caffe.proto", package="senet.caffe", syntax="proto2"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            base = kind.removesuffix("[]")
            label = kinds.LABEL_OPTIONAL if kind == base else kinds.LABEL_REPEATED
            added = message.field.add(name=field, number=number, label=label)
            if base in _MESSAGES:
                added.type, added.type_name = kinds.TYPE_MESSAGE, f".senet.caffe.{base}"
            else:
                added.type = getattr(kinds, f"TYPE_{base.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"senet.caffe.{name}"))
        for name in _MESSAGES
    }
