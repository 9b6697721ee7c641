"""What a network costs when it is run: both models as `senet.deploy` leaves them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import nn

from senet.blocks import SqueezeExcitation
from senet.cost.cost_rows import QUANTITIES, RUN_QUANTITIES, Ledger, Row, total
from senet.cost.model_copies import copied, copied_input, forward, reason_of
from senet.cost.op_counter import count_forward, count_parameters
from senet.cost.timing import Timing, interleave, wait_for
from senet.deploy import deploy

__all__ = ["Deployed", "deployed_cost"]


@final
@dataclass(frozen=True)
class Deployed:
    """Counts and latency of the deployed networks.

    Attributes:
        total: counts of the whole networks; nothing of a training step.
        latency: milliseconds of one forward, or None where none was asked for.
    """

    total: Row
    latency: Timing | None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able values, in the form of `CostReport.to_dict`."""
        numbers: dict[str, Any] = {
            label: {quantity: getattr(counts, quantity) for quantity in RUN_QUANTITIES}
            for label, counts in self.total.counts.items()
        }
        if len(numbers) > 1:
            for name in ("difference", "ratio"):
                of = getattr(self.total, name)
                numbers[name] = {quantity: of(quantity) for quantity in RUN_QUANTITIES}
        spread = self.latency and self.latency.spread()
        for column, cells in numbers.items():
            quartiles = spread and spread.get(column)
            cells["latency_ms"] = quartiles and quartiles["median"]
        if spread and len(self.total.counts) > 1:
            plain, se = (spread[label]["median"] for label in self.total.counts)
            numbers["difference"]["latency_ms"] = se - plain
        return {"total": numbers, "latency_ms": spread}


def deployed_cost(
    models: Mapping[str, nn.Module],
    example_input: Any,
    device: torch.device,
    *,
    repeats: int,
    warmup: int,
    unavailable: dict[str, str],
) -> Deployed | None:
    """Count and time the models as `senet.deploy` leaves them; without `repeats`, only count.

    A block that was never trained has a gate of 1, and deploying takes it away. Its last layer gets
    random weights first, so that what is left is what is left of a block that does something.

    Returns:
        None where one of them cannot be deployed; `unavailable` says why.
    """
    if device.type == "meta":
        unavailable["deployed"] = "the model is on the meta device"
        return None
    example = copied_input(example_input)
    try:
        networks = {name: deploy(_as_trained(each), example) for name, each in models.items()}
        counts = {name: count_forward(copied(net), example) for name, net in networks.items()}
        tasks = {name: partial(forward, net, example) for name, net in networks.items()}
        wait = wait_for(device)
        latency = None
        if repeats:
            latency = interleave(tasks, repeats=repeats, warmup=warmup, wait=wait)
    except Exception as error:  # noqa: BLE001 - what cannot be deployed is said, whatever it is
        unavailable["deployed"] = reason_of(error)
        return None
    ledgers: dict[str, Ledger] = {
        name: {
            **dict.fromkeys(QUANTITIES),
            "parameters": count_parameters(networks[name]),
            "macs": counted.macs,
            "bytes_moved_forward": counted.moved,
        }
        for name, counted in counts.items()
    }
    return Deployed(total(ledgers), latency)


@torch.no_grad()
def _as_trained(model: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode of which no gate is constant for want of training."""
    net = copied(model).eval()
    for module in net.modules():
        if isinstance(module, SqueezeExcitation) and not module.fc2.weight.any():
            nn.init.normal_(module.fc2.weight, std=1e-3)
    return net
