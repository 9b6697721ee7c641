"""What a network is built from again: every file of weights of this project carries it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from senet.errors import ConfigError, DataError
from senet.insertion.facts import block_kinds, facts_of, keep_fact
from senet.insertion.folded import take_out_again
from senet.insertion.guard import settle
from senet.insertion.saving import has_written_blocks, plan_of, read_plan
from senet.insertion.surgery import attach
from senet.models.families import NETWORKS
from senet.models.origin import Origin, keep_origin, origin_of
from senet.models.registry import create_model

__all__ = ["base_network", "check_name", "described", "rebuilt"]


def described(model: nn.Module) -> dict[str, Any]:
    """Return what a network is built from again and used with, JSON-able.

    Returns:
        network: its origin; missing where `senet.create_model` did not build it.
        written: whether it is built with SE blocks, which the plan does not hold.
        plan: configuration and sites of the inserted blocks, and the folded blocks, or None.
        blocks: which functions its SE blocks compute.
        head: pooling and dropout of the classifier, where the network names them.
        classes, preprocessing: where they are known.
    """
    settle(model)
    facts = {
        **facts_of(model),
        "written": has_written_blocks(model),
        "plan": plan_of(model),
        "blocks": block_kinds(model),
    }
    with suppress(ConfigError):
        facts["network"] = origin_of(model).to_dict()
    if isinstance(getattr(model, "global_pool", None), str):
        facts["head"] = {name: getattr(model, name) for name in ("global_pool", "drop_rate")}
    return facts


def base_network(facts: Mapping[str, Any], source: str) -> nn.Module:
    """Build the network of a description without its inserted blocks, with random weights.

    Args:
        facts: of `described`.
        source: where they were read, for the message.

    Raises:
        DataError: they do not say which network it is.
    """
    if "network" not in facts:
        raise DataError(
            f"{source} does not say which network it is: one that senet.create_model did not build;"
            " build it, and load the weights with senet.load_weights or senet.load"
        )
    origin = Origin.from_dict(facts["network"])
    network, se = origin.name, origin.se
    if not facts.get("written") and network in NETWORKS:
        network, se = NETWORKS[network].plain, None
    model = create_model(
        network,
        num_classes=origin.num_classes,
        in_chans=origin.in_chans,
        se=se,
        layout=origin.layout,
    )
    for name, value in facts.get("head", {}).items():
        setattr(model, name, value)
    return keep_origin(model, origin)


def rebuilt(facts: Mapping[str, Any], source: str) -> nn.Module:
    """Build the network of a description, with random weights; see `base_network`."""
    model = base_network(facts, source)
    if facts.get("plan") is not None:
        plan = read_plan(facts["plan"], Path(source))
        take_out_again(model, plan.folded)
        attach(model, plan.sites, plan.config)
    for name in ("classes", "preprocessing"):
        if facts.get(name) is not None:
            keep_fact(model, name, facts[name])
    return model


def check_name(facts: Mapping[str, Any], name: str, source: str) -> None:
    """Raise `DataError` unless a description is that of the network of this name.

    A network of this project has two names, without SE blocks and with them; with inserted blocks
    it may be called by either.
    """
    known = facts["network"]["name"]
    asked = NETWORKS.get(name)
    same = name in (known, known.rpartition("/")[2])
    if asked is not None and known in NETWORKS and facts.get("plan") is not None:
        same = asked.plain == NETWORKS[known].plain
    if not same:
        inserted = " with inserted SE blocks" if facts.get("plan") is not None else ""
        raise DataError(f"{source} says that it is of {known}{inserted}, not of {name}")
