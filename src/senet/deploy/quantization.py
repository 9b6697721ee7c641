"""int8 by post-training quantisation, with the engines' own tools: NNCF and ONNX Runtime's."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from senet.deploy import quantiser
from senet.deploy.canonical import ChannelGate
from senet.deploy.quantiser import TOOLS
from senet.errors import ConfigError, ExportError, optional, unknown_name

__all__ = ["BLOCKS", "TOOLS", "check_tool", "hide_blocks", "quantise"]

BLOCKS = ("float", "int8")


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
    """Write an int8 file beside a float one, in a process of its own.

    Args:
        engine: name of the files' format.
        path: the float file.
        target: the file to write; the images are kept beside it meanwhile.
        batches: what it is calibrated on.
        tool: of TOOLS[engine].
        leave: names of nodes that stay in float.

    Raises:
        ExportError: the tool failed; its last line is in the message.
        MissingPackageError: the tool is not installed.
    """
    import numpy as np

    with optional(f"int8 by {tool}"):
        if importlib.util.find_spec(tool) is None:
            raise ModuleNotFoundError(f"No module named {tool!r}", name=tool)
    images = target.with_suffix(".npz")
    np.savez(images, *(each.numpy() for each in batches))
    program = [sys.executable, "-P", quantiser.__file__, engine, tool, *map(str, (path, target))]
    where = {"PYTHONPATH": os.pathsep.join(each or str(Path.cwd()) for each in sys.path)}
    try:
        done = subprocess.run(
            [*program, str(images)],
            input="\n".join(leave),
            env=os.environ | where,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        images.unlink()
    if done.returncode:
        last = (done.stderr.strip() or f"ended with {done.returncode}").splitlines()[-1]
        raise ExportError(f"int8 by {tool} failed: {last}")
