"""An inserted network leaves PyTorch by `torch.onnx.export`, in standard operators."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import senet
from tolerances import assert_close

onnx = pytest.importorskip("onnx", reason="needs the extra export: onnx and onnxscript")
pytest.importorskip("onnxscript", reason="needs the extra export: onnx and onnxscript")
reference = pytest.importorskip("onnx.reference")


def test_an_inserted_network_exports_and_computes_the_same() -> None:
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, bias=False), nn.BatchNorm2d(32)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4)),
    ).eval()
    x = torch.randn(2, 3, 16, 16)
    senet.insert(model, x)
    for block in senet.se_modules(model).values():
        nn.init.normal_(block.fc2.weight)  # a gate that is not 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's exporter about itself
        program = torch.onnx.export(model, (x,), dynamo=True, verbose=False)
    exported = program.model_proto

    onnx.checker.check_model(exported)
    assert {node.domain for node in exported.graph.node} == {""}
    session = reference.ReferenceEvaluator(exported)
    (y,) = session.run(None, {exported.graph.input[0].name: x.numpy()})
    assert_close(torch.from_numpy(y), model(x))
