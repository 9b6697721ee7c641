"""Reads the layers of a Caffe model: their names and their blobs, without Caffe.

A `.caffemodel` is one protobuf message, NetParameter. Its layers are read one at a time out of the
mapped file, so that no more than a layer is in memory beside the tensors. Of protobuf, the wire
format alone is needed: a message is a sequence of fields, each with its number and its bytes.

Sources: src/caffe/proto/caffe.proto of github.com/BVLC/caffe (field names and numbers);
protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping
from operator import index
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from senet.errors import DataError

__all__ = ["CaffeLayer", "read_layers"]


class _Layout(NamedTuple):
    """The numbers of the fields of a layer message; None: it has no such field."""

    name: int
    blobs: int
    kind: int | None = None
    batch_norm: int | None = None


# Fields of NetParameter that hold layers: the old format (V1LayerParameter, whose type is an enum
# and is not needed) and the new one (LayerParameter).
_LAYERS = {2: _Layout(name=4, blobs=6), 100: _Layout(name=1, blobs=7, kind=2, batch_norm=139)}
# Fields of BlobProto: `num`, `channels`, `height`, `width` (the old shape), then the others.
_LEGACY_SHAPE, _FLOATS, _SHAPE, _DOUBLES = (1, 2, 3, 4), 5, 7, 8
_DIM, _EPS = 1, 3  # of BlobShape, of BatchNormParameter
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LARGEST_FIELD = 1000  # NetParameter ends at 100, a layer at 149


class CaffeLayer(NamedTuple):
    """One layer that holds numbers: its name, its type ("" in the old format), blobs, epsilon."""

    name: str
    kind: str
    blobs: tuple[Tensor, ...]
    eps: float | None


class _BrokenError(Exception):
    """What is wrong with the bytes of a message."""


def read_layers(path: Path) -> Iterator[CaffeLayer]:
    """Yield the layers of a `.caffemodel` that have blobs, in the order of the file.

    Args:
        path: the file, of either generation (`layers` or `layer`, four legacy sizes or `shape`).

    Raises:
        DataError: the file is cut off, broken, or no Caffe model.
    """
    with path.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    layers = 0
    try:
        for number, start, content in _fields(data):
            if number not in _LAYERS or not isinstance(content, memoryview):
                continue
            layers += 1
            layer = _layer(content, start, _LAYERS[number])
            if layer.blobs:
                yield layer
        if not layers:
            raise _BrokenError("it has no layers")
    except _BrokenError as error:
        raise DataError(
            f"{path} must be a whole .caffemodel, but {error}; fetch or copy it again"
        ) from error


def _layer(data: memoryview, start: int, layout: _Layout) -> CaffeLayer:
    eps = None
    try:
        fields = _message(data)
        name, kind = (
            b"".join(fields[number]).decode() if number else ""
            for number in (layout.name, layout.kind)
        )
        parts = [_blob(_message(blob)) for blob in fields[layout.blobs]]
        for norm in fields[layout.batch_norm] if layout.batch_norm else ():
            for value in _message(norm)[_EPS]:
                (eps,) = struct.unpack("<f", value)
    except (_BrokenError, UnicodeDecodeError, TypeError, struct.error) as error:
        # a TypeError: a number stands where bytes must be, or the other way round
        raise _BrokenError(f"the layer at byte {start} cannot be decoded") from error
    blobs = [_tensor(*part, f"blob {i} of layer {name!r}") for i, part in enumerate(parts)]
    return CaffeLayer(name, kind, tuple(blobs), eps)


def _blob(fields: Mapping[int, list[Any]]) -> tuple[list[int], bytearray, torch.dtype]:
    """Return shape, raw numbers and their type of a BlobProto."""
    number, dtype = (_FLOATS, torch.float32) if fields[_FLOATS] else (_DOUBLES, torch.float64)
    raw = bytearray(b"".join(fields[number]))
    shape = [dim for each in fields[_SHAPE] for dims in _message(each)[_DIM] for dim in _dims(dims)]
    if not fields[_SHAPE]:
        shape = [len(raw) // dtype.itemsize]
        if any(fields[size] for size in _LEGACY_SHAPE):
            shape = [index(fields[size][-1]) if fields[size] else 0 for size in _LEGACY_SHAPE]
    return shape, raw, dtype


def _dims(value: int | memoryview) -> list[int]:
    """Return one number, or several that are packed into one field."""
    if isinstance(value, int):
        return [value]
    values, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        values.append(number)
    return values


def _tensor(shape: list[int], raw: bytearray, dtype: torch.dtype, where: str) -> Tensor:
    """Return a blob as a tensor of its own memory, in float32."""
    if min(shape, default=1) < 1 or math.prod(shape) * dtype.itemsize != len(raw):
        numbers = len(raw) / dtype.itemsize
        raise _BrokenError(f"{where} has the shape {shape} and {numbers:g} numbers")
    return torch.frombuffer(raw, dtype=dtype).reshape(shape).float()


def _message(data: memoryview) -> Mapping[int, list[Any]]:
    """Return field number -> contents, in the order of the message."""
    fields: dict[int, list[Any]] = defaultdict(list)
    for number, _, content in _fields(data):
        fields[number].append(content)
    return fields


def _fields(data: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Yield (number, position, content) of each field of a message."""
    at = 0
    while at < len(data):
        begin = at
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if not 0 < number <= _LARGEST_FIELD or wire not in (_VARINT, _FIXED64, _BYTES, _FIXED32):
            raise _BrokenError(f"what stands at byte {begin} is no field of a network")
        if wire == _VARINT:
            value, end = _varint(data, at)
            yield number, at, value
        else:
            size = {_FIXED32: 4, _FIXED64: 8}.get(wire)
            if size is None:
                size, at = _varint(data, at)
            end = at + size
            if end > len(data):
                raise _BrokenError(
                    f"the field at byte {begin} ends at byte {end}, and the file has {len(data)}: "
                    "it is cut off"
                )
            yield number, at, data[at:end]
        at = end


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return the number at a position, and the position behind it."""
    value = 0
    for i in range(10):
        if at + i >= len(data):
            raise _BrokenError(f"it is cut off within a number at byte {at}")
        value |= (data[at + i] & 0x7F) << (7 * i)
        if data[at + i] < 0x80:
            return value, at + i + 1
    raise _BrokenError(f"what stands at byte {at} is no number")
