"""Where a network has gates, read from its data flow; and runs in which they are read or replaced.

A gate is a factor of one number per image and channel that is computed from the map that it
multiplies: the excitation of an SE block, whoever wrote it. Modules get no hook. The operators of a
run are the values of its flow, so the gates of a later run are the values of the same numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from senet import ops
from senet.blocks.squeeze_excitation import Gate
from senet.errors import InputError
from senet.insertion import se_modules
from senet.insertion.anchors import stage_of
from senet.insertion.gating import Gated, Gating
from senet.insertion.trace import Flow, FlowRecorder, Value, record_flow

__all__ = ["GatePlan", "GateSite", "Reader", "evaluating", "gate_plan", "run_gates", "unwrapped"]

# What brings a gate [N, C] to the form in which it is multiplied.
_FORMS = {
    *("_to_copy", "_unsafe_view", "alias", "clone", "expand", "reshape", "squeeze", "unsqueeze"),
    "view",
}


@final
@dataclass(frozen=True)
class GateSite:
    """One product of a map and its gate.

    Attributes:
        path: of the module that multiplies; of several gates in one call of a module, with "#2".
        stage: log2 of the input's size over the map's size, as in `Site.stage`.
        channels: C.
        gate: number of the value that is the gate, as it was computed.
        product: number of the value that is the map times the gate.
        factor: position of the gate among the two factors.
        scale: 2 for a gate that is 1 at z = 0, of which the paper's sigmoid is a half; 1 for
            others of this project; None where only the gates themselves can tell.
    """

    path: str
    stage: int
    channels: int
    gate: int
    product: int
    factor: int
    scale: float | None


@final
@dataclass(frozen=True)
class GatePlan:
    """The gates of a network, in the order in which they are used.

    Attributes:
        sites: the products of a map and its gate; a block that runs twice has two, of one path.
        values: how many values a run has; one with another number has another flow.
        never_ran: paths of SE blocks of this project, but for constant ones, that no pass reached.
    """

    sites: tuple[GateSite, ...]
    values: int
    never_ran: tuple[str, ...]


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside of wrappers that compile it or run it in parallel."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def gate_plan(model: nn.Module, images: Tensor) -> GatePlan:
    """Find the gates of a network by running it on a few images; nothing is changed.

    Args:
        model: any network; see `unwrapped`.
        images: [N, C, *spatial], on the model's device.

    Raises:
        InputError: the network has no gate, or does not run on the images.
    """
    with eager(model):
        flow = record_flow(model, images)
    gating, modules = Gating(flow), dict(model.named_modules())
    image = tuple(images.shape[2:])
    calls = Counter[tuple[int, str]]()
    sites = []
    for each in gating.gated.values():
        root = _root(each.gate)
        owner = _owner(flow, modules, root)
        if owner is None and each not in gating.existing:
            continue
        scope = each.product.scope
        call = next((call.end for call in flow.calls_of[scope] if call.makes(each.product)), 0)
        path = owner if owner is not None else scope
        calls[call, path] += 1
        count = calls[call, path]
        name = path if count == 1 or owner is not None else f"{path}#{count}"
        sites.append(_site(each, name, root, modules.get(path), image))
    if not sites:
        raise InputError(
            f"{type(model).__name__} has no gate to look at (no factor of one number per image and "
            "channel, computed from the map that it multiplies); insert SE blocks with "
            "senet.insert(model, example_input)"
        )
    sites.sort(key=lambda site: site.product)
    ran = {site.path for site in sites}
    never = tuple(
        path
        for path, block in se_modules(model).items()
        if path not in ran and block.squeeze != "constant"
    )
    return GatePlan(tuple(sites), len(flow.values), never)


def _root(gate: Value) -> Value:
    """Return the gate as it was computed, before it was brought to the form of the map."""
    while gate.op in _FORMS and len(gate.parents) == 1:
        (before,) = gate.parents
        if before.op in ("chunk", "split", "split_with_sizes", "unbind", "input"):
            break
        gate = before
    return gate


def _owner(flow: Flow, modules: Mapping[str, nn.Module], root: Value) -> str | None:
    """Return the path of the block of this project that computed a gate; None if it is another."""
    for call in flow.outputs_of[root]:
        if isinstance(modules[call.path], Gate):
            return call.path.rpartition(".")[0]
    ours = isinstance(getattr(modules[root.scope], "gate", None), Gate)
    return root.scope if ours else None


def _site(
    each: Gated, path: str, root: Value, module: nn.Module | None, image: tuple[int, ...]
) -> GateSite:
    gate = getattr(module, "gate", None)
    ours = isinstance(gate, Gate) and gate.excitation in ("sigmoid", "hard_sigmoid")
    shape = each.product.shape
    return GateSite(
        path=path,
        stage=stage_of(image, shape[2:]),
        channels=shape[1],
        gate=root.index,
        product=each.product.index,
        factor=each.product.parents.index(each.gate),
        scale=(2.0 if gate.centered else 1.0) if ours and isinstance(gate, Gate) else None,
    )


@contextmanager
def eager(model: nn.Module) -> Iterator[None]:
    """Let everything that `torch.compile` has compiled run eagerly, operator by operator."""
    compiled = any(module._compiled_call_impl is not None for module in model.modules())
    parts = any(hasattr(module, "_orig_mod") for module in model.modules())
    with ExitStack() as stack:
        if compiled or parts:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module is in the mode it was in.

    The flags are set one by one: `eval()` of some modules does more (LoRA layers merge).
    """
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        # in inference mode a dispatch mode sees other operators
        with torch.inference_mode(mode=False), torch.no_grad(), eager(model):
            yield
    finally:
        for module in training:
            module.training = True


Reader = Callable[[GateSite, Tensor, Tensor], Any]


@final
class _GateRun(FlowRecorder):  # type: ignore[no-untyped-call]
    """Reads gates and their maps, and puts other gates in their place."""

    def __init__(
        self, plan: GatePlan, read: Reader | None, replace: Mapping[str, Tensor | float]
    ) -> None:
        super().__init__()
        self._roots = {site.gate for site in plan.sites}
        self._products = {site.product: site for site in plan.sites}
        self._gates: dict[int, Tensor] = {}
        self._read, self._replace = read, replace
        self.fits = True

    def compute(self, func: Any, args: Any, kwargs: Any, parents: tuple[Value, ...]) -> Any:
        index = len(self.flow.values) if parents else -1
        site = self._products.get(index)
        if site is not None:
            args = self._product(site, func, args)
        out = func(*args, **kwargs)
        if index in self._roots:
            self._gates[index] = out
        return out

    def _product(self, site: GateSite, func: Any, args: Any) -> Any:
        gate = self._gates.pop(site.gate, None)
        is_product = func.overloadpacket.__name__ in ("mul", "mul_")
        if gate is None or not is_product or args[1 - site.factor].shape[1:2] != (site.channels,):
            self.fits = False
            return args
        if self._read is not None:
            self._read(site, gate, args[1 - site.factor])
        if site.path not in self._replace:
            return args
        used = args[site.factor]
        constant = torch.as_tensor(self._replace[site.path], device=used.device, dtype=used.dtype)
        factors = list(args)
        factors[site.factor] = constant.reshape(1, -1, *[1] * (used.dim() - 2)).expand_as(used)
        return tuple(factors)


def run_gates(
    model: nn.Module,
    images: Tensor,
    plan: GatePlan,
    *,
    read: Reader | None = None,
    replace: Mapping[str, Tensor | float] | None = None,
) -> Any | None:
    """Run a network, in the mode it is in, and read or replace its gates.

    Args:
        model: the network of the plan.
        images: [N, C, *spatial], on the model's device.
        plan: its gates.
        read: is called with each site, its gate [N, C] (or of the map's shape, or one that
            broadcasts to it) and its map [N, C, *spatial].
        replace: by path, the constant that stands in a gate's place: [C], or a number.

    Returns:
        What the network returns; None if the run has another flow than the plan.
    """
    recorder = _GateRun(plan, read, replace or {})
    images = images.clone() if images.is_inference() else images
    with ops.use_backend("reference"), recorder:
        recorder.add_inputs(images)
        output = model(images)
    return output if recorder.fits and len(recorder.flow.values) == plan.values else None
