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
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

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
    name, kind, eps = "", "", None
    messages: list[memoryview] = []
    try:
        for number, _, content in _fields(data):
            if number == layout.name:
                name = bytes(_message(content)).decode()
            elif number == layout.kind:
                kind = bytes(_message(content)).decode()
            elif number == layout.blobs:
                messages.append(_message(content))
            elif number == layout.batch_norm:
                for inner, _, value in _fields(_message(content)):
                    if inner == _EPS:
                        (eps,) = struct.unpack("<f", _message(value))
        parts = [_blob(message) for message in messages]
    except (_BrokenError, UnicodeDecodeError, struct.error) as error:
        raise _BrokenError(f"the layer at byte {start} cannot be decoded") from error
    blobs = [_tensor(*part, f"blob {i} of layer {name!r}") for i, part in enumerate(parts)]
    return CaffeLayer(name, kind, tuple(blobs), eps)


def _blob(data: memoryview) -> tuple[list[int], bytearray, torch.dtype]:
    """Return shape, raw numbers and their type of a BlobProto."""
    legacy: dict[int, int] = {}
    shape: list[int] | None = None
    numbers = {_FLOATS: bytearray(), _DOUBLES: bytearray()}
    for number, _, content in _fields(data):
        if number in _LEGACY_SHAPE and isinstance(content, int):
            legacy[number] = content
        elif number in numbers:  # packed, or one of them
            numbers[number] += _message(content)
        elif number == _SHAPE:
            shape = []
            for inner, _, dim in _fields(_message(content)):
                if inner == _DIM:
                    shape += [dim] if isinstance(dim, int) else _packed(dim)
    double = not numbers[_FLOATS]
    raw, dtype = (numbers[_DOUBLES], torch.float64) if double else (numbers[_FLOATS], torch.float32)
    if shape is None:
        shape = [legacy.get(number, 0) for number in _LEGACY_SHAPE] if legacy else []
        shape = shape or [len(raw) // dtype.itemsize]
    return shape, raw, dtype


def _tensor(shape: list[int], raw: bytearray, dtype: torch.dtype, where: str) -> Tensor:
    """Return a blob as a tensor of its own memory, in float32."""
    if min(shape, default=1) < 1 or math.prod(shape) * dtype.itemsize != len(raw):
        numbers = len(raw) / dtype.itemsize
        raise _BrokenError(f"{where} has the shape {shape} and {numbers:g} numbers")
    return torch.frombuffer(raw, dtype=dtype).reshape(shape).float()


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


def _message(content: int | memoryview) -> memoryview:
    if isinstance(content, int):
        raise _BrokenError("a number stands where a message must be")
    return content


def _packed(data: memoryview) -> list[int]:
    values, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        values.append(value)
    return values


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
