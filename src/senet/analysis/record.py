"""Recording the excitations of a network: the gates that its SE blocks give to each class.

Figures 6 and 7 of the paper show these numbers. They are accumulated batch by batch, and no
activation is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from typing import Any, Self, final

import torch
from torch import Tensor, nn

from senet.analysis.excitations import Excitations, Moments
from senet.blocks import SqueezeExcitation
from senet.errors import InputError

__all__ = ["ExcitationRecorder", "record_excitations"]


def _spatial(args: tuple[Any, ...]) -> tuple[int, ...]:
    """The spatial size of the first argument, () where it is no feature map."""
    first = args[0] if args else None
    return tuple(first.shape[2:]) if isinstance(first, Tensor) else ()


def _is_compiled(module: nn.Module) -> bool:
    """Whether `torch.compile(module)` or `module.compile()` has made the call of a module."""
    return hasattr(module, "_orig_mod") or module._compiled_call_impl is not None


@final
class ExcitationRecorder:
    """Context manager that records the gates of every SE block in a model while it runs.

    It hooks the `gate` of every `senet.SqueezeExcitation`, whose output is the excitation s [N, C];
    with squeeze="none" s is [N, C, *spatial], and its mean over space is recorded. On exit the
    hooks are removed, also after an exception. The caller runs the model, in any mode, and its
    output is as always; `record_excitations` is the ready-made evaluation pass.

    A model that was compiled before does not call hooks that are new: inside the `with` block
    everything that `torch.compile` has compiled runs eagerly.

    Args:
        model: any model with SE blocks inside.
        classes: names of the classes. With more than one, call `label` before each batch.

    Raises:
        InputError: the model has no SE block; labels are missing or do not fit.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), SqueezeExcitation(8, centered=True))
        >>> with ExcitationRecorder(model, classes=["cat", "dog"]) as recorder:
        ...     recorder.label([0, 1, 1])
        ...     y = model(torch.randn(3, 3, 6, 6))
        >>> gates = recorder.excitations()
        >>> gates.blocks[0].path, gates.images, gates.blocks[0].overall_mean
        ('1', (1, 2), 1.0)
    """

    def __init__(self, model: nn.Module, *, classes: Sequence[str] = ("all",)) -> None:
        self._is_compiled = any(_is_compiled(module) for module in model.modules())
        model = getattr(model, "_orig_mod", model)
        modules = model.named_modules()
        self._se = {path: m for path, m in modules if isinstance(m, SqueezeExcitation)}
        if not self._se:
            raise InputError(
                f"{type(model).__name__} has no senet.SqueezeExcitation to record; "
                "insert some with senet.insert(model, example_input)"
            )
        if not classes:
            raise InputError("classes must name at least one class; leave it out to have one")
        self._model = model
        self._classes = tuple(classes)
        self._labels: Tensor | None = None
        self._input_size: tuple[int, ...] = ()
        self._map_sizes: dict[str, tuple[int, ...]] = {}
        self._stages: dict[str, int | None] = {}
        self._images = torch.zeros(len(self._classes), dtype=torch.int64)
        self._moments: dict[str, Moments] = {}
        self._active: ExitStack | None = None

    def label(self, labels: Tensor | Sequence[int]) -> None:
        """Set the classes of the next batch: one index into `classes` for each image, [N]."""
        given = torch.as_tensor(labels).detach().cpu()
        if given.dim() != 1 or given.is_floating_point() or given.is_complex():
            raise InputError(
                f"labels must be integers [N], got {given.dtype} of shape {list(given.shape)}; "
                "turn one-hot or mixed labels into class indices first"
            )
        given = given.to(torch.int64)
        if given.numel() and not 0 <= int(given.min()) <= int(given.max()) < len(self._classes):
            raise InputError(
                f"labels must lie in 0..{len(self._classes) - 1}, one for each of the "
                f"{len(self._classes)} classes, got {int(given.min())}..{int(given.max())}"
            )
        self._labels = given

    def excitations(self) -> Excitations:
        """Return what has been recorded so far."""
        if not self._moments:
            raise InputError("nothing was recorded; run the model inside the `with` block first")
        blocks = [moments.block(p, self._stages[p]) for p, moments in self._moments.items()]
        never_ran = tuple(path for path in self._se if path not in self._moments)
        return Excitations(self._classes, tuple(self._images.tolist()), tuple(blocks), never_ran)

    def __enter__(self) -> Self:
        if self._active is not None:
            raise InputError("this recorder is running already; make a second one")
        with ExitStack() as stack:  # what is attached is removed if the rest fails
            self._attach(stack)
            self._active = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        active, self._active = self._active, None
        if active is not None:
            active.close()

    def _attach(self, stack: ExitStack) -> None:
        if self._is_compiled:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.callback(self._model.register_forward_pre_hook(self._on_input).remove)
        for path, block in self._se.items():
            # A batch norm with an SE block inside may ask for the gate without calling the block:
            # its input has the size of the map too.
            owner = self._model.get_submodule(path.rpartition(".")[0])
            for module in (block, owner) if getattr(owner, "se", None) is block else (block,):
                if module is not self._model:
                    hook = partial(self._on_map, path)
                    stack.callback(module.register_forward_pre_hook(hook).remove)
            gate_hook = partial(self._on_gate, path)
            stack.callback(block.gate.register_forward_hook(gate_hook).remove)

    def _on_input(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._input_size = _spatial(args)
        if isinstance(module, SqueezeExcitation):
            self._map_sizes[""] = self._input_size
        if self._labels is not None:
            self._images += torch.bincount(self._labels, minlength=len(self._classes))
        elif len(self._classes) == 1 and args and isinstance(args[0], Tensor):
            self._images += len(args[0])

    def _on_map(self, path: str, _module: nn.Module, args: tuple[Any, ...]) -> None:
        self._map_sizes[path] = _spatial(args)

    def _on_gate(self, path: str, _module: nn.Module, _args: tuple[Any, ...], s: Tensor) -> None:
        gates = s.detach().flatten(2).mean(2) if s.dim() > 2 else s.detach()
        labels = self._labels
        if labels is None and len(self._classes) == 1:
            labels = torch.zeros(len(gates), dtype=torch.int64)
        if labels is None or len(labels) != len(gates):
            came = "no labels" if labels is None else f"{len(labels)} labels"
            raise InputError(
                f"block {path!r} saw a batch of {len(gates)} with {came}; call "
                "recorder.label(labels) with one label for each image before running the model"
            )
        if path not in self._moments:
            self._moments[path] = Moments(len(self._classes), gates.shape[1])
            self._stages[path] = self._stage(path)
        # to the CPU first: not every device has float64
        self._moments[path].add(gates.cpu().to(torch.float64), labels)

    def _stage(self, path: str) -> int | None:
        input_size = max(self._input_size, default=0)
        map_size = max(self._map_sizes.get(path, ()), default=0)
        return round(math.log2(input_size / map_size)) if map_size and input_size else None


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module is in the mode it was in.

    The flags are set one by one: `eval()` of some modules does more (LoRA layers merge).
    """
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def record_excitations(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    classes: Sequence[str],
    max_batches: int | None = None,
    device: torch.device | str | None = None,
) -> Excitations:
    """Run a model over labelled images and return the gates of its SE blocks by class.

    The model runs in evaluation mode without gradients. It keeps its device, every module the mode
    it was in, and no hook.

    Args:
        model: any model with `senet.SqueezeExcitation` inside that takes images [N, C, *spatial].
        batches: a data loader, or any iterable, of (images, labels) with integer labels [N].
        classes: name of each class; label k is classes[k].
        max_batches: stop after so many batches; None for all.
        device: where to send the images; None for the device of the model's parameters.

    Returns:
        The excitations; `to_dict()` makes them JSON-able, `senet.analysis.figures` draws them.

    Raises:
        InputError: no SE block, no batch, or batches and labels that do not fit.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), SqueezeExcitation(8))
        >>> data = [(torch.randn(4, 1, 17, 17), torch.tensor([0, 1, 0, 1]))]
        >>> gates = record_excitations(model, data, classes=["zero", "one"])
        >>> gates.images, gates.blocks[0].stage, gates.blocks[0].mean.shape
        ((2, 2), 1, torch.Size([2, 8]))
    """
    if device is None:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
    recorder = ExcitationRecorder(model, classes=classes)
    ran = 0
    with _evaluating(model), recorder:
        for batch in islice(batches, max_batches):
            if not isinstance(batch, list | tuple) or len(batch) < 2:
                raise InputError(
                    f"a batch must be (images, labels), got {type(batch).__name__}; "
                    "wrap the loader in a generator that yields such pairs"
                )
            recorder.label(batch[1])
            model(batch[0].to(device))
            ran += 1
    if not ran:
        raise InputError("no batch came; give a loader that is not empty, and max_batches >= 1")
    return recorder.excitations()
