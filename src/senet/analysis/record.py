"""Recording the gates of a network over a data set, batch by batch; no activation is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from functools import partial
from itertools import islice
from typing import Any, final

import torch
from torch import Tensor, nn

from senet.analysis.gate_flow import (
    GatePlan,
    GateSite,
    Reader,
    evaluating,
    gate_plan,
    run_gates,
    unwrapped,
)
from senet.analysis.gate_statistics import BlockGates
from senet.analysis.gate_sums import GateSums, image_groups
from senet.analysis.gates import Gates
from senet.errors import InputError
from senet.progress import Progress, silent

__all__ = ["Planned", "labelled_batches", "record_gates"]

_PLANNING = 2  # images on which the gates are looked for


@final
class Planned:
    """A network with its gates, which are found on the first batch, and again where runs differ.

    Args:
        model: the network.
    """

    def __init__(self, model: nn.Module) -> None:
        self.net = unwrapped(model)
        self.plan: GatePlan | None = None

    def known_plan(self) -> GatePlan:
        """Return the gates that were found; something must have run."""
        if self.plan is None:
            raise InputError("nothing has run yet: run the network first")
        return self.plan

    def run(
        self, images: Tensor, *, read: Reader | None = None, **options: Any
    ) -> tuple[Any, list[tuple[GateSite, Any]]]:
        """Run the network; see `run_gates`.

        Returns:
            What it returns, and of each gate (site, read(site, gate, map)), if `read` is given.

        Raises:
            InputError: it has no gate, or its operators differ from one run to the next.
        """
        rows: list[tuple[GateSite, Any]] = []
        if read is not None:
            options["read"] = lambda site, *each: rows.append((site, read(site, *each)))
        for example in (images[:_PLANNING], images):
            if self.plan is None:
                self.plan = gate_plan(self.net, example)
            output = run_gates(self.net, images, self.plan, **options)
            if output is not None:
                return output, rows
            self.plan = None
            rows.clear()
        raise InputError(
            f"{type(self.net).__name__} must do the same for the same images, but its operators "
            "differ from one run to the next; make its forward deterministic in evaluation mode"
        )


def labelled_batches(
    net: nn.Module,
    batches: Iterable[Any],
    classes: int | None,
    *,
    max_batches: int | None,
    device: torch.device | str | None,
    on_progress: Callable[[int, int], None],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Return checked (images on the device, labels int64 [N] on the CPU).

    Args:
        net: whose device counts if none is given.
        batches: of (images, labels).
        classes: how many; of one, labels are not looked at; None if nobody knows.
        max_batches: stop after so many; None for all.
        device: where to send the images.
        on_progress: called with (done, total) after each batch; total is 0 where it is not known.

    Raises:
        InputError: a batch or its labels do not fit, or none came.
    """
    if device is None:
        device = next((p.device for p in net.parameters()), torch.device("cpu"))
    total = len(batches) if isinstance(batches, Sized) else 0
    total = total if max_batches is None else min(total, max_batches)
    done = 0
    for done, batch in enumerate(islice(batches, max_batches), 1):
        images, labels = batch, None
        if isinstance(batch, list | tuple) and len(batch) >= 2:
            images, labels = batch[0], batch[1]
        if not isinstance(images, Tensor) or (labels is None and classes != 1):
            raise InputError(
                f"a batch must be (images, labels), got {type(batch).__name__}; "
                "wrap the loader in a generator that yields such pairs"
            )
        if classes == 1:
            labels = torch.zeros(len(images), dtype=torch.int64)
        yield images.to(device), _checked(labels, len(images), classes)
        on_progress(done, total)
    if not done:
        raise InputError("no batch came; give a loader that is not empty, and max_batches >= 1")


def _checked(labels: Any, images: int, classes: int | None) -> Tensor:
    given = torch.as_tensor(labels).detach().cpu()
    if given.dim() != 1 or given.is_floating_point() or given.is_complex():
        raise InputError(
            f"labels must be integers [N], got {given.dtype} of shape {list(given.shape)}; "
            "turn one-hot or mixed labels into class indices first"
        )
    if len(given) != images:
        raise InputError(f"a batch must have a label for each image, got {len(given)} for {images}")
    given = given.to(torch.int64)
    if classes is None:
        classes = max(1, int(given.max()) + 1) if images else 1
    if images and not 0 <= int(given.min()) <= int(given.max()) < classes:
        raise InputError(
            f"labels must lie in 0..{classes - 1}, one for each of the "
            f"{classes} classes, got {int(given.min())}..{int(given.max())}"
        )
    return given


def record_gates(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    classes: Sequence[str] | None = None,
    max_batches: int | None = None,
    device: torch.device | str | None = None,
    on_progress: Progress = silent,
) -> Gates:
    """Run a model over images and return what its gates do, by block, class and channel.

    Gates are found by the data flow: a factor of one number per image and channel that is computed
    from the map that it multiplies. So SE blocks of this project are seen, those of timm and
    torchvision, and hand-written ones. The model runs in evaluation mode without gradients; it
    keeps its device and every module the mode it was in, and gets no hook. Compiled parts run
    eagerly. Memory is that of one sum per block, class and channel, whatever the number of images.

    In several processes, each records its part, and `Gates.all_reduce` adds them up exactly.

    Args:
        model: any network that takes images [N, C, *spatial].
        batches: a data loader, or any iterable, of (images, labels) with integer labels [N].
        classes: name of each class; label k is classes[k]. Without, labels are not looked at.
        max_batches: stop after so many batches; None for all.
        device: where to send the images; None for the device of the model's parameters.
        on_progress: called with (description, done, total); total is 0 where it is not known.

    Raises:
        InputError: no gate, no batch, or batches and labels that do not fit.

    Example:
        >>> from senet import SqueezeExcitation
        >>> model = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), SqueezeExcitation(8))
        >>> data = [(torch.randn(4, 1, 17, 17), torch.tensor([0, 1, 0, 1]))]
        >>> gates = record_gates(model, data, classes=["zero", "one"])
        >>> gates.images, gates.blocks[0].stage, gates.blocks[0].mean.shape
        ((2, 2), 1, torch.Size([2, 8]))
    """
    names = ("all",) if classes is None else tuple(classes)
    if not names:
        raise InputError("classes must name at least one class; leave it out to have one")
    planned = Planned(model)
    sums: dict[str, GateSums] = {}
    of_path: dict[str, GateSite] = {}
    with evaluating(planned.net):
        for images, labels in labelled_batches(
            planned.net,
            batches,
            len(names),
            max_batches=max_batches,
            device=device,
            on_progress=partial(on_progress, "recording gates"),
        ):
            groups = image_groups(images)
            for site, (gate, map_sums) in planned.run(images, read=_reduced)[1]:
                if site.path not in sums:
                    sums[site.path] = GateSums(len(names), site.channels)
                    of_path[site.path] = site
                sums[site.path].add(gate, labels, groups, map_sums)
    plan = planned.known_plan()
    runs = [site.path for site in plan.sites]
    blocks = (
        BlockGates(path, of_path[path].stage, of_path[path].scale, runs.count(path), each)
        for path, each in sums.items()
    )
    return Gates(names, tuple(blocks), plan.never_ran)


def _reduced(site: GateSite, gate: Tensor, of_map: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gates, float64 [N, C], and what is summed of the map, on the CPU.

    A gate for each position counts by its mean.
    """
    s = gate.reshape(len(of_map), site.channels, -1)
    return s.float().mean(2).cpu().to(torch.float64), _map_sums(s, of_map)


def _map_sums(s: Tensor, of_map: Tensor) -> Tensor:
    """Return the means over positions of u^2, s u^2, s^2 u^2 and s u, float64 [4, N, C]."""
    u = of_map.float().reshape(*of_map.shape[:2], -1)
    if s.shape[2] == u.shape[2] > 1:  # a gate for each position
        s = s.float()
        moments = (u * u, s * u * u, (s * u).square(), s * u)
        return torch.stack([each.mean(2) for each in moments]).cpu().to(torch.float64)
    square, mean = (each.mean(2).cpu().to(torch.float64) for each in (u * u, u))
    s = s[..., 0].cpu().to(torch.float64)
    return torch.stack([square, s * square, s.square() * square, s * mean])
