"""Quantise one file: a program of its own, which `senet.deploy.quantization` starts.

The quantisers change the process that imports them: NNCF sets the class of all loggers and the
levels of the root's handlers, and each OpenVINO core that it makes and drops moves the stack on
which the process handles its signals, so that the next Ctrl-C can end in a segmentation fault
(see `senet.deploy.engines`). Here that ends with the program. It imports nothing of senet.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

# (the float file, the file to write, batches of images, names of nodes that stay in float)
Quantise = Callable[[str, str, Sequence[Any], list[str]], None]


def _onnx_by_nncf(path: str, target: str, batches: Sequence[Any], leave: list[str]) -> None:
    import nncf
    import onnx

    model = onnx.load(path)
    name = model.graph.input[0].name
    given = nncf.Dataset([{name: each} for each in batches])
    onnx.save(nncf.quantize(model, given, **_nncf_options(batches, leave)), target)


def _onnx_by_onnxruntime(path: str, target: str, batches: Sequence[Any], leave: list[str]) -> None:
    import onnx
    from onnxruntime import quantization

    name = onnx.load(path, load_external_data=False).graph.input[0].name

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            images = next(self.left, None)
            return None if images is None else {name: images}

    quantization.quantize_static(path, target, Reader(), per_channel=True, nodes_to_exclude=leave)


def _openvino_by_nncf(path: str, target: str, batches: Sequence[Any], leave: list[str]) -> None:
    import nncf
    import openvino

    model = openvino.Core().read_model(path)
    options = _nncf_options(batches, leave)
    quantised = nncf.quantize(model, nncf.Dataset(list(batches)), **options)
    openvino.save_model(quantised, target, compress_to_fp16=False)


def _nncf_options(batches: Sequence[Any], leave: list[str]) -> dict[str, Any]:
    import nncf

    scope = nncf.IgnoredScope(names=leave) if leave else None
    return {"subset_size": len(batches), "ignored_scope": scope}


TOOLS: dict[str, dict[str, Quantise]] = {
    "onnx": {"nncf": _onnx_by_nncf, "onnxruntime": _onnx_by_onnxruntime},
    "openvino": {"nncf": _openvino_by_nncf},
    "pt2": {},
}


def _main(engine: str, tool: str, path: str, target: str, batches: str) -> None:
    """Quantise; the names of the nodes to leave in float are the lines of standard input."""
    import numpy as np

    with np.load(batches) as kept:
        images = list(kept.values())
    TOOLS[engine][tool](path, target, images, sys.stdin.read().splitlines())


if __name__ == "__main__":
    _main(*sys.argv[1:])
