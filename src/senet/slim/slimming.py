"""`senet.slim.slim`: from a trained network to a folder with the folded one, trained a little."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from senet.errors import ConfigError, DataError
from senet.files import write_text
from senet.models import save_pretrained
from senet.progress import Progress, silent
from senet.slim.folding_sites import Choice
from senet.slim.gate_folding import fold
from senet.slim.planning import find_folds
from senet.slim.rewriting import copied
from senet.training.config import DataConfig, TrainConfig
from senet.training.data import Split, TestedImages, Unreadable, load_data, numbered, open_split
from senet.training.data.class_names import stratified
from senet.training.evaluation import evaluate, summary
from senet.training.loop.placement import find_device
from senet.training.loop.runner import train_run
from senet.training.loop.stopping import stop_on_interrupt
from senet.training.run_folder import check_writable, has_content, now, versions, write_result
from senet.training.trained import Trained

__all__ = ["FINETUNE", "SCHEMA", "labelled_batches_of", "slim"]

SCHEMA = "senet.slim/1"
FINETUNE = TrainConfig(epochs=1, lr=0.01, warmup_epochs=0.0)
_BATCH = 128


def slim(
    trained: Trained,
    *,
    data: DataConfig,
    out: str | os.PathLike[str] | None = None,
    max_drop: float | None = 0.1,
    only: Choice = None,
    keep: Choice = None,
    images: int | None = 5000,
    finetune: TrainConfig | None = None,
    timing: bool = True,
    device: str = "auto",
    command: str = "",
    on_progress: Progress = silent,
) -> dict[str, Any]:
    """Fold the gates of a trained network that a constant can replace, and write the result.

    Constants and choice come from training images, without augmentation; what the choice costs is
    measured on the test images, before and after the short training.

    Args:
        trained: the network, as `senet.training.trained.load_written` returns it.
        data: the images that it was trained on.
        out: the folder of the result, as `senet.save_pretrained` writes it, with slim.json and, if
            it was trained, the folder finetune/ with that run; None plans only.
        max_drop: as in `find_folds`.
        only: fold no others.
        keep: do not fold these.
        images: how many training images are looked at, with the shares of the classes; None for
            all.
        finetune: the recipe of a training of the folded network; None for none.
        timing: measure times too.
        device: "auto", "cpu", "cuda" ...
        command: what the result names as the command.
        on_progress: called with (description, done, total).

    Returns:
        The result, schema `senet.slim/1`, as in slim.json: "plan", "test" (before, folded and
        finetuned), "parameters"; "text" has the plan as a table.

    Raises:
        ConfigError: an option that cannot be, or a folder that is not empty.
        SenetError: data or gates that cannot be had.
    """
    folder = None if out is None else Path(out)
    if folder is not None:
        has_content(folder, resume=False, cure="choose another folder")
        check_writable(folder)
    where = find_device(device)
    net = trained.net.to(where)
    unreadable = Unreadable(data.max_bad_images)
    train = labelled_batches_of(trained, data, unreadable, training=True, images=images)
    test = labelled_batches_of(trained, data, unreadable, training=False, images=None)
    limits: dict[str, Any] = {"max_drop": max_drop, "only": only, "keep": keep}
    plan = find_folds(
        net, train, **limits, test=test, timing=timing, device=where, on_progress=on_progress
    )
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "command": command,
        "versions": versions(),
        "date": now(),
        "network": trained.name,
        "data": data.to_dict(),
        "left_out": list(unreadable.seen),
        "plan": plan.to_dict(),
        "text": str(plan),
    }
    if folder is None:
        return result
    made = _Made(trained, data, where, on_progress)
    networks = {"before": net, **made.networks(fold(net, plan), finetune, folder)}
    result |= made.measured(networks)
    save_pretrained([*networks.values()][-1], folder)
    write_result(folder / "slim.json", {**result, "text": None})
    write_text(folder / "slim.txt", result["text"] + "\n")
    return result


@final
@dataclass(frozen=True, eq=False)
class _Made:
    """The networks that come out, and how good they are."""

    trained: Trained
    data: DataConfig
    device: torch.device
    on_progress: Progress

    def networks(
        self, folded: nn.Module, finetune: TrainConfig | None, folder: Path
    ) -> dict[str, nn.Module]:
        """Return the folded network and, with a recipe, a copy that was trained further."""
        if finetune is None:
            return {"folded": folded}
        images = load_data(
            self.data, input_size=self.trained.view.size, on_progress=self.on_progress
        )
        if images.view.preprocessing() != self.trained.view.preprocessing():
            raise ConfigError(
                f"fine-tuning needs images as {self.trained.name} was trained on, with the same "
                "mean and standard deviation; give the data of that training, or leave finetune out"
            )
        net = copied(folded).train()  # Lightning trains modules in the mode that they are in
        with stop_on_interrupt() as stop:
            run = train_run(
                *(net, images, finetune),
                folder=folder / "finetune",
                device=self.device,
                title="fine-tuning",
                on_progress=self.on_progress,
                stop=stop,
            )
        if not run.done:
            raise KeyboardInterrupt
        return {"folded": folded, "finetuned": net.eval()}

    def measured(self, networks: Mapping[str, nn.Module]) -> dict[str, Any]:
        """Return what the result says of the networks."""
        folding: Any = networks["folded"].folding
        return {
            "text": str(folding),
            "error": folding.error,
            "parameters": {
                name: sum(p.numel() for p in net.parameters()) for name, net in networks.items()
            },
            "test": {name: self._tested(name, net) for name, net in networks.items()},
        }

    def _tested(self, name: str, net: nn.Module) -> dict[str, Any]:
        """Return accuracy and loss on the test images, with the interval of the accuracy."""
        predictions, _ = evaluate(
            [replace(self.trained, name=name, net=net)],
            open_split(self.data, training=False),
            batch_size=_BATCH,
            device=self.device,
            max_bad_images=self.data.max_bad_images,
            on_progress=self.on_progress,
        )
        scores = summary(predictions)
        kept = ("images", "top1", "loss", "balanced_accuracy", "macro_f1", "majority_share")
        return {name: scores[name] for name in (*kept, "only_answer")}


def labelled_batches_of(
    trained: Trained,
    data: DataConfig,
    unreadable: Unreadable,
    *,
    training: bool,
    images: int | None,
) -> list[tuple[Tensor, Tensor]] | TestedImages:
    """Return batches of (images, labels) of a split, as a network is tested; no augmentation.

    Args:
        trained: the network, which says how images reach it, and its classes.
        data: which data.
        unreadable: counts the images that are left out.
        training: the training split, else the test split.
        images: a fixed subset of so many that keeps the shares of the classes; None for all.

    Raises:
        DataError: a stream, labels that are no classes of the network, or more images than
            `max_bad_images` that cannot be read.
    """
    split = open_split(data, training=training)
    if not isinstance(split, Split):
        raise DataError(
            f"slimming goes through the images several times, and {data.name} is a stream; give "
            "an image folder, or data of hfds/ or torch/"
        )
    classes, chosen = trained.classes or split.classes, None
    if images is not None and images < len(split):
        chosen = stratified(torch.tensor(numbered(split, split.labels, classes)), images).tolist()
    batches = TestedImages(
        *(split, trained.view, classes),
        chosen=chosen,
        batch_size=_BATCH,
        unreadable=unreadable,
    )
    return list(batches) if max(trained.view.size[1:]) <= 64 else batches  # small: decoded once
