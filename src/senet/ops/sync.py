"""Statistics that several processes share: what `torch.nn.SyncBatchNorm` sends, and no more.

The squeeze is per image and stays at home. Forward, each process sends mu, var [C] and its count;
backward, dbeta and q [C] (see `senet.ops.stages`) are summed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["shared_statistics", "shared_sums"]


def shared_statistics(
    m: Tensor, v: Tensor, positions: int, group: ProcessGroup
) -> tuple[Tensor, Tensor, Tensor]:
    """Return mu [C], var [C] (biased) and count [1] of the batch that all processes hold together.

    Processes may hold different numbers of samples, also none.

    Args:
        m: [N, C], the mean over space of each channel of each local sample.
        v: [N, C], the variance.
        positions: L, the number of spatial positions of the local map.
        group: the processes.
    """
    mu = m.sum(0) / max(m.shape[0], 1)
    var = (v + (m - mu) ** 2).sum(0) / max(m.shape[0], 1)
    mine = torch.cat((mu, var, mu.new_full((1,), m.shape[0] * positions)))
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, mine, group=group)
    mus, variances, counts = torch.split(torch.stack(parts), [len(mu), len(mu), 1], dim=1)
    count = counts.sum(0)
    weights = counts / count  # [processes, 1]
    mu = (weights * mus).sum(0)
    return mu, (weights * (variances + (mus - mu) ** 2)).sum(0), count


def shared_sums(dbeta: Tensor, q: Tensor, group: ProcessGroup) -> tuple[Tensor, Tensor]:
    """Return the sums over all processes of dbeta and q, [C] each."""
    both = torch.stack((dbeta, q))
    dist.all_reduce(both, group=group)
    return both[0], both[1]
