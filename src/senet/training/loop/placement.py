"""Where a run is trained: one device, several, or several machines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, final

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch import distributed

from senet.errors import ConfigError
from senet.schema import Config, option

__all__ = [
    "Placement",
    "find_device",
    "gathered",
    "is_first_process",
    "own_device",
    "processes",
]

T = TypeVar("T")


def find_device(name: str) -> torch.device:
    """Return the device for a name: "auto", "cpu", "cuda", "cuda:1", "mps".

    Raises:
        ConfigError: there is no such device here.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next((kind for kind, is_there in there.items() if is_there), "cpu"))
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if not (device.type == "cpu" or there.get(device.type)) or (device.index or 0) >= count:
        here = ", ".join(["auto", "cpu", *(kind for kind, is_there in there.items() if is_there)])
        raise ConfigError(f"device must be one that is here ({here}), got {name!r}")
    return device


@final
@dataclass(frozen=True)
class Placement(Config):
    """On which devices a run is trained.

    Attributes:
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        devices: how many on each machine; torchrun and SLURM have said it already.
        nodes: how many machines; likewise.
        strategy: "auto", "ddp" (a copy of the network on each device) or "fsdp" (a part of it on
            each GPU). "auto": ddp on several devices.
        join: take part in what torchrun or SLURM has started, if it has.

    Raises:
        ConfigError: a value that cannot be.
    """

    device: str = "auto"
    devices: int = option(1, least=1)
    nodes: int = option(1, least=1)
    strategy: str = option("auto", choices=("auto", "ddp", "fsdp"))
    join: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.strategy == "fsdp" and self.kind != "cuda":
            raise ConfigError("strategy 'fsdp' needs GPUs; try 'ddp'")

    @property
    def kind(self) -> str:
        """The kind of device: cpu, cuda or mps."""
        return find_device(self.device).type

    @property
    def several(self) -> bool:
        """Whether there is more than one process."""
        devices, nodes = self.shape()
        return devices * nodes > 1

    def shape(self) -> tuple[int, int]:
        """Return devices per machine and machines: as they were started, else as asked for."""
        env = os.environ
        if self.join and "TORCHELASTIC_RUN_ID" in env:
            local = int(env["LOCAL_WORLD_SIZE"])
            return local, int(env["WORLD_SIZE"]) // local
        if self.join and SLURMEnvironment.detect() and "SLURM_NTASKS" in env:
            nodes = int(env.get("SLURM_NNODES", "1"))
            return int(env["SLURM_NTASKS"]) // nodes, nodes
        return self.devices, self.nodes

    def options(self) -> dict[str, Any]:
        """Return the options of Lightning's trainer."""
        device = find_device(self.device)
        devices, nodes = self.shape()
        options: dict[str, Any] = {
            "accelerator": "gpu" if device.type == "cuda" else device.type,
            "devices": devices,
            "num_nodes": nodes,
        }
        if not self.several:
            options["devices"] = [device.index or 0] if device.type == "cuda" else 1
            plugins: list[Any] = [LightningEnvironment()]  # one process, also in a cluster's job
        else:
            options["strategy"] = "fsdp" if self.strategy == "fsdp" else "ddp"
            options["use_distributed_sampler"] = False  # the data have their own
            # the project saves and stops by itself
            plugins = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
        return {**options, "plugins": plugins}


@contextmanager
def processes() -> Iterator[tuple[int, int]]:
    """Give the number of this process, and how many torchrun began; inside they form a group."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        yield 0, 1
        return
    distributed.init_process_group("gloo")
    try:
        yield distributed.get_rank(), distributed.get_world_size()
    finally:
        distributed.destroy_process_group()


def gathered(parts: list[T]) -> list[T]:
    """Return the parts of all processes of the group, in the order of the processes."""
    if not distributed.is_initialized():
        return parts
    of_all: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(of_all, parts)
    return [part for of_one in of_all for part in of_one]


def own_device(device: torch.device) -> torch.device:
    """Return a GPU for this process alone, where several processes share a machine's."""
    if str(device) == "cuda" and distributed.is_initialized():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return device


def is_first_process() -> bool:
    """Whether this is the process that writes and speaks, of those that torchrun or SLURM began."""
    return bool(getattr(rank_zero_only, "rank", 0) == 0)
