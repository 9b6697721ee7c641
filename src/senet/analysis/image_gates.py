"""The gates of one image beside the usual ones: which channels it raises and lowers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.analysis.gate_flow import GateSite, evaluating
from senet.analysis.gates import Gates, six_digits
from senet.analysis.record import Planned
from senet.errors import InputError

__all__ = ["BlockOfImage", "ImageGates", "image_gates"]

_MAP_SIDE = 32  # maps are averaged down to it


@final
@dataclass(frozen=True, eq=False)
class BlockOfImage:
    """One block, run on one image.

    Attributes:
        path: of the block.
        gate: [C].
        usual: mean gate of each channel over the data set, [C].
        order: the channels by their mean over the data set, from low to high, [C].
        raised: the channels whose gates are most above the usual, the first the most.
        lowered: the same below.
        maps: by channel, the map [H, W] that the gate multiplies, averaged down to 32 positions.
    """

    path: str
    gate: Tensor
    usual: Tensor
    order: Tensor
    raised: tuple[int, ...]
    lowered: tuple[int, ...]
    maps: dict[int, Tensor]


@final
@dataclass(frozen=True, eq=False)
class ImageGates:
    """The gates of one image.

    Attributes:
        name: of the image.
        image: [H, W, 3] or [H, W, 1] in 0..1, as it is shown; None if not given.
        answer: what the network says, the best class first, with its score.
        blocks: one entry for each block, in the order of their use.
    """

    name: str
    image: Tensor | None
    answer: tuple[tuple[str, float], ...]
    blocks: tuple[BlockOfImage, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-able form; the image itself is left out."""
        return {
            "name": self.name,
            "answer": [[name, six_digits(score)] for name, score in self.answer],
            "blocks": [
                {
                    "path": block.path,
                    "gate": [six_digits(v) for v in block.gate.tolist()],
                    "usual": [six_digits(v) for v in block.usual.tolist()],
                    "raised": list(block.raised),
                    "lowered": list(block.lowered),
                    "maps": {
                        str(channel): [[six_digits(v) for v in row] for row in of.tolist()]
                        for channel, of in block.maps.items()
                    },
                }
                for block in self.blocks
            ],
        }


def image_gates(
    model: nn.Module,
    image: Tensor,
    gates: Gates,
    *,
    name: str = "image",
    shown: Tensor | None = None,
    count: int = 3,
) -> ImageGates:
    """Return the gates of one image.

    Args:
        model: the network of the gates.
        image: [1, C, H, W] or [C, H, W], as the network gets it, on the model's device.
        gates: of a data set, to compare with.
        name: of the image.
        shown: the image as it is shown, [H, W, 3] or [H, W, 1] in 0..1.
        count: how many channels most raised, and how many most lowered.

    Raises:
        InputError: the gates are not those of this network.
    """
    usual = gates.means()
    planned = Planned(model)
    batch = image if image.dim() == 4 else image[None]

    def kept(site: GateSite, gate: Tensor, of_map: Tensor) -> tuple[Tensor, Tensor]:
        s = gate.reshape(1, site.channels, -1).float().mean(2)[0]
        return s.cpu().to(torch.float64), of_map[0].detach()

    with evaluating(planned.net):
        output, rows = planned.run(batch, read=kept)
    blocks = {}
    for site, (gate, of_map) in rows:
        if site.path not in usual or len(usual[site.path]) != site.channels:
            raise InputError(
                f"gates must be those of this network, and have none of {site.path!r} with "
                f"{site.channels} channels; record them again with record_gates"
            )
        if site.path not in blocks:
            blocks[site.path] = _block(site.path, gate, usual[site.path], of_map, count)
    while isinstance(output, list | tuple):
        output = output[0]
    return ImageGates(name, shown, _answer(output, gates), tuple(blocks.values()))


def _block(path: str, gate: Tensor, usual: Tensor, of_map: Tensor, count: int) -> BlockOfImage:
    apart = (gate - usual).argsort(stable=True).tolist()
    count = min(count, len(apart) // 2)
    lowered, raised = apart[:count], apart[::-1][:count]
    maps = {channel: _small(of_map[channel]) for channel in (*raised, *lowered)}
    order = usual.argsort(stable=True)
    return BlockOfImage(path, gate, usual, order, tuple(raised), tuple(lowered), maps)


def _small(of_map: Tensor) -> Tensor:
    flat = of_map.float().reshape(of_map.shape[0], -1)
    height, width = (min(n, _MAP_SIDE) for n in flat.shape)
    return F.adaptive_avg_pool2d(flat[None, None], (height, width))[0, 0].cpu()


def _answer(output: Any, gates: Gates) -> tuple[tuple[str, float], ...]:
    if not isinstance(output, Tensor) or output.dim() != 2 or output.shape[0] != 1:
        return ()
    scores = output.float().softmax(1)[0].cpu()
    names = gates.classes if len(gates.classes) == len(scores) else [*map(str, range(len(scores)))]
    best = scores.topk(min(3, len(scores)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return tuple((names[k], value) for k, value in pairs)
