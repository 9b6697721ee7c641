"""Latency of a network with SE over the plain network, in PyTorch and in other engines.

For each network, engine, precision and batch size: the plain network with its batch norms folded,
the network with SE after `senet.deploy`, the one before it (PyTorch only), and the blocks in the
form of a hand-written module (`form="portable"`, as timm's module is after folding). The networks
take turns, so that a machine whose speed drifts slows all of them; a row is the median of the
pairwise ratios to the plain network, with a 95 % interval of the median.

    python benchmarks/bench_inference.py --networks resnet50 --engines eager onnx openvino
"""

from __future__ import annotations

import argparse
import csv
import math
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import senet

RESULTS = Path(__file__).parent / "results" / "inference.csv"
COLUMNS = (
    *("network", "variant", "engine", "precision", "batch", "size", "ratio", "low", "high"),
    *("plain_ms", "rounds", "threads", "processor", "torch", "engine_version"),
)
# name: the plain network, and whether SE is inserted or its own blocks are taken away for "plain"
NETWORKS = {
    "resnet50": ("torchvision", "resnet50", True),
    "resnext50": ("torchvision", "resnext50_32x4d", True),
    "mobilenetv3": ("torchvision", "mobilenet_v3_large", False),
    "efficientnet_b0": ("timm", "efficientnet_b0", False),
    "seresnet50": ("timm", "seresnet50", False),
}
Call = Callable[[], Any]


def as_trained(net: nn.Module) -> nn.Module:
    """Give the blocks gates that depend on the image, as training does."""
    torch.manual_seed(0)
    for block in senet.se_modules(net).values():
        nn.init.normal_(block.fc2.weight, std=0.1)
        nn.init.normal_(block.fc2.bias, std=0.1)
    return net.eval()


def without_blocks(net: nn.Module) -> nn.Module:
    """Put identities in the place of the SE blocks of timm and torchvision."""
    from senet.deploy.canonical import is_block

    for module in list(net.modules()):
        for name, child in module.named_children():
            if is_block(child):
                setattr(module, name, nn.Identity())
    return net


def build(name: str, image: Tensor) -> tuple[nn.Module, nn.Module]:
    """Return the plain network and the one with SE."""
    library, bare, insert = NETWORKS[name]

    def make() -> nn.Module:
        torch.manual_seed(0)
        return senet.create_model(f"{library}/{bare}").eval()

    plain, with_se = make(), make()
    if insert:
        senet.insert(with_se, image)
        return plain, as_trained(with_se)
    return without_blocks(plain), with_se


def variants(name: str, image: Tensor, *, engine: str) -> dict[str, nn.Module]:
    """Return the networks that take turns; "plain" comes first."""
    plain, with_se = build(name, image)
    found = {
        "plain": senet.deploy(plain, image),
        "deployed": senet.deploy(with_se, image),
        "portable": senet.deploy(with_se, image, form="portable"),
    }
    return found | ({"as trained": with_se} if engine == "eager" else {})


def eager(nets: dict[str, nn.Module], image: Tensor, precision: str) -> tuple[dict[str, Call], str]:
    """Run in PyTorch, channels last."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    x = image.to(dtype).contiguous(memory_format=torch.channels_last)
    moved = {
        name: net.to(dtype).to(memory_format=torch.channels_last) for name, net in nets.items()
    }
    return {name: lambda net=net: net(x) for name, net in moved.items()}, torch.__version__


def compiled(
    nets: dict[str, nn.Module], image: Tensor, precision: str
) -> tuple[dict[str, Call], str]:
    """Run through torch.compile, with the weights frozen into the code."""
    import torch._inductor.config as inductor

    inductor.freezing = True
    return eager({name: torch.compile(net) for name, net in nets.items()}, image, precision)


def onnx(nets: dict[str, nn.Module], image: Tensor, _: str) -> tuple[dict[str, Call], str]:
    """Run in ONNX Runtime, which has no bfloat16 convolution on CPUs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # else the idle threads of the other networks' sessions spin, and take the processors
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    calls = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, net in nets.items():
            path = Path(folder) / f"{name}.onnx"
            senet.export(net, path, image, dynamic_batch=False)
            session = onnxruntime.InferenceSession(str(path), options)
            given = {session.get_inputs()[0].name: image.numpy()}
            calls[name] = lambda session=session, given=given: session.run(None, given)
    return calls, onnxruntime.__version__


def openvino(
    nets: dict[str, nn.Module], image: Tensor, precision: str
) -> tuple[dict[str, Call], str]:
    """Run in OpenVINO."""
    import openvino as engine

    hints = {"INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision]}
    hints["INFERENCE_NUM_THREADS"] = str(torch.get_num_threads())
    calls = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, net in nets.items():
            path = Path(folder) / f"{name}.xml"
            senet.export(net, path, image, dynamic_batch=False)
            request = engine.Core().compile_model(path, "CPU", hints).create_infer_request()
            calls[name] = lambda request=request: request.infer([image.numpy()])
    return calls, engine.__version__.split("-")[0]


ENGINES = {"eager": eager, "compile": compiled, "onnx": onnx, "openvino": openvino}


def interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Return the median and a distribution-free 95 % interval of it."""
    ordered, n = sorted(ratios), len(ratios)
    low = max(0, math.floor(n / 2 - 0.98 * math.sqrt(n)) - 1)
    return statistics.median(ordered), ordered[low], ordered[n - 1 - low]


def measure(calls: dict[str, Call], rounds: int) -> dict[str, list[float]]:
    """Let the networks take turns, and return the seconds of each round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(3):
            call()
    names = list(calls)
    for each in range(rounds):
        for name in names if each % 2 else names[::-1]:
            start = time.perf_counter()
            calls[name]()
            times[name].append(time.perf_counter() - start)
    return times


def processor() -> str:
    """The name of the processor, and whether it has bfloat16 arithmetic."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":")[1].strip() for line in text.splitlines() if "model name" in line]
    kinds = [kind for kind in ("amx_bf16", "avx512_bf16") if kind in text]
    return " ".join([names[0] if names else platform.processor(), *kinds])


def main() -> None:
    """Measure what is asked for and add the rows to the csv, in the place of older ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--seconds", type=float, default=20.0, help="about, per row of the table")
    options = parser.parse_args()
    for name in options.networks:
        for engine in options.engines:
            for precision in options.precisions:
                if engine == "onnx" and precision == "bf16":
                    continue
                for batch in options.batches:
                    image = torch.randn(batch, 3, options.size, options.size)
                    with torch.no_grad():
                        row(name, engine, precision, image, options.seconds)


def row(name: str, engine: str, precision: str, image: Tensor, seconds: float) -> None:
    """Measure one network in one engine, print and keep it."""
    nets = variants(name, image, engine=engine)
    calls, version = ENGINES[engine](nets, image, precision)
    start = time.perf_counter()
    for call in calls.values():
        call()
    rounds = max(11, min(200, int(seconds / max(time.perf_counter() - start, 1e-3))))
    times = measure(calls, rounds)
    plain = times["plain"]
    rows = []
    for variant in list(times)[1:]:
        pairs = zip(times[variant], plain, strict=True)
        ratio, low, high = interval([with_se / without for with_se, without in pairs])
        print(
            f"{name:16} {variant:10} {engine:8} {precision} batch {len(image)}: "
            f"{ratio:.3f} [{low:.3f}, {high:.3f}]",
            flush=True,
        )
        numbers = [f"{number:.4f}" for number in (ratio, low, high)]
        rows.append(
            [
                *(name, variant, engine, precision, len(image), image.shape[-1], *numbers),
                *(f"{1e3 * statistics.median(plain):.2f}", rounds, torch.get_num_threads()),
                *(processor(), torch.__version__, version),
            ]
        )
    keep(rows)


def keep(rows: list[list[Any]]) -> None:
    """Write the rows to the csv, in the place of those of the same case."""
    old: list[list[str]] = []
    if RESULTS.exists():
        with RESULTS.open(newline="") as file:
            old = list(csv.reader(file))[1:]
    cases = {tuple(map(str, each[:6])) for each in rows}
    kept = [each for each in old if tuple(each[:6]) not in cases]
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([COLUMNS, *sorted([*kept, *[list(map(str, each)) for each in rows]])])


if __name__ == "__main__":
    main()
