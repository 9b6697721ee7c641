"""The authors' Caffe networks for tests: layer by layer, written to a file, and run.

None of this uses the library. The layers are those of the authors' prototxts
(github.com/hujie-frank/SENet): names, wiring, sizes, where the stride is. `write` encodes the
protobuf message by hand; `run` computes each layer as Caffe's documentation defines it, in float64.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

DEPTHS = {"50": (3, 4, 6, 3), "101": (3, 4, 23, 3), "152": (3, 8, 36, 3)}


@dataclass
class Layer:
    """One layer: what it reads, what it writes, its options, its numbers."""

    name: str
    kind: str
    bottoms: tuple[str, ...]
    top: str
    options: dict[str, Any] = field(default_factory=dict)
    blobs: list[Tensor] = field(default_factory=list)


class Net:
    """Layers in order; with `empty`, blobs of the right shapes that take no memory."""

    def __init__(self, *, factor: float = 4.0, empty: bool = False) -> None:
        self.layers: list[Layer] = []
        self.factor, self.empty = factor, empty
        self.width = {"data": 3}  # channels of each top

    def draw(self, *shape: int, low: float, high: float) -> Tensor:
        if self.empty:
            return torch.ones(1).expand(*shape)
        return torch.empty(*shape).uniform_(low, high)

    def add(
        self, kind: str, name: str, *bottoms: str, top: str | None = None, **options: Any
    ) -> str:
        self.layers.append(Layer(name, kind, bottoms, top or name, options))
        self.width.setdefault(top or name, self.width[bottoms[0]])
        return top or name

    def conv(
        self, name: str, bottom: str, out: int, kernel: int, *, stride: int = 1, groups: int = 1,
        bias: bool = False,
    ) -> str:  # fmt: skip
        into = self.width[bottom] // groups
        self.width[name] = out
        self.add("Convolution", name, bottom, stride=stride, pad=kernel // 2, groups=groups)
        scale = (6 / (into * kernel**2)) ** 0.5
        blobs = [self.draw(out, into, kernel, kernel, low=-scale, high=scale)]
        self.layers[-1].blobs = [*blobs, self.draw(out, low=-1, high=1)] if bias else blobs
        return name

    def norm(self, name: str, *, relu: bool = True) -> str:
        """Batch norm, gamma and beta, in place."""
        width = self.width[name]
        self.add("BatchNorm", f"{name}/bn", name, top=name)
        self.layers[-1].blobs = [
            self.draw(width, low=-0.2, high=0.2) * self.factor,
            self.draw(width, low=0.5, high=1.5) * self.factor,
            torch.tensor([self.factor]),
        ]
        self.add("Scale", f"{name}/bn/scale", name, top=name)
        self.layers[-1].blobs = [
            self.draw(width, low=0.4, high=1.0), self.draw(width, low=-0.1, high=0.1)
        ]  # fmt: skip
        return self.add("ReLU", f"{name}/relu", name, top=name) if relu else name

    def se(self, path: str, bottom: str, reduction: int = 16) -> str:
        width = self.width[bottom]
        top = self.add("Pooling", f"{path}_global_pool", bottom, pool="AVE", whole=True)
        top = self.conv(f"{path}_1x1_down", top, width // reduction, 1, bias=True)
        self.add("ReLU", f"{path}_1x1_down/relu", top, top=top)
        top = self.conv(f"{path}_1x1_up", top, width, 1, bias=True)
        return self.add("Sigmoid", f"{path}_prob", top)

    def classifier(self, bottom: str, classes: int) -> Net:
        top = self.add("Pooling", "pool5/7x7_s1", bottom, pool="AVE", whole=True)
        self.add("InnerProduct", "classifier", top)
        width = self.width[top]
        self.layers[-1].blobs = [
            self.draw(classes, width, low=-0.1, high=0.1), self.draw(classes, low=-1, high=1)
        ]  # fmt: skip
        return self


def residual(
    depths: tuple[int, ...], *, kind: str = "resnet", classes: int = 1000, **options: Any
) -> Net:
    """SE-ResNet, SE-ResNeXt or SENet-154, or with other depths a shorter one."""
    net = Net(**options)
    if kind == "senet":
        top = net.norm(net.conv("conv1_1/3x3_s2", "data", 64, 3, stride=2))
        top = net.norm(net.conv("conv1_2/3x3", top, 64, 3))
        top = net.norm(net.conv("conv1_3/3x3", top, 128, 3))
    else:
        top = net.norm(net.conv("conv1/7x7_s2", "data", 64, 7, stride=2))
    top = net.add("Pooling", "pool1/3x3_s2", top, pool="MAX", kernel=3, stride=2)
    for number, blocks in enumerate(depths, start=2):
        for index in range(1, blocks + 1):
            stride = 2 if index == 1 and number > 2 else 1
            name, base = f"conv{number}_{index}", 64 * 2 ** (number - 2)
            top = bottleneck(net, name, top, base, kind=kind, stride=stride, project=index == 1)
    return net.classifier(top, classes)


def bottleneck(
    net: Net, path: str, bottom: str, base: int, *, kind: str, stride: int, project: bool
) -> str:
    thin = {"resnet": base, "resnext": 2 * base, "senet": 2 * base}[kind]
    wide = {"resnet": base, "resnext": 2 * base, "senet": 4 * base}[kind]
    groups = {"resnet": 1, "resnext": 32, "senet": 64}[kind]
    first, second = (stride, 1) if kind == "resnet" else (1, stride)
    top = net.norm(net.conv(f"{path}_1x1_reduce", bottom, thin, 1, stride=first))
    top = net.norm(net.conv(f"{path}_3x3", top, wide, 3, stride=second, groups=groups))
    top = net.norm(net.conv(f"{path}_1x1_increase", top, 4 * base, 1), relu=False)
    gate = net.se(path, top)
    if project:
        kernel = 3 if kind == "senet" and stride == 2 else 1
        bottom = net.conv(f"{path}_1x1_proj", bottom, 4 * base, kernel, stride=stride)
        net.norm(bottom, relu=False)
    net.width[path] = 4 * base
    net.add("Axpy", path, gate, top, bottom)
    return net.add("ReLU", f"{path}/relu", path, top=path)


# module: 1x1, 3x3 reduced and whole, double reduced and whole, pool, projection
INCEPTION = {
    "3a": (64, 64, 64, 64, 96, "AVE", 32),
    "3b": (64, 64, 96, 64, 96, "AVE", 64),
    "3c": (0, 128, 160, 64, 96, "DOWN", 0),
    "4a": (224, 64, 96, 96, 128, "AVE", 128),
    "4b": (192, 96, 128, 96, 128, "AVE", 128),
    "4c": (160, 128, 160, 128, 160, "AVE", 128),
    "4d": (96, 128, 192, 160, 192, "AVE", 128),
    "4e": (0, 128, 192, 192, 256, "DOWN", 0),
    "5a": (352, 192, 320, 160, 224, "AVE", 128),
    "5b": (352, 192, 320, 192, 224, "MAX", 128),
}


def inception(*, classes: int = 1000, **options: Any) -> Net:
    """SE-BN-Inception."""
    net = Net(**options)
    top = net.norm(net.conv("conv1/7x7_s2", "data", 64, 7, stride=2))
    top = net.add("Pooling", "pool1/3x3_s2", top, pool="MAX", kernel=3, stride=2)
    top = net.norm(net.conv("conv2/3x3_reduce", top, 64, 1))
    top = net.norm(net.conv("conv2/3x3", top, 192, 3))
    top = net.add("Pooling", "pool2/3x3_s2", top, pool="MAX", kernel=3, stride=2)
    for name, widths in INCEPTION.items():
        top = inception_module(net, f"inception_{name}", top, *widths)
    return net.classifier(top, classes)


def inception_module(
    net: Net, path: str, bottom: str, single: int, reduced: int, triple: int, double_reduced: int,
    double: int, pool: str, projected: int,
) -> str:  # fmt: skip
    stride = 2 if pool == "DOWN" else 1
    tops = [net.norm(net.conv(f"{path}/1x1", bottom, single, 1))] if single else []
    top = net.norm(net.conv(f"{path}/3x3_reduce", bottom, reduced, 1))
    tops.append(net.norm(net.conv(f"{path}/3x3", top, triple, 3, stride=stride)))
    top = net.norm(net.conv(f"{path}/double3x3_reduce", bottom, double_reduced, 1))
    top = net.norm(net.conv(f"{path}/double3x3a", top, double, 3))
    tops.append(net.norm(net.conv(f"{path}/double3x3b", top, double, 3, stride=stride)))
    if pool == "DOWN":
        tops.append(net.add("Pooling", f"{path}/pool", bottom, pool="MAX", kernel=3, stride=2))
    else:
        top = net.add("Pooling", f"{path}/pool", bottom, pool=pool, kernel=3, stride=1, pad=1)
        tops.append(net.norm(net.conv(f"{path}/pool_proj", top, projected, 1)))
    net.width[f"{path}/output"] = sum(net.width[top] for top in tops)
    top = net.add("Concat", f"{path}/output", *tops)
    gate = net.se(path, top)
    gate = net.add("Reshape", f"{path}_reshape", gate)
    return net.add("Scale", f"{path}_scale", top, gate)


# ---- running


def run(net: Net, data: Tensor) -> Tensor:
    """Return the logits [N, classes] for data [N, 3, H, W]: BGR in 0..255 minus the mean."""
    tops = {"data": data.double()}
    for layer in net.layers:
        inputs = [tops[bottom] for bottom in layer.bottoms]
        blobs = [blob.double() for blob in layer.blobs]
        tops[layer.top] = _RUN[layer.kind](inputs, blobs, layer.options)
    return tops[net.layers[-1].top]


def _convolution(inputs: list[Tensor], blobs: list[Tensor], options: dict[str, Any]) -> Tensor:
    bias = blobs[1] if len(blobs) > 1 else None
    return F.conv2d(
        inputs[0], blobs[0], bias, options["stride"], options["pad"], 1, options["groups"]
    )


def _batch_norm(inputs: list[Tensor], blobs: list[Tensor], options: dict[str, Any]) -> Tensor:
    factor = 0.0 if blobs[2].item() == 0 else 1 / blobs[2].item()
    mean, variance = (blob.reshape(1, -1, 1, 1) * factor for blob in blobs[:2])
    return (inputs[0] - mean) / (variance + 1e-5).sqrt()


def _scale(inputs: list[Tensor], blobs: list[Tensor], options: dict[str, Any]) -> Tensor:
    if len(inputs) == 2:
        return inputs[0] * inputs[1].reshape(*inputs[1].shape[:2], 1, 1)
    gamma, beta = (blob.reshape(1, -1, 1, 1) for blob in blobs)
    return inputs[0] * gamma + beta


def _pooling(inputs: list[Tensor], blobs: list[Tensor], options: dict[str, Any]) -> Tensor:
    x = inputs[0]
    if options.get("whole"):
        return x.mean(dim=(2, 3), keepdim=True)
    kernel, stride, pad = options["kernel"], options["stride"], options.get("pad", 0)
    largest = options["pool"] == "MAX"
    # Caffe rounds the number of windows up, and a window may reach beyond the map.
    extra = []
    for size in (x.shape[3], x.shape[2]):
        windows = -(-(size + 2 * pad - kernel) // stride) + 1
        extra += [pad, (windows - 1) * stride + kernel - size - pad]
    x = F.pad(x, extra, value=-torch.inf if largest else 0.0)
    return F.max_pool2d(x, kernel, stride) if largest else F.avg_pool2d(x, kernel, stride)


_RUN: dict[str, Any] = {
    "Convolution": _convolution,
    "BatchNorm": _batch_norm,
    "Scale": _scale,
    "Pooling": _pooling,
    "ReLU": lambda inputs, blobs, options: inputs[0].clamp(min=0),
    "Sigmoid": lambda inputs, blobs, options: 1 / (1 + torch.exp(-inputs[0])),
    "Reshape": lambda inputs, blobs, options: inputs[0],
    "Concat": lambda inputs, blobs, options: torch.cat(inputs, dim=1),
    "Axpy": lambda inputs, blobs, options: inputs[0] * inputs[1] + inputs[2],
    "InnerProduct": lambda inputs, blobs, options: inputs[0].flatten(1) @ blobs[0].T + blobs[1],
}

# ---- writing

# Of V1LayerParameter's enum; it has no batch norm, so the number stands for nothing there.
_V1_KINDS = {"Convolution": 4, "InnerProduct": 14, "Pooling": 17, "ReLU": 18, "Sigmoid": 19}


def write(net: Net, path: Path, *, generation: str = "shape") -> Path:
    """Write a `.caffemodel`.

    Args:
        net: with its blobs.
        path: the file.
        generation: "shape" (today's), "legacy" (four sizes for each blob), "v1" (the same in the
            old `layers`), or "double" (double precision).
    """
    with path.open("wb") as file:
        file.write(text(1, "SE"))
        for layer in net.layers:
            file.write(encoded(layer, generation))
    return path


def encoded(layer: Layer, generation: str = "shape") -> bytes:
    """One layer as a field of NetParameter."""
    blobs = [blob_message(blob, generation) for blob in layer.blobs]
    if generation == "v1":
        parts = [text(2, bottom) for bottom in layer.bottoms] + [text(3, layer.top)]
        parts += [text(4, layer.name), varint(5 << 3) + varint(_V1_KINDS.get(layer.kind, 0))]
        return block(2, b"".join(parts + [block(6, blob) for blob in blobs]))
    parts = [text(1, layer.name), text(2, layer.kind)]
    parts += [text(3, bottom) for bottom in layer.bottoms] + [text(4, layer.top)]
    parts += [block(7, blob) for blob in blobs]
    if layer.kind == "BatchNorm":
        eps = layer.options.get("eps")
        given = b"" if eps is None else varint(3 << 3 | 5) + struct.pack("<f", eps)
        parts.append(block(139, varint(1 << 3) + varint(1) + given))  # use_global_stats
    return block(100, b"".join(parts))


def blob_message(blob: Tensor, generation: str) -> bytes:
    if generation == "double":
        return shape_message(blob) + block(8, blob.double().numpy().tobytes())
    raw = blob.float().contiguous().numpy().tobytes()
    if generation == "shape":
        half = len(raw) // 8 * 4  # a packed field may come in pieces
        return block(5, raw[:half]) + shape_message(blob) + block(5, raw[half:])
    sizes = [1] * (4 - blob.dim()) + list(blob.shape)
    return b"".join(varint(i << 3) + varint(n) for i, n in enumerate(sizes, 1)) + block(5, raw)


def shape_message(blob: Tensor) -> bytes:
    return block(7, block(1, b"".join(varint(size) for size in blob.shape)))


def varint(value: int) -> bytes:
    digits = []
    while value >= 128:
        digits.append(value % 128 + 128)
        value //= 128
    return bytes([*digits, value])


def block(number: int, payload: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def text(number: int, value: str) -> bytes:
    return block(number, value.encode())
