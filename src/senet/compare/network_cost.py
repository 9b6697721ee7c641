"""What SE costs in the network of a comparison: counted, and measured in training and deployed."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from senet.compare.experiment import Experiment
from senet.cost import cost
from senet.cost.timing import interleave, wait_for
from senet.deploy import deploy
from senet.errors import SenetError, first_line
from senet.progress import Progress
from senet.training.data import ImageData
from senet.training.loop.checkpoints import load_weights
from senet.training.loop.module import channels_last

__all__ = ["add_deployed", "network_cost"]

_REPEATS, _WARMUP = 15, 2


def network_cost(
    experiment: Experiment, data: ImageData, on_progress: Progress, *, timing: bool
) -> dict[str, Any]:
    """Return the cost report of the arm "se", empty without it."""
    if "se" not in experiment.arms:
        return {}
    on_progress("measuring the cost", 0, 1)
    net = experiment.network("plain", 0, data).to(experiment.device)
    report = cost(
        net.to(memory_format=torch.channels_last),
        channels_last(experiment.some_images(data).to(experiment.device)),
        config=experiment.config.se,
        timing=timing,
    )
    return report.to_dict()


def add_deployed(report: dict[str, Any], experiment: Experiment, data: ImageData) -> None:
    """Measure the latency of the first seed's networks after `senet.deploy`, and add it.

    It is that of the trained networks: deployed, a gate that is still constant costs nothing. Added
    where times were measured and both arms are there.
    """
    timing = report.get("timing")
    if not timing or not {"plain", "se"} <= set(experiment.arms) or "deployed_ms" in timing:
        return
    images = channels_last(experiment.some_images(data).to(experiment.device))
    networks = {}
    try:
        for arm in ("plain", "se"):
            net = load_weights(experiment.network(arm, 0, data), experiment.folder_of(arm, 0))
            networks[arm] = deploy(net.to(experiment.device).eval(), images)
    except SenetError as error:
        report["unavailable"]["deployed_ms"] = first_line(error)
        return
    with torch.inference_mode():
        times = interleave(
            {arm: partial(net, images) for arm, net in networks.items()},
            repeats=_REPEATS,
            warmup=_WARMUP,
            wait=wait_for(experiment.device),
        )
    plain, se, ratio = times.of("plain"), times.of("se"), times.ratio()
    timing["deployed_ms"] = {
        "plain": asdict(plain),
        "se": asdict(se),
        "ratio": asdict(ratio) if ratio else None,
    }
    values = {
        "plain": plain.median,
        "se": se.median,
        "difference": se.median - plain.median,
        "ratio": ratio.median if ratio else None,
    }
    for column, value in values.items():
        report["total"][column]["deployed_ms"] = value
