"""Networks that leave PyTorch: written, run in their engine, and compared before they are kept."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from senet.deploy.blocked import BLOCKED, check_blocked, keep_blocked
from senet.deploy.engines import Engine, engine_of, quiet
from senet.deploy.file_agreement import checked, compared
from senet.deploy.quantization import check_tool, hide_blocks, quantise
from senet.deploy.rewrite import Deployment, deploy
from senet.errors import ExportError, InputError, SenetError, first_line
from senet.files import write_whole
from senet.schema import Record

__all__ = ["ExportReport", "export", "move", "target_of"]

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
        difference: the largest difference in an output, relative to the largest value of that
            output; of several outputs, that which differs most.
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
        example_input: images [N, C, *spatial], in the type of the network. OpenVINO takes float32,
            float16 and float64, ONNX Runtime on CPUs float32 and float16, `.pt2` any.
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
            does; no file is left then, and one that was there before stays. The error of an int8
            file must stay below half of the outputs' standard deviation.
        InputError: images that the file will not take, metadata that are not JSON-able, or a
            folder in the place of the file.
        MissingPackageError: the engine is not installed.
        UnknownNameError: the name of the file has an ending of no engine.

    Source: docs/deploy.md.
    """
    target, engine = target_of(path)
    shapes = {"batch": dynamic_batch, "size": dynamic_size}
    _check_tensors(example_input, {"images": images, "int8": int8}, **shapes)
    _check_metadata(metadata)
    if int8 is not None:
        check_tool(engine.name, int8_tool, int8_blocks)
    check_blocked(form, engine.name, dynamic_size=dynamic_size, int8=int8 is not None)
    example, as_built = example_input.detach(), "portable" if form == BLOCKED else form
    net = deploy(model, example, form=as_built)
    if int8 is not None and int8_blocks == "int8":
        hide_blocks(net)
    program = _program(net, example, **shapes)
    step = _AT_ONCE if dynamic_batch else len(example)
    shown = _random_like(example) if images is None else images.to(example)
    shown = shown if dynamic_batch else shown[: len(shown) // step * step]  # whole batches
    compare = partial(compared, net, images=shown, step=step)
    with tempfile.TemporaryDirectory() as folder, _engine_errors(engine, target, example):
        written = Path(folder) / target.name
        _write(engine, program, written, metadata or {}, form=form)
        loaded = engine.read(written)
        result = checked(compare(loaded), loaded, target)
        if int8 is not None:
            blocks = loaded.blocks if int8_blocks == "float" else ()
            leave = [name for block in blocks for name in block.nodes]
            batches = _batches(int8.to(example), 1 if dynamic_batch else step)
            source, written = written, written.with_stem("int8")
            quantise(engine.name, source, written, batches, tool=int8_tool, leave=leave)
            loaded = engine.read(written)
            result = checked(compare(loaded), loaded, target, int8=True)
        move(engine, written, target)
    return ExportReport(
        *(str(target), loaded.version, loaded.nodes, len(shown)),
        *(result.difference, result.same_class, tuple(cast(Deployment, net.deployment).kept)),
        *(None if int8 is None else int8_tool, len(loaded.blocks)),
        sum(block.in_float for block in loaded.blocks),
    )


def target_of(path: str | Path) -> tuple[Path, Engine]:
    """Return the file to write, and its engine.

    Raises:
        InputError: there is a folder of that name.
        UnknownNameError: the name has an ending of no engine.
    """
    target, engine = Path(path), engine_of(Path(path))
    for suffix in engine.files:
        if target.with_suffix(suffix).is_dir():
            raise InputError(
                f"path must be a file, but {target.with_suffix(suffix)} is a folder; choose "
                "another name"
            )
    return target, engine


def _check_tensors(
    example: Any, given: Mapping[str, Tensor | None], *, batch: bool, size: bool
) -> None:
    """Raise unless the example is one tensor, and the other images are like it."""
    if not isinstance(example, Tensor):
        kind = type(example).__name__
        raise InputError(f"an exported network takes one tensor of images, got {kind}{_DETECTOR}")
    for name, images in given.items():
        if images is not None:
            _check_images(name, images, example, batch=batch, size=size)


def _check_images(name: str, images: Any, example: Tensor, *, batch: bool, size: bool) -> None:
    """Raise unless these are images that the file will take, enough for a batch."""
    least = 1 if batch else len(example)
    got = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
    fixed = 2 if size else example.dim()
    if (
        isinstance(got, list)
        and len(got) == example.dim()
        and got[0] >= least
        and got[1:fixed] == list(example.shape[1:fixed])
    ):
        return
    sizes = ["any" if size else str(n) for n in example.shape[2:]]
    wanted = " x ".join(["N", str(example.shape[1]), *sizes])
    shape = " x ".join(map(str, got)) if isinstance(got, list) else got
    cure = "; dynamic_size=True lets the file take any size" if not size else ""
    raise InputError(
        f"{name} must be a tensor of images {wanted}, N at least {least}, got {shape}{cure}"
    )


def _check_metadata(metadata: Any) -> None:
    """Raise unless metadata can be kept in a file."""
    if metadata is None:
        return
    try:
        json.dumps(dict(metadata))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"metadata must be a mapping of JSON-able values (names to strings, numbers, lists), "
            f"but: {first_line(error)}"
        ) from error


@contextmanager
def _engine_errors(engine: Engine, target: Path, example: Tensor) -> Iterator[None]:
    """Say in one line what an engine cannot do."""
    try:
        yield
    except (SenetError, OSError):
        raise
    except Exception as error:  # engines raise anything
        kind = str(example.dtype).removeprefix("torch.")
        cure = "" if kind == "float32" else f"; it is in {kind}, try it in float32: model.float()"
        raise ExportError(
            f"{engine.name} must take the network, but: {first_line(error)}{cure}. {target} was "
            "not written"
        ) from error


def _write(
    engine: Engine, program: Any, path: Path, metadata: Mapping[str, Any], *, form: str
) -> None:
    """Write a network to a file, in operators of its form."""
    engine.write(program, path, metadata)
    if form == BLOCKED:
        keep_blocked(path)


def _random_like(example: Tensor) -> Tensor:
    """Return random images; of pixels in whole numbers the example itself."""
    return torch.randn_like(example) if example.is_floating_point() else example


def _batches(images: Tensor, step: int) -> list[Tensor]:
    """Return whole batches of images for calibration."""
    return [part.cpu() for part in torch.split(images, step) if len(part) == step]


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


def move(engine: Engine, written: Path, target: Path) -> None:
    """Put the files of a network where they belong, once all of them are there.

    The one that is read comes last, and an older one goes before its weights do: whenever this is
    interrupted, no file is left that would be read with the weights of another.
    """
    *others, main = [s for s in engine.files if written.with_suffix(s).is_file()]

    def copy_other(suffix: str, partial_file: Path) -> None:
        shutil.copyfile(written.with_suffix(suffix), partial_file)
        target.with_suffix(main).unlink(missing_ok=True)

    def copy_main(partial_file: Path) -> None:
        shutil.copyfile(written.with_suffix(main), partial_file)
        for suffix in others:
            write_whole(target.with_suffix(suffix), partial(copy_other, suffix))

    write_whole(target.with_suffix(main), copy_main)
