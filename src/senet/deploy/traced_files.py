"""Files by tracing, for networks that torch.export cannot follow: data decide their shapes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from senet.deploy.engines import INPUT, KEY, quiet, save_openvino
from senet.errors import ExportError, first_line, optional

__all__ = ["write_traced"]

_OPSET = 17


def write_traced(
    net: nn.Module, image: Tensor, path: Path, outputs: Sequence[str], metadata: Mapping[str, Any]
) -> None:
    """Write a network that takes one image [C, H, W] of any size, as ONNX or OpenVINO IR.

    Args:
        net: returns tensors whose first dimension may be of any length.
        image: with which it is traced.
        path: NAME.onnx or NAME.xml.
        outputs: the names of the tensors.
        metadata: JSON-able values to keep in the file.

    Raises:
        ExportError: the network cannot be traced.
        MissingPackageError: the engine is not installed.
    """
    with optional("ONNX export"):
        import onnx
    source = path.with_suffix(".onnx")
    axes = {INPUT: {1: "height", 2: "width"}, **{name: {0: name} for name in outputs}}
    names: dict[str, Any] = {"input_names": [INPUT], "output_names": list(outputs)}
    try:
        with quiet():
            torch.onnx.export(
                net.eval(),
                (image,),
                source,
                **names,
                dynamic_axes=axes,
                opset_version=_OPSET,
                dynamo=False,
            )
    except Exception as error:
        raise ExportError(f"torch.onnx must trace the network, but: {first_line(error)}") from error
    if path.suffix == ".xml":
        with optional("OpenVINO export"):
            import openvino
        save_openvino(openvino.convert_model(source), path, metadata)
        return
    model = onnx.load(source)
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(dict(metadata))
    onnx.save(model, source)
