"""int8 by post-training quantisation, with the engines' own tools: NNCF and ONNX Runtime's."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from senet.deploy.canonical import ChannelGate
from senet.deploy.engines import quiet
from senet.errors import ConfigError, optional, unknown_name

__all__ = ["BLOCKS", "TOOLS", "check_tool", "hide_blocks", "quantise"]

BLOCKS = ("float", "int8")
# (the float file, the int8 file, batches of images, nodes that stay in float)
Quantise = Callable[[Path, Path, Sequence[Tensor], list[str]], None]


# torch's looks for a CUDA compiler when NNCF is imported
_LOGGERS = ("nncf", "root", "torch.utils.cpp_extension")


@contextmanager
def _silent() -> Iterator[None]:
    """Without the tools' progress bars and advice."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    try:
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        with quiet():
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _onnx_by_nncf(path: Path, target: Path, batches: Sequence[Tensor], leave: list[str]) -> None:
    import nncf
    import onnx

    model = onnx.load(path)
    name = model.graph.input[0].name
    given = nncf.Dataset([{name: each.numpy()} for each in batches])
    options = _nncf_options(batches, leave)
    onnx.save(nncf.quantize(model, given, **options), target)


def _onnx_by_onnxruntime(
    path: Path, target: Path, batches: Sequence[Tensor], leave: list[str]
) -> None:
    import onnx
    from onnxruntime import quantization

    name = onnx.load(path, load_external_data=False).graph.input[0].name

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            images = next(self.left, None)
            return None if images is None else {name: images.numpy()}

    quantization.quantize_static(path, target, Reader(), per_channel=True, nodes_to_exclude=leave)


def _openvino_by_nncf(
    path: Path, target: Path, batches: Sequence[Tensor], leave: list[str]
) -> None:
    import nncf
    import openvino

    given = nncf.Dataset([each.numpy() for each in batches])
    model = openvino.Core().read_model(path)
    quantised = nncf.quantize(model, given, **_nncf_options(batches, leave))
    openvino.save_model(quantised, target, compress_to_fp16=False)


def _nncf_options(batches: Sequence[Tensor], leave: list[str]) -> dict[str, Any]:
    import nncf

    scope = nncf.IgnoredScope(names=leave) if leave else None
    return {"subset_size": len(batches), "ignored_scope": scope}


TOOLS: dict[str, dict[str, Quantise]] = {
    "onnx": {"nncf": _onnx_by_nncf, "onnxruntime": _onnx_by_onnxruntime},
    "openvino": {"nncf": _openvino_by_nncf},
    "pt2": {},
}


def check_tool(engine: str, tool: str, blocks: str) -> None:
    """Raise where a format has no int8, or not by this tool.

    Raises:
        ConfigError: no tool writes int8 files of this format.
        UnknownNameError: no such tool for this format, or no such choice for the blocks.
    """
    if not TOOLS[engine]:
        formats = [name for name, tools in TOOLS.items() if tools]
        raise ConfigError(
            f"int8 needs a format of {' or '.join(formats)}, got {engine}: the quantisers write "
            "no torch.export files without torchao"
        )
    if tool not in TOOLS[engine]:
        raise unknown_name(f"int8 tool for {engine}", tool, TOOLS[engine])
    if blocks not in BLOCKS:
        raise unknown_name("choice for SE blocks in int8", blocks, BLOCKS)


def hide_blocks(net: nn.Module) -> None:
    """Let NNCF not know the SE blocks of a deployed network, which it would leave in float.

    The mean over height and then over width reads another node than the product does.
    """
    for module in net.modules():
        if isinstance(module, ChannelGate):
            module.dims = [[dim] for dims in module.dims for dim in dims]


def quantise(
    engine: str, path: Path, target: Path, batches: Sequence[Tensor], *, tool: str, leave: list[str]
) -> None:
    """Write an int8 file beside a float one.

    Args:
        engine: name of the files' format.
        path: the float file.
        target: the file to write.
        batches: what it is calibrated on.
        tool: of TOOLS[engine].
        leave: names of nodes that stay in float.

    Raises:
        MissingPackageError: the tool is not installed.
    """
    with _silent():
        if tool == "nncf":
            with optional("int8 by NNCF"):
                import nncf  # its logger takes the standard output of now

            nncf.set_log_level(logging.ERROR)
        with redirect_stdout(io.StringIO()):
            TOOLS[engine][tool](path, target, batches, leave)
