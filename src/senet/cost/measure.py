"""`senet.cost`: which two models are compared, and the run of all counts and timings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from senet.cost import cost_rows
from senet.cost.as_deployed import deployed_cost
from senet.cost.cost_report import Conditions, CostReport
from senet.cost.model_copies import copied, copied_input, forward, reason_of, train_step
from senet.cost.op_counter import RunCounts, count_forward, count_parameters, count_step
from senet.cost.timing import Timing, interleave, wait_for
from senet.errors import ConfigError, InputError, NoSitesError
from senet.insertion import SEConfig, Site, insert, remove
from senet.insertion.graft import grafts
from senet.insertion.guard import settle
from senet.insertion.reading import tensors, unchanged

__all__ = ["cost"]

_Models = Mapping[str, nn.Module]


def cost(
    model: nn.Module,
    example_input: Any,
    *,
    config: SEConfig | None = None,
    against: nn.Module | None = None,
    timing: bool = True,
    as_deployed: bool | None = None,
    repeats: int = 15,
    warmup: int = 2,
) -> CostReport:
    """Report what SE blocks cost in a network: counted exactly, and measured.

    A plain model is compared with a copy that has SE blocks, a model with blocks from
    `senet.insert` with a copy without, and any model with the one given as `against`. A plain
    model without a place for a block (it has its own, or no convolutions) is reported alone.

    Everything runs on copies: the model, the input and the random generators stay as they are.
    docs/cost.md says how each number is defined.

    Args:
        model: any network, before it is compiled, wrapped for parallel training, or traced.
        example_input: a tensor, a tuple of arguments, or a dict of keyword arguments, on the
            model's device. Counts and times are those of this input, batch and all.
        config: which blocks a plain model gets; `SEConfig()` if not given.
        against: the plain model, where it cannot be made from `model`.
        timing: measure times too; the counts alone take a second or two.
        as_deployed: report both models as `senet.deploy` leaves them too; as `timing` if not given.
        repeats: timed runs of each model.
        warmup: runs of each model before.

    Raises:
        ConfigError: a number of runs that cannot be, or a `config` where it changes nothing.
        InputError: the model cannot be copied, has lazy modules, or does not run on the input.
        NoSitesError: a `config` is given, and no place for a block is found.
        InsertionError: the model is compiled, wrapped, traced or scripted.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU())
        >>> report = cost(net, torch.randn(2, 3, 8, 8), timing=False)
        >>> report.total.counts["plain"].macs, report.total.difference("macs")
        (62208, 256)
    """
    _check(model, against, config, repeats=repeats, warmup=warmup)
    first = next(
        (t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()), None
    )
    device = torch.device("cpu") if first is None else first.device
    conditions = _conditions(model, example_input, first, device, repeats=repeats, warmup=warmup)
    # the models are copied, not run; but a hook on a copy may still reach what it was made for
    with (
        unchanged(*(m for m in (model, against) if m is not None), example_input=example_input),
        torch.inference_mode(mode=False),
        torch.autocast("cpu" if device.type == "meta" else device.type, enabled=False),
    ):
        models, sites, notes = _compared(model, example_input, config, against)
        forwards, steps, unavailable = _counted(models, example_input, notes)
        times = _timed(models, example_input, device, conditions, unavailable) if timing else {}
        deployed = None
        if timing if as_deployed is None else as_deployed:
            deployed = deployed_cost(
                *(models, example_input, device),
                repeats=repeats if timing else 0,
                warmup=warmup,
                unavailable=unavailable,
            )
    ledgers = {label: _ledger(models[label], forwards[label], steps.get(label)) for label in models}
    groups = cost_rows.groups_of(sites, list(models.values()))
    return CostReport(
        total=cost_rows.total(ledgers),
        stages=cost_rows.by_stage(ledgers, groups),
        blocks=cost_rows.by_block(ledgers, groups),
        latency=times.get("latency_ms"),
        step=times.get("step_ms"),
        deployed=deployed,
        unavailable=unavailable,
        without_formula={label: counts.without_formula for label, counts in forwards.items()},
        notes=tuple(notes),
        conditions=conditions,
    )


def _check(
    model: nn.Module,
    against: nn.Module | None,
    config: SEConfig | None,
    *,
    repeats: int,
    warmup: int,
) -> None:
    for each in (model,) if against is None else (model, against):
        if not isinstance(each, nn.Module):
            raise InputError(
                f"cost needs models of type torch.nn.Module, got {type(each).__name__}; "
                "a network by name comes from senet.create_model(name)"
            )
        if any(is_lazy(t) for t in (*each.parameters(), *each.buffers())):
            raise InputError(
                f"the parameters of {type(each).__name__} must have their shapes, but it has lazy "
                "modules; run it once on a batch"
            )
    if repeats < 1 or warmup < 0:
        raise ConfigError(
            f"repeats must be at least 1 and warmup at least 0, got {repeats} and {warmup}; "
            "to count without timing give timing=False"
        )
    settle(model)
    if config is not None and (against is not None or grafts(model)):
        reason = "against is given" if against is not None else "it has inserted SE blocks"
        raise ConfigError(
            f"config must be left out unless the model is the plain one, but {reason}; "
            "call senet.remove(model) first to choose other blocks"
        )


def _conditions(
    model: nn.Module,
    example_input: Any,
    first: Tensor | None,
    device: torch.device,
    *,
    repeats: int,
    warmup: int,
) -> Conditions:
    """Under what is measured; `first` is a floating-point tensor of the model, if it has one."""
    return Conditions(
        model=type(model).__name__,
        input=tuple(tuple(tensor.shape) for tensor in tensors(example_input)),
        dtype="no parameters" if first is None else str(first.dtype).removeprefix("torch."),
        device=_name(device),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        repeats=repeats,
        warmup=warmup,
    )


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)


def _compared(
    model: nn.Module, example_input: Any, config: SEConfig | None, against: nn.Module | None
) -> tuple[dict[str, nn.Module], tuple[Site, ...], list[str]]:
    """The models by label, where the SE blocks are, and what a reader should know."""
    if grafts(model):
        plain = copied(model)
        sites = remove(plain)
        return {"plain": plain if against is None else against, "se": model}, sites, []
    if against is not None:
        return {"plain": against, "se": model}, (), []
    se = copied(model)
    try:
        sites = insert(se, copied_input(example_input), config).sites
    except NoSitesError as error:
        if config is not None:
            raise
        return {"model": model}, (), [f"reported alone: {error}"]
    return {"plain": model, "se": se}, sites, []


def _counted(
    models: _Models, example_input: Any, notes: list[str]
) -> tuple[dict[str, RunCounts], dict[str, RunCounts], dict[str, str]]:
    """The counts of a forward and of a step by label, and why the latter's are missing."""
    try:
        forwards = _count(count_forward, models, example_input, "the forward", notes)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            "the model must run on the example input in evaluation mode, but gave "
            f"{reason_of(error)}; give an input as in use, on the model's device"
        ) from error
    try:
        return forwards, _count(count_step, models, example_input, "the training step", notes), {}
    except Exception as error:  # noqa: BLE001 - a model may refuse to train on this input
        return forwards, {}, dict.fromkeys(("bytes_moved_step", "bytes_kept"), reason_of(error))


def _count(
    count: Callable[[nn.Module, Any], RunCounts],
    models: _Models,
    example_input: Any,
    what: str,
    notes: list[str],
) -> dict[str, RunCounts]:
    """Count on the meta device, where nothing is computed; where a model cannot, on a real run."""
    try:
        with torch.device("meta"):
            example = copied_input(example_input, "meta")
            return {label: count(copied(model, "meta"), example) for label, model in models.items()}
    except Exception as error:  # noqa: BLE001 - a model may do what has no meaning without values
        reason = reason_of(error)
    counts = {
        label: count(copied(model), copied_input(example_input)) for label, model in models.items()
    }
    notes.append(f"{what} was counted on a real run, since on the meta device it gave {reason}")
    return counts


def _timed(
    models: _Models,
    example_input: Any,
    device: torch.device,
    conditions: Conditions,
    unavailable: dict[str, str],
) -> dict[str, Timing]:
    """Time a forward and a step of the models in turn; note what cannot be."""
    runs: dict[str, tuple[Callable[[nn.Module, Any], Any], bool]]
    runs = {"latency_ms": (forward, False), "step_ms": (train_step, True)}
    if device.type == "meta":
        unavailable |= dict.fromkeys(runs, "the model is on the meta device")
        return {}
    example, times = copied_input(example_input), {}
    copies = {label: copied(model) for label, model in models.items()}
    for name, (run, training) in runs.items():
        tasks = {
            label: partial(run, each.train(training), example) for label, each in copies.items()
        }
        try:
            times[name] = interleave(
                tasks,
                repeats=conditions.repeats,
                warmup=conditions.warmup,
                wait=wait_for(device),
            )
        except Exception as error:  # noqa: BLE001 - a model may refuse to train on this input
            unavailable[name] = reason_of(error)
    return times


def _ledger(
    model: nn.Module, use: RunCounts, step: RunCounts | None
) -> dict[str, Counter[str] | None]:
    return {
        "parameters": count_parameters(model),
        "macs": use.macs,
        "bytes_moved_forward": use.moved,
        "bytes_moved_step": None if step is None else step.moved,
        "bytes_kept": None if step is None else step.kept,
    }
