"""Networks that leave PyTorch: written, run in their engine, and compared before they are kept."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from senet.deploy.blocked import BLOCKED, check_blocked, keep_blocked
from senet.deploy.engines import Engine, Loaded, engine_of, quiet
from senet.deploy.quantization import check_tool, hide_blocks, quantise
from senet.deploy.rewrite import Deployment, deploy
from senet.errors import ExportError, InputError, first_line
from senet.files import write_whole
from senet.insertion.reading import tensors
from senet.schema import Record

__all__ = ["ExportReport", "export", "move"]

# The largest relative difference to PyTorch that is taken for rounding, in float32.
_ROUNDING = 1e-3
# The largest error of an int8 file's outputs, relative to their standard deviation.
_NOISE = 0.5
_DETECTOR = "; a detector is written by senet.detection.export_detector"
_AT_ONCE = 32  # images in a comparison, where the file takes any number


@final
@dataclass(frozen=True)
class ExportReport(Record):
    """What was written, and how the file in its engine compares with PyTorch; `print` shows it.

    Attributes:
        path: the file.
        engine: the engine that ran it, with its version.
        nodes: operators in the file.
        images: how many images were compared.
        difference: the largest difference of an output, relative to the largest output.
        same_class: the share of images with the same largest output, None where the network does
            not return [N, classes].
        kept: SE blocks and batch norms that could not be rewritten, as (module path, reason).
        int8: the tool that quantised the file; None where it is in float.
        blocks: SE blocks in an ONNX or OpenVINO file.
        blocks_in_float: those whose layers compute in float.
    """

    path: str
    engine: str
    nodes: int
    images: int
    difference: float
    same_class: float | None
    kept: tuple[tuple[str, str], ...] = ()
    int8: str | None = None
    blocks: int = 0
    blocks_in_float: int = 0

    def __str__(self) -> str:
        """Return the report in a few lines."""
        same = "" if self.same_class is None else f", {100 * self.same_class:.2f} % equal classes"
        int8 = ""
        if self.int8 is not None:
            float_blocks = f"{self.blocks_in_float} of {self.blocks} SE blocks in float"
            int8 = f", int8 by {self.int8}, {float_blocks}"
        lines = [
            f"{self.path}: {self.nodes} nodes{int8}",
            f"{self.engine} against PyTorch on {self.images} images: "
            f"largest difference {self.difference:.1e}{same}",
        ]
        return "\n".join([*lines, *(f"kept {path}: {reason}" for path, reason in self.kept)])


def export(
    model: nn.Module,
    path: str | Path,
    example_input: Tensor,
    *,
    form: str = "fast",
    dynamic_batch: bool = True,
    dynamic_size: bool = False,
    images: Tensor | None = None,
    metadata: Mapping[str, Any] | None = None,
    int8: Tensor | None = None,
    int8_tool: str = "nncf",
    int8_blocks: str = "float",
) -> ExportReport:
    """Write a network for inference to a file, run the file in its engine, and compare.

    Args:
        model: any network that `senet.deploy` takes; it is not touched.
        path: the file: NAME.onnx (ONNX), NAME.xml (OpenVINO IR, with NAME.bin beside it) or
            NAME.pt2 (torch.export).
        example_input: images [N, C, *spatial].
        form: of `senet.deploy`; or "blocked", for ONNX Runtime on CPUs: "portable" in operators
            that keep the layout of its convolutions. Of one image size; on a GPU take "fast".
        dynamic_batch: let the file take any number of images.
        dynamic_size: let it take images of any size.
        images: what is compared, [N, C, *spatial]; random images if not given.
        metadata: JSON-able values to keep in the file, such as class names.
        int8: images [N, C, *spatial] as the network gets them, by which the file is quantised to
            int8; some hundreds of the training images are usual. None writes float32.
        int8_tool: "nncf", or for ONNX also "onnxruntime".
        int8_blocks: "float" leaves the layers and products of SE blocks in float: gates decide
            over whole channels, so they need more digits, and cost little. "int8" quantises them
            as well.

    Returns:
        What was written, and how it compares.

    Raises:
        ConfigError: int8 in a format that no tool quantises; "blocked" of any image size, in int8,
            or in another format than ONNX.
        ExportError: the network cannot be exported, or the file does not compute what the network
            does; no file is left then, and one that was there before stays. An int8 file must keep
            half of the outputs' standard deviation.
        MissingPackageError: the engine is not installed.
        UnknownNameError: the name of the file has an ending of no engine.

    Source: docs/deploy.md.
    """
    target, engine = Path(path), engine_of(Path(path))
    kind = type(example_input).__name__
    if not isinstance(example_input, Tensor):
        raise InputError(f"an exported network takes one tensor of images, got {kind}{_DETECTOR}")
    if int8 is not None:
        check_tool(engine.name, int8_tool, int8_blocks)
    check_blocked(form, engine.name, dynamic_size=dynamic_size, int8=int8 is not None)
    example, as_built = example_input.detach(), "portable" if form == BLOCKED else form
    net = deploy(model, example, form=as_built)
    if int8 is not None and int8_blocks == "int8":
        hide_blocks(net)
    program = _program(net, example, batch=dynamic_batch, size=dynamic_size)
    shown = torch.randn_like(example) if images is None else images.to(example)
    step = _AT_ONCE if dynamic_batch else len(example)
    compare = partial(_compared, net, images=shown, step=step, whole=not dynamic_batch)
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / target.name
        _write(engine, program, written, metadata or {}, form=form)
        loaded = engine.read(written)
        compared = _checked(compare(loaded), loaded, target)
        if int8 is not None:
            blocks = loaded.blocks if int8_blocks == "float" else ()
            leave = [name for block in blocks for name in block.nodes]
            batches = _batches(int8.to(example), 1 if dynamic_batch else step)
            source, written = written, written.with_stem("int8")
            quantise(engine.name, source, written, batches, tool=int8_tool, leave=leave)
            loaded = engine.read(written)
            compared = _checked(compare(loaded), loaded, target, int8=True)
        move(engine, written, target)
    return ExportReport(
        *(str(target), loaded.version, loaded.nodes, len(shown)),
        *(compared.difference, compared.same_class, tuple(cast(Deployment, net.deployment).kept)),
        *(None if int8 is None else int8_tool, len(loaded.blocks)),
        sum(block.in_float for block in loaded.blocks),
    )


def _write(
    engine: Engine, program: Any, path: Path, metadata: Mapping[str, Any], *, form: str
) -> None:
    """Write a network to a file, in operators of its form."""
    engine.write(program, path, metadata)
    if form == BLOCKED:
        keep_blocked(path)


def _batches(images: Tensor, step: int) -> list[Tensor]:
    """Return whole batches of images for calibration."""
    batches = [part.cpu() for part in torch.split(images, step) if len(part) == step]
    if not batches:
        raise InputError(
            f"int8 needs images to calibrate on, at least {step}, got {len(images)}; give some "
            "hundreds"
        )
    return batches


def _checked(compared: _Compared, loaded: Loaded, target: Path, *, int8: bool = False) -> _Compared:
    """Raise unless a file computes what the network does, or in int8 about that."""
    if int8 and not compared.noise <= _NOISE:
        raise ExportError(
            f"the int8 file must compute about what the network does, but in {loaded.version} the "
            f"error of its outputs is {compared.noise:.2g} of their standard deviation; give more "
            f"images of the kind that the network was trained on. {target} was not written"
        )
    if not int8 and not compared.difference <= _ROUNDING:
        raise ExportError(
            f"the exported file must compute what the network does, but in {loaded.version} its "
            f"outputs differ by {compared.difference:.1e} of the largest; {target} was not written"
        )
    return compared


def _program(net: nn.Module, example: Tensor, *, batch: bool, size: bool) -> Any:
    """The network as torch.export sees it."""
    dynamic = {0: torch.export.Dim.DYNAMIC} if batch else {}
    if size:
        dynamic |= dict.fromkeys(range(2, example.dim()), torch.export.Dim.DYNAMIC)
    # torch.export takes a size of 1 for a constant
    like = example.repeat(2, *(1,) * (example.dim() - 1)) if len(example) == 1 else example
    try:
        with quiet(), redirect_stderr(StringIO()):  # torch prints the graph where it gives up
            given = (like if batch else example,)
            return torch.export.export(net, given, dynamic_shapes=(dynamic,))
    except Exception as error:
        wanted = " with any image size" if size else " with any number of images" if batch else ""
        cure = _DETECTOR if "data-dependent" in str(error) else ""  # how many boxes there are
        raise ExportError(
            f"torch.export must trace the network{wanted}, but: {first_line(error)}{cure}"
        ) from error


@final
@dataclass(frozen=True)
class _Compared:
    difference: float  # the largest, relative to the largest output
    noise: float  # root mean square of the differences, relative to the outputs' deviation
    same_class: float | None


@torch.no_grad()
def _compared(
    net: nn.Module, loaded: Loaded, *, images: Tensor, step: int, whole: bool
) -> _Compared:
    """Run network and file on the same images, in whole batches if need be."""
    expected, got = list[list[Tensor]](), list[list[Tensor]]()
    for part in torch.split(images, step):
        if not whole or len(part) == step:
            expected.append([leaf.cpu() for leaf in tensors(net(part))])
            got.append(loaded.run(part.cpu()))
    pairs = [pair for a, b in zip(expected, got, strict=True) for pair in zip(a, b, strict=True)]
    largest = max(float(a.abs().max()) for a, _ in pairs) or 1.0
    difference = max(float((a - b).abs().max()) for a, b in pairs) / largest
    ours, theirs = (torch.cat([pair[i].double().flatten() for pair in pairs]) for i in (0, 1))
    deviation = float(ours.std(correction=0)) or 1.0
    noise = float((theirs - ours).square().mean().sqrt()) / deviation
    first = [a for a, *_ in expected]
    if any(a.dim() != 2 for a in first):
        return _Compared(difference, noise, None)
    classes = (torch.cat([a for a, *_ in each]).argmax(1) for each in (expected, got))
    same = float((next(classes) == next(classes)).double().mean())
    return _Compared(difference, noise, same)


def move(engine: Engine, written: Path, target: Path) -> None:
    """Put the files of a network where they belong, each whole; the one that is read comes last."""
    for suffix in engine.files:
        source = written.with_suffix(suffix)
        write_whole(target.with_suffix(suffix), partial(shutil.copyfile, source))
