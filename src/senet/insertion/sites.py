"""Where SE blocks belong in a model: `find_sites` reads, and changes nothing."""

from __future__ import annotations

import fnmatch
import math
from typing import Any

from torch import nn

from senet.insertion.anchors import CONTAINERS, Anchor, anchors_for, choose, kind_of, stage_of
from senet.insertion.config import SEConfig, Selector
from senet.insertion.operators import ADDITIONS
from senet.insertion.refusals import check_model
from senet.insertion.site_plan import Site, SitePlan
from senet.insertion.trace import Call, record_flow
from senet.insertion.units import Unit, Units, find_units

__all__ = ["find_sites"]


def _has_gate(units: Units, unit: Unit) -> bool:
    """Whether the unit's branch, or its joined map, has a gate of its own already."""
    join, depth = unit.join, units.flow.depth
    for product, map_ in ((gated.product, gated.map) for gated in units.gating.existing):
        before, behind = join.comes_from(product), map_.comes_from(join)
        inside = unit.branch.comes_from(product) and product.index > unit.fork.index
        if (
            map_ is join
            or (unit.kind == "plain" and before and depth(product, join) == 1)
            or (unit.kind != "plain" and inside and map_.comes_from(unit.fork))
            or (unit.kind == "concat" and behind and depth(join, map_) <= 1)
        ):
            return True
    return False


def _alike(units: Units, all_units: list[Unit]) -> tuple[list[Unit], list[Call]]:
    """Blocks of a residual one's class without an identity: their stride or width forbids it."""
    forked = [unit for unit in all_units if unit.branch is not unit.join]
    blocks = {unit.block for unit in forked} - {""}
    kinds = {type(units.modules[block]) for block in blocks}
    extra, calls = [], []
    for path, module in units.modules.items():
        runs = units.flow.calls_of[path]
        if type(module) not in kinds or isinstance(module, CONTAINERS) or len(runs) != 1:
            continue
        call = runs[0]
        if any(call.makes(unit.join) for unit in forked):
            continue
        if call.output is None or call.input is None or not call.output.is_map:
            continue
        if units.flow.depth(call.input, call.output) >= 2:
            extra.append(Unit("residual", call.output, call.input, call.output, path))
            calls.append(call)
    return extra, calls


def _selected(selector: Selector, site: Site) -> bool:
    if callable(selector):
        return bool(selector(site))
    patterns = (selector,) if isinstance(selector, str) else tuple(selector or ())
    return any(fnmatch.fnmatchcase(site.path, pattern) for pattern in patterns)


def _wanted(site: Site, config: SEConfig) -> bool:
    in_stage = config.stages is None or site.stage in config.stages
    included = config.include is None or _selected(config.include, site)
    return in_stage and included and not _selected(config.exclude, site)


def _in_head(model: nn.Module, site: Site) -> bool:
    """Whether a site is in a detector (of torchvision's build) and not in its backbone."""
    detector = hasattr(model, "backbone") and (
        hasattr(model, "roi_heads") or hasattr(model, "anchor_generator")
    )
    return detector and not site.path.startswith("backbone.")


def _site(
    units: Units, unit: Unit, anchor: Anchor, config: SEConfig, image: tuple[int, ...]
) -> Site:
    _, channels, *size = anchor.value.shape
    hidden = config.hidden_for(channels)
    positions = math.prod(size) if config.squeeze == "none" else 1
    vectors = (hidden + channels if config.bias else 0) + channels * (config.squeeze == "constant")
    return Site(
        path=anchor.path,
        where=anchor.where,
        kind=kind_of(units, unit, anchor),
        unit=unit.kind,
        block=unit.block,
        channels=channels,
        hidden=hidden,
        size=tuple(size),
        stage=stage_of(image, tuple(size)),
        parameters=2 * channels * hidden + vectors,
        macs=2 * channels * hidden * positions,
    )


def _looked_at(units: Units, all_units: list[Unit]) -> str:
    values = units.flow.values
    sums = [value for value in values if value.op in ADDITIONS]
    maps = sum(value.is_map for value in sums)
    cats = sum(value.op == "cat" for value in values)
    convolutions = sum(bool(value.weight_shape) for value in values)
    text = (
        f"looked at {len(units.flow.calls)} module calls: {convolutions} convolutions, "
        f"{len(sums)} additions ({maps} of feature maps), {cats} concatenations, "
        f"{len(units.gating.existing)} gates; {len(all_units)} units"
    )
    if not all_units and len(sums) > maps:
        text += (
            "; its additions join tokens, not feature maps [N, C, *spatial]: "
            "SE rescales the channels of convolutional maps"
        )
    return text


def _image(units: Units) -> tuple[int, ...]:
    """The spatial size that the first convolution reads."""
    read = (v.parents[0].shape[2:] for v in units.flow.values if v.weight_shape and v.parents)
    return next(read, ())


def find_sites(model: nn.Module, example_input: Any, config: SEConfig | None = None) -> SitePlan:
    """Find where SE blocks belong in a model, from the data flow of one forward pass.

    Nothing is changed.

    A site is the end of a residual branch where it meets its identity; a concatenation of branches;
    or, in a network without either, the activation behind a plain convolution. Other integrations
    of the paper are chosen in the configuration.

    Args:
        model: any network; it runs once in evaluation mode, without gradients.
        example_input: a tensor [N, C, *spatial], a tuple of positional arguments, or a dict of
            keyword arguments.
        config: which sites, and how large the blocks would be.

    Returns:
        The plan: a sequence of `Site`; `print` it to read it. It is empty where nothing was found,
        and says why.

    Raises:
        InsertionError: the model, or a part of it, is compiled, wrapped, traced, scripted,
            quantised or lazy.
        InputError: the model does not run on the example input.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU())
        >>> plan = find_sites(net, torch.zeros(1, 3, 16, 16))
        >>> [(site.path, site.channels, site.hidden) for site in plan]
        [('1', 32, 2), ('3', 64, 4)]
    """
    config = config or SEConfig()
    check_model(model)
    units = Units(record_flow(model, example_input), dict(model.named_modules()))
    all_units = find_units(units)
    if config.integration in ("standard", "inner", "inner_act"):
        extra, calls = _alike(units, all_units)
        others = [u for u in all_units if not any(call.makes(u.join) for call in calls)]
        all_units = sorted(others + extra, key=lambda unit: unit.join.index)
    gated = [u for u in all_units if config.existing == "skip" and _has_gate(units, u)]
    skipped = [(unit.block, "has an SE block, or a gate of its kind, already") for unit in gated]
    free = [unit for unit in all_units if unit not in gated]
    chosen = choose(units, [anchors_for(units, unit, config.integration) for unit in free])
    image, sites = _image(units), dict[tuple[str, str], Site]()
    for unit, anchor in zip(free, chosen, strict=True):
        if anchor is None:
            reason = f"no module boundary for integration {config.integration!r}"
            skipped.append((unit.block, reason))
            continue
        site = _site(units, unit, anchor, config, image)
        if config.include is None and _in_head(model, site):
            reason = "in the head of a detector; `include` takes it all the same"
            skipped.append((unit.block, reason))
        elif _wanted(site, config):
            sites.setdefault((site.path, site.where), site)
    existing = tuple(dict.fromkeys(gated.product.scope for gated in units.gating.existing))
    return SitePlan(
        tuple(sites.values()), existing, tuple(skipped), _looked_at(units, all_units), config
    )
