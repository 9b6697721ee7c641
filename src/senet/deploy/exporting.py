"""Networks that leave PyTorch: written, run in their engine, and compared before they are kept."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from senet.deploy.engines import Engine, Loaded, engine_of, quiet
from senet.deploy.rewrite import deploy
from senet.errors import ExportError, InputError, first_line
from senet.files import write_whole
from senet.insertion.reading import tensors

__all__ = ["ExportReport", "export"]

# The largest relative difference to PyTorch that is taken for rounding, in float32.
_ROUNDING = 1e-3
_AT_ONCE = 32  # images in a comparison, where the file takes any number


@final
@dataclass(frozen=True)
class ExportReport:
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
    """

    path: str
    engine: str
    nodes: int
    images: int
    difference: float
    same_class: float | None
    kept: tuple[tuple[str, str], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        """Return the report in a few lines."""
        same = "" if self.same_class is None else f", {100 * self.same_class:.2f} % equal classes"
        lines = [
            f"{self.path}: {self.nodes} nodes",
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
) -> ExportReport:
    """Write a network for inference to a file, run the file in its engine, and compare.

    Args:
        model: any network that `senet.deploy` takes; it is not touched.
        path: the file: NAME.onnx (ONNX), NAME.xml (OpenVINO IR, with NAME.bin beside it) or
            NAME.pt2 (torch.export).
        example_input: images [N, C, *spatial].
        form: of `senet.deploy`.
        dynamic_batch: let the file take any number of images.
        dynamic_size: let it take images of any size.
        images: what is compared, [N, C, *spatial]; random images if not given.
        metadata: JSON-able values to keep in the file, such as class names.

    Returns:
        What was written, and how it compares.

    Raises:
        ExportError: the network cannot be exported, or the file does not compute what the network
            does; no file is left then, and one that was there before stays.
        MissingPackageError: the engine is not installed.
        UnknownNameError: the name of the file has an ending of no engine.

    Source: docs/deploy.md.
    """
    target = Path(path)
    engine = engine_of(target)
    if not isinstance(example_input, Tensor):
        raise InputError(
            f"an exported network takes one tensor of images, got {type(example_input).__name__}"
        )
    example = example_input.detach()
    net = deploy(model, example, form=form)
    program = _program(net, example, batch=dynamic_batch, size=dynamic_size)
    shown = torch.randn_like(example) if images is None else images.to(example)
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / target.name
        engine.write(program, written, metadata or {})
        loaded = engine.read(written)
        difference, same = _compare(net, loaded, shown, len(example), batch=dynamic_batch)
        if not difference <= _ROUNDING:
            raise ExportError(
                f"the exported file must compute what the network does, but in {loaded.version} "
                f"its outputs differ by {difference:.1e} of the largest; {target} was not written"
            )
        _move(engine, written, target)
    done: Any = net.deployment
    return ExportReport(
        str(target), loaded.version, loaded.nodes, len(shown), difference, same, tuple(done.kept)
    )


def _program(net: nn.Module, example: Tensor, *, batch: bool, size: bool) -> Any:
    """The network as torch.export sees it."""
    dynamic = {0: torch.export.Dim.DYNAMIC} if batch else {}
    if size:
        dynamic |= dict.fromkeys(range(2, example.dim()), torch.export.Dim.DYNAMIC)
    # torch.export takes a size of 1 for a constant
    like = example.repeat(2, *(1,) * (example.dim() - 1)) if len(example) == 1 else example
    try:
        with quiet():
            given = (like if batch else example,)
            return torch.export.export(net, given, dynamic_shapes=(dynamic,))
    except Exception as error:
        wanted = " with any image size" if size else " with any number of images" if batch else ""
        raise ExportError(
            f"torch.export must trace the network{wanted}, but: {first_line(error)}"
        ) from error


@torch.no_grad()
def _compare(
    net: nn.Module, loaded: Loaded, images: Tensor, step: int, *, batch: bool
) -> tuple[float, float | None]:
    """Return the largest relative difference, and the share of equal classes."""
    expected, got = list[list[Tensor]](), list[list[Tensor]]()
    for part in torch.split(images, max(step, _AT_ONCE) if batch else step):
        if batch or len(part) == step:
            expected.append([leaf.cpu() for leaf in tensors(net(part))])
            got.append(loaded.run(part.cpu()))
    pairs = [pair for a, b in zip(expected, got, strict=True) for pair in zip(a, b, strict=True)]
    largest = max(float(a.abs().max()) for a, _ in pairs) or 1.0
    difference = max(float((a - b).abs().max()) for a, b in pairs) / largest
    first = [a for a, *_ in expected]
    if any(a.dim() != 2 for a in first):
        return difference, None
    ours, theirs = torch.cat(first), torch.cat([b for b, *_ in got])
    return difference, float((ours.argmax(1) == theirs.argmax(1)).double().mean())


def _move(engine: Engine, written: Path, target: Path) -> None:
    """Put the files of a network where they belong, each whole; the one that is read comes last."""
    for suffix in engine.files:
        source = written.with_suffix(suffix)
        write_whole(target.with_suffix(suffix), partial(shutil.copyfile, source))
