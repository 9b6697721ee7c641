"""The engines that a network is exported to: how each writes a file, reads it, and runs it."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from senet.deploy.file_blocks import FileBlock, onnx_blocks, openvino_blocks
from senet.errors import DataError, InputError, first_line, optional, unknown_name
from senet.insertion.reading import tensors

__all__ = [
    "ENGINES",
    "INPUT",
    "KEY",
    "Engine",
    "Loaded",
    "engine_of",
    "load_exported",
    "quiet",
    "save_openvino",
]

INPUT = "image"  # the name of what a file takes
KEY = "senet"  # the name under which a file keeps what senet writes beside the network
# logs a traceback for each inequality of sizes that it cannot solve, as behind a max pooling
_SHAPES = logging.getLogger("torch.fx.experimental.symbolic_shapes")

Run = Callable[[Tensor], list[Tensor]]


@final
@dataclass(frozen=True)
class Loaded:
    """A file in its engine.

    Attributes:
        run: maps images [N, C, H, W] to the network's outputs, in float32 arithmetic.
        metadata: what `senet.export` was given to write into the file.
        nodes: operators of the graph, constants and inputs not counted.
        blocks: the SE blocks of an ONNX or OpenVINO file.
        batch: the number of images that it takes at a time; None for any.
        version: the engine and its version.
    """

    run: Run
    metadata: dict[str, Any]
    nodes: int
    version: str
    batch: int | None
    blocks: tuple[FileBlock, ...] = ()


@final
@dataclass(frozen=True)
class Engine:
    """How files of one format are written and read."""

    name: str
    suffix: str
    files: tuple[str, ...]  # suffixes of all files that may belong to one network
    write: Callable[[Any, Path, Mapping[str, Any]], None]
    read: Callable[[Path], Loaded]


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' warnings about their own future, and about what they cannot prove."""
    level = _SHAPES.level
    _SHAPES.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _SHAPES.setLevel(level)


def _image_of(program: Any) -> Any:
    """The node of an exported program that stands for the images."""
    (image,) = program.graph_signature.user_inputs
    (place,) = (node for node in program.graph.nodes if node.name == image)
    return place


def _write_onnx(program: Any, path: Path, metadata: Mapping[str, Any]) -> None:
    with optional("ONNX export"):
        import onnxscript  # noqa: F401 - torch's exporter is written in it
    with quiet():
        written = torch.onnx.export(
            program, dynamo=True, optimize=True, verbose=False, input_names=[INPUT]
        )
    if written is None:
        raise DataError("torch.onnx.export returned no program")
    written.model.metadata_props[KEY] = json.dumps(dict(metadata))
    written.save(path)


def _read_onnx(path: Path) -> Loaded:
    with optional("running an ONNX file"):
        import onnx
        import onnxruntime
    onnxruntime.set_default_logger_severity(3)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    name, (batch, *_) = image.name, image.shape

    def run(images: Tensor) -> list[Tensor]:
        return [torch.as_tensor(a) for a in session.run(None, {name: images.numpy()})]

    kept = session.get_modelmeta().custom_metadata_map.get(KEY, "{}")
    graph = onnx.load(path, load_external_data=False).graph
    version = f"ONNX Runtime {onnxruntime.__version__}"
    fixed = batch if isinstance(batch, int) else None
    return Loaded(run, json.loads(kept), len(graph.node), version, fixed, onnx_blocks(graph))


def _write_openvino(program: Any, path: Path, metadata: Mapping[str, Any]) -> None:
    with optional("OpenVINO export"):
        import openvino
    with quiet():
        model = openvino.convert_model(program)
    place = _image_of(program)
    # the conversion leaves the number of images open, whatever the program says
    sizes = [n if isinstance(n, int) else -1 for n in place.meta["val"].shape]
    model.reshape(openvino.PartialShape(sizes))
    save_openvino(model, path, metadata)


def save_openvino(model: Any, path: Path, metadata: Mapping[str, Any]) -> None:
    """Write a network of OpenVINO with one input, in float32."""
    import openvino

    model.inputs[0].get_tensor().set_names({INPUT})
    model.set_rt_info(json.dumps(dict(metadata)), [KEY])
    openvino.save_model(model, path, compress_to_fp16=False)


@cache
def _core() -> Any:
    """The one OpenVINO core of the process, which lives as long as the process does.

    A core gives the main thread a stack of its own for signals, with the first network that it
    compiles, and when it ends it puts back the stack that was there before, also where that was
    another core's which has ended since: the next signal with a Python handler is then a
    segmentation fault. A core that never ends puts nothing back.
    """
    import openvino

    return openvino.Core()


def _read_openvino(path: Path) -> Loaded:
    with optional("running an OpenVINO file"):
        import openvino
    model = _core().read_model(path)
    compiled = _core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    wanted = model.inputs[0].partial_shape

    def run(images: Tensor) -> list[Tensor]:
        if not wanted.compatible(openvino.PartialShape(list(images.shape))):
            # the engine itself would compute something of another shape
            raise InputError(f"the file takes images {wanted}, got {list(images.shape)}")
        returned = compiled([images.numpy()])
        return [torch.as_tensor(returned[output].copy()) for output in compiled.outputs]

    kept = model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else "{}"
    kinds = [op.get_type_name() for op in model.get_ordered_ops()]
    nodes = sum(kind not in ("Constant", "Parameter", "Result") for kind in kinds)
    version = f"OpenVINO {openvino.__version__.split('-')[0]}"
    batch = wanted[0].get_length() if wanted[0].is_static else None
    return Loaded(run, json.loads(kept), nodes, version, batch, openvino_blocks(model))


def _write_pt2(program: Any, path: Path, metadata: Mapping[str, Any]) -> None:
    torch.export.save(program, path, extra_files={KEY: json.dumps(dict(metadata))})


def _read_pt2(path: Path) -> Loaded:
    extra = {KEY: ""}
    with quiet():
        program = torch.export.load(path, extra_files=extra)
    module = program.module()

    @torch.no_grad()
    def run(images: Tensor) -> list[Tensor]:
        return tensors(module(images))

    nodes = sum(node.op == "call_function" for node in program.graph.nodes)
    batch = _image_of(program).meta["val"].shape[0]
    fixed = batch if isinstance(batch, int) else None
    kept = json.loads(extra[KEY] or "{}")
    return Loaded(run, kept, nodes, f"PyTorch {torch.__version__}", fixed)


ENGINES: dict[str, Engine] = {
    "onnx": Engine("onnx", ".onnx", (".onnx.data", ".onnx"), _write_onnx, _read_onnx),
    "openvino": Engine("openvino", ".xml", (".bin", ".xml"), _write_openvino, _read_openvino),
    "pt2": Engine("pt2", ".pt2", (".pt2",), _write_pt2, _read_pt2),
}


def engine_of(path: Path) -> Engine:
    """Return the engine of a file by the end of its name.

    Raises:
        UnknownNameError: there is none.
    """
    for engine in ENGINES.values():
        if path.suffix == engine.suffix:
            return engine
    endings = [engine.suffix for engine in ENGINES.values()]
    raise unknown_name("file ending", path.suffix or path.name, endings)


def load_exported(path: str | Path) -> Loaded:
    """Return an exported file in its engine: `.run(images)` and `.metadata`.

    Raises:
        DataError: it is not there, or the engine cannot read it.
        MissingPackageError: the engine is not installed.
        UnknownNameError: the name has an ending of no engine.
    """
    path = Path(path)
    engine = engine_of(path)
    if not path.is_file():
        raise DataError(f"{path} must be a file that senet.export wrote, but there is none")
    try:
        return engine.read(path)
    except ImportError:
        raise
    except Exception as error:
        raise DataError(
            f"{path} cannot be read by its engine: {first_line(error)}; export it again"
        ) from error
