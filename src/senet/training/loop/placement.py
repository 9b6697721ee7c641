"""Where a run is trained: one device, several, or several machines."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, final

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only

from senet.errors import ConfigError
from senet.schema import Config, option

__all__ = ["Placement", "find_device", "is_first_process"]


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


def is_first_process() -> bool:
    """Whether this is the process that writes and speaks, of those that torchrun or SLURM began."""
    return bool(getattr(rank_zero_only, "rank", 0) == 0)
