"""`senet.cost`: which two models are compared, and the run of all counts and timings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from senet.cost import cost_rows, op_counter, timing
from senet.cost.cost_figures import Conditions
from senet.cost.cost_report import CostReport
from senet.cost.model_copies import (
    copied,
    copied_input,
    forward,
    on_meta,
    reason_of,
    train_step,
)
from senet.errors import ConfigError, InputError, NoSitesError
from senet.insertion import SEConfig, Site, insert, remove
from senet.insertion.graft import grafts
from senet.insertion.guard import settle
from senet.insertion.reading import tensors, unchanged

__all__ = ["cost"]


class _Subject(NamedTuple):
    """The models to measure, by label, and where the SE blocks are."""

    models: dict[str, nn.Module]
    sites: tuple[Site, ...]
    note: str = ""


def cost(
    model: nn.Module,
    example_input: Any,
    *,
    config: SEConfig | None = None,
    against: nn.Module | None = None,
    timing: bool = True,
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
    device, dtype = _placement(model)
    models = (model,) if against is None else (model, against)
    with _undisturbed(*models, example_input=example_input, device=device):
        subject = _subject(model, example_input, config, against)
        conditions = Conditions(
            model=type(model).__name__,
            input=tuple(tuple(tensor.shape) for tensor in tensors(example_input)),
            dtype=dtype,
            device=_name(device),
            threads=torch.get_num_threads(),
            torch=torch.__version__,
            repeats=repeats,
            warmup=warmup,
        )
        return _report(subject, example_input, conditions, device if timing else None)


def _check(
    model: nn.Module,
    against: nn.Module | None,
    config: SEConfig | None,
    *,
    repeats: int,
    warmup: int,
) -> None:
    for each in (model, against):
        if not (isinstance(each, nn.Module) or (each is None and each is not model)):
            raise InputError(
                f"cost needs models of type torch.nn.Module, got {type(each).__name__}; "
                "a network by name comes from senet.create_model(name)"
            )
        if each is not None and any(is_lazy(t) for t in (*each.parameters(), *each.buffers())):
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


def _placement(model: nn.Module) -> tuple[torch.device, str]:
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            return tensor.device, str(tensor.dtype).removeprefix("torch.")
    return torch.device("cpu"), "no parameters"


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)


@contextmanager
def _undisturbed(*models: nn.Module, example_input: Any, device: torch.device) -> Iterator[None]:
    """Leave everything as it is, and let no mode of the caller change what runs.

    The models are copied, not run; but a hook on a copy may still reach what it was made for.
    """
    kind = "cpu" if device.type == "meta" else device.type
    with (
        unchanged(*models, example_input=example_input),
        torch.inference_mode(mode=False),
        torch.autocast(kind, enabled=False),
    ):
        yield


def _subject(
    model: nn.Module, example_input: Any, config: SEConfig | None, against: nn.Module | None
) -> _Subject:
    if grafts(model):
        plain = copied(model)
        sites = remove(plain)
        return _Subject({"plain": plain if against is None else against, "se": model}, sites)
    if against is not None:
        return _Subject({"plain": against, "se": model}, ())
    se = copied(model)
    try:
        sites = insert(se, copied_input(example_input), config).sites
    except NoSitesError as error:
        if config is not None:
            raise
        return _Subject({"model": model}, (), f"reported alone: {error}")
    return _Subject({"plain": model, "se": se}, sites)


def _report(
    subject: _Subject, example_input: Any, conditions: Conditions, device: torch.device | None
) -> CostReport:
    models = subject.models
    notes = [subject.note] if subject.note else []
    unavailable: dict[str, str] = {}
    try:
        forwards = _count(op_counter.count_forward, models, example_input, "the forward", notes)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            "the model must run on the example input in evaluation mode, but gave "
            f"{reason_of(error)}; give an input as in use, on the model's device"
        ) from error
    steps: dict[str, op_counter.RunCounts] = {}
    try:
        steps = _count(op_counter.count_step, models, example_input, "the training step", notes)
    except Exception as error:  # noqa: BLE001 - a model may refuse to train on this input
        unavailable |= dict.fromkeys(("bytes_moved_step", "bytes_kept"), reason_of(error))
    latency, step = None, None
    if device is not None:
        latency, step = _timed(models, example_input, device, conditions, unavailable)
    ledgers = {
        label: _ledger(model, forwards[label], steps.get(label)) for label, model in models.items()
    }
    groups = cost_rows.groups_of(subject.sites, list(models.values()))
    return CostReport(
        total=cost_rows.total(ledgers),
        stages=cost_rows.by_stage(ledgers, groups),
        blocks=cost_rows.by_block(ledgers, groups),
        latency=latency,
        step=step,
        unavailable=unavailable,
        without_formula={label: counts.without_formula for label, counts in forwards.items()},
        notes=tuple(notes),
        conditions=conditions,
    )


def _count(
    count: Callable[[nn.Module, Any], op_counter.RunCounts],
    models: Mapping[str, nn.Module],
    example_input: Any,
    what: str,
    notes: list[str],
) -> dict[str, op_counter.RunCounts]:
    """Count on the meta device, where nothing is computed; where a model cannot, on a real run."""
    try:
        with torch.device("meta"):
            example = copied_input(example_input, "meta")
            return {label: count(on_meta(model), example) for label, model in models.items()}
    except Exception as error:  # noqa: BLE001 - a model may do what has no meaning without values
        reason = reason_of(error)
    counts = {
        label: count(copied(model), copied_input(example_input)) for label, model in models.items()
    }
    notes.append(f"{what} was counted on a real run, since on the meta device it gave {reason}")
    return counts


def _timed(
    models: Mapping[str, nn.Module],
    example_input: Any,
    device: torch.device,
    conditions: Conditions,
    unavailable: dict[str, str],
) -> tuple[timing.Timing | None, timing.Timing | None]:
    if device.type == "meta":
        unavailable |= dict.fromkeys(("latency_ms", "step_ms"), "the model is on the meta device")
        return None, None
    example = copied_input(example_input)
    copies = {label: copied(model) for label, model in models.items()}
    runs = {"latency_ms": (forward, False), "step_ms": (train_step, True)}
    times: dict[str, timing.Timing | None] = dict.fromkeys(runs)
    for name, (run, training) in runs.items():
        for model in copies.values():
            model.train(training)
        try:
            times[name] = timing.time_models(
                run,
                copies,
                example,
                device,
                repeats=conditions.repeats,
                warmup=conditions.warmup,
            )
        except Exception as error:  # noqa: BLE001 - a model may refuse to train on this input
            unavailable[name] = reason_of(error)
    return times["latency_ms"], times["step_ms"]


def _ledger(
    model: nn.Module, use: op_counter.RunCounts, step: op_counter.RunCounts | None
) -> dict[str, Counter[str] | None]:
    return {
        "parameters": op_counter.count_parameters(model),
        "macs": use.macs,
        "bytes_moved_forward": use.moved,
        "bytes_moved_step": None if step is None else step.moved,
        "bytes_kept": None if step is None else step.kept,
    }
