"""PyTorch, ONNX Runtime and OpenVINO for bench_inference.py, and what profilers say."""

from __future__ import annotations

import collections
import copy
import itertools
import json
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

COLUMNS = (
    *("network", "variant", "engine", "precision", "batch", "size"),
    *("operator", "calls", "milliseconds"),
)
ROUNDS = 30
Means = dict[str, tuple[float, float]]
Nets = dict[str, nn.Module]
Call = Callable[[], Any]


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


class Counted:
    """Sums over the runs, by operator."""

    def __init__(self) -> None:
        self.seconds, self.calls = collections.Counter[str](), collections.Counter[str]()
        self.runs = 0

    def means(self) -> Means:
        """Return calls and milliseconds of a run by operator."""
        return {
            kind: (self.calls[kind] / self.runs, 1e3 * self.seconds[kind] / self.runs)
            for kind in self.calls
        }


class EagerProfile(Counted):
    """PyTorch's profiler: operators without those that they call, and without Python."""

    def __init__(self, net: nn.Module, path: Path, precision: str, image: Tensor) -> None:
        self.call = eager({"net": net}, image, precision, path)["net"]
        super().__init__()
        for _ in range(3):
            self.call()

    def step(self) -> None:
        """Run once."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
            self.call()
        self.runs += 1
        for event in profiled.key_averages():
            self.seconds[event.key] += event.self_cpu_time_total / 1e6
            self.calls[event.key] += event.count


class OnnxProfile:
    """ONNX Runtime writes a trace of all runs."""

    def __init__(self, net: nn.Module, path: Path, _: str, image: Tensor) -> None:
        path = written(net, image, path.with_suffix(".onnx"))
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


class OpenVINOProfile(Counted):
    """OpenVINO counts each run."""

    def __init__(self, net: nn.Module, path: Path, precision: str, image: Tensor) -> None:
        path = written(net, image, path.with_suffix(".xml"))
        self.request = openvino_request(path, precision, profile=True)
        self.image = image.numpy()
        super().__init__()

    def step(self) -> None:
        """Run once."""
        self.request.infer([self.image])
        self.runs += 1
        for node in self.request.profiling_info:
            if int(node.real_time.total_seconds() * 1e6):
                kind = f"{node.node_type} {node.exec_type}"
                self.seconds[kind] += node.real_time.total_seconds()
                self.calls[kind] += 1


PROFILERS = {
    "eager": EagerProfile,
    "onnx": OnnxProfile,
    "openvino": OpenVINOProfile,
}


# ---- one call of each network


def eager(nets: Nets, image: Tensor, precision: str, _: Path) -> dict[str, Call]:
    """Run in PyTorch, channels last; what the networks have in common lies in one place."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    x, copied = image.to(dtype).contiguous(memory_format=torch.channels_last), copy.deepcopy(nets)
    moved = {n: net.to(dtype).to(memory_format=torch.channels_last) for n, net in copied.items()}
    share_weights(moved.values())
    return {name: lambda net=net: net(x) for name, net in moved.items()}


def share_weights(nets: Iterable[nn.Module]) -> None:
    """Let equal weights be one tensor: where a tensor lies moves a latency by some percent."""
    seen: dict[Any, list[nn.Parameter]] = {}
    for module in itertools.chain.from_iterable(net.modules() for net in nets):
        for name, weight in module.named_parameters(recurse=False):
            alike = seen.setdefault((weight.shape, weight.stride(), weight.sum().item()), [])
            same = next((each for each in alike if torch.equal(each, weight)), None)
            if same is None:
                alike.append(weight)
            else:
                setattr(module, name, same)


def compiled(nets: Nets, image: Tensor, precision: str, folder: Path) -> dict[str, Call]:
    """Run through torch.compile, with the weights frozen into the code."""
    import torch._inductor.config as inductor

    inductor.freezing = True
    torch._dynamo.reset()
    return eager({n: _Compiled(net) for n, net in nets.items()}, image, precision, folder)


class _Compiled(nn.Module):
    """A network that is compiled where it is called, so that a copy of it is, too."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Any:
        """Call the compiled network."""
        if "call" not in vars(self):
            vars(self)["call"] = torch.compile(self.net)
        return vars(self)["call"](x)


def written(net: nn.Module, image: Tensor, path: Path) -> Path:
    """Write a network as it is, for images of this number and size, and return the file."""
    from senet.deploy.blocked import BLOCKED, keep_blocked
    from senet.deploy.engines import engine_of

    if not path.exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            engine_of(path).write(torch.export.export(net, (image,)), path, {})
        if path.stem == BLOCKED:
            keep_blocked(path)
    return path


def onnx(nets: Nets, image: Tensor, _: str, folder: Path) -> dict[str, Call]:
    """Run in ONNX Runtime, which has no bfloat16 convolution on CPUs."""
    calls = {}
    for name, net in nets.items():
        session = onnx_session(written(net, image, folder / f"{name}.onnx"))
        given = {session.get_inputs()[0].name: image.numpy()}
        calls[name] = lambda session=session, given=given: session.run(None, given)
    return calls


def openvino(nets: Nets, image: Tensor, precision: str, folder: Path) -> dict[str, Call]:
    """Run in OpenVINO."""
    calls = {}
    for name, net in nets.items():
        request = openvino_request(written(net, image, folder / f"{name}.xml"), precision)
        calls[name] = lambda request=request: request.infer([image.numpy()])
    return calls


ENGINES = {"eager": eager, "compile": compiled, "onnx": onnx, "openvino": openvino}
