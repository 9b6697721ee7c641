"""Files in ONNX Runtime and OpenVINO for bench_inference.py, and what their profilers say."""

from __future__ import annotations

import collections
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

COLUMNS = (
    *("network", "variant", "engine", "precision", "batch", "size"),
    *("operator", "calls", "milliseconds"),
)
ROUNDS = 30
ENDINGS = {"onnx": ".onnx", "openvino": ".xml"}
Means = dict[str, tuple[float, float]]


def onnx_session(path: Path, *, profile: Path | None = None) -> Any:
    """Open a file in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # else the idle threads of the other networks' sessions spin, and take the processors
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return onnxruntime.InferenceSession(str(path), options)


class OnnxProfile:
    """ONNX Runtime writes a trace of all runs."""

    def __init__(self, path: Path, _: str, image: Tensor) -> None:
        self.session = onnx_session(path, profile=path.with_suffix(""))
        self.given = {self.session.get_inputs()[0].name: image.numpy()}
        self.runs = 0

    def step(self) -> None:
        """Run once."""
        self.session.run(None, self.given)
        self.runs += 1

    def means(self) -> Means:
        """Return calls and milliseconds of a run by operator; the first runs count as the rest."""
        events: Any = json.loads(Path(self.session.end_profiling()).read_text())
        seconds, calls = collections.Counter[str](), collections.Counter[str]()
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                kind = event["args"]["op_name"]
                seconds[kind] += event["dur"]
                calls[kind] += 1
        return {kind: (calls[kind] / self.runs, seconds[kind] / 1e3 / self.runs) for kind in calls}


def openvino_request(path: Path, precision: str, *, profile: bool = False) -> Any:
    """Open a file in OpenVINO."""
    import openvino as engine

    hints = {"INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision]}
    hints |= {"INFERENCE_NUM_THREADS": str(torch.get_num_threads())}
    hints |= {"PERF_COUNT": "YES"} if profile else {}
    return engine.Core().compile_model(path, "CPU", hints).create_infer_request()


class OpenVINOProfile:
    """OpenVINO counts each run."""

    def __init__(self, path: Path, precision: str, image: Tensor) -> None:
        self.request = openvino_request(path, precision, profile=True)
        self.image = image.numpy()
        self.seconds, self.calls = collections.Counter[str](), collections.Counter[str]()
        self.runs = 0

    def step(self) -> None:
        """Run once."""
        self.request.infer([self.image])
        self.runs += 1
        for node in self.request.profiling_info:
            if int(node.real_time.total_seconds() * 1e6):
                kind = f"{node.node_type} {node.exec_type}"
                self.seconds[kind] += node.real_time.total_seconds()
                self.calls[kind] += 1

    def means(self) -> Means:
        """Return calls and milliseconds of a run by operator and kernel."""
        return {
            kind: (self.calls[kind] / self.runs, 1e3 * self.seconds[kind] / self.runs)
            for kind in self.calls
        }


PROFILERS = {"onnx": OnnxProfile, "openvino": OpenVINOProfile}
