"""An experiment: arms that differ in one thing, each trained with the same seeds, and compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from senet.analysis import PairedDifference, paired_difference
from senet.compare.arms import ARMS
from senet.errors import ConfigError, unknown_name
from senet.models import NETWORKS
from senet.progress import Progress
from senet.schema import flat, overridden
from senet.training.building import build_network, check_network
from senet.training.config import RunConfig
from senet.training.data import ImageData
from senet.training.loop.gate_log import Gates
from senet.training.loop.optimizer import parameter_groups
from senet.training.loop.runner import Run, check_run, train_run
from senet.training.loop.schedule import all_frozen
from senet.training.loop.stopping import Stop, Stopped
from senet.training.run_folder import write_result

__all__ = ["Experiment", "Trial", "paired", "said_of_classes"]


class Trial(NamedTuple):
    """One run of one arm, finished or not.

    Attributes:
        arm: name of the arm.
        seed: of its weights, images and augmentation.
        parameters: how many the network has.
        run: what the training gave.
    """

    arm: str
    seed: int
    parameters: int
    run: Run


@final
@dataclass(frozen=True)
class Experiment:
    """Networks that are alike but for what their arms change.

    All arms of a seed start from the same weights, where they share them, and see the same images
    in the same order under the same augmentation.

    Attributes:
        config: of all arms; `config.se` are the blocks before an arm changes them, and the seed is
            replaced by that of each run.
        arms: names of `ARMS`.
        seeds: how many runs of each arm.
        device: where they are trained.
        folder: gets runs/ARM-seedK.

    Raises:
        ConfigError: no seed, fewer than two arms, an arm named twice, or a precision that the
            device does not have.
        UnknownNameError: no such arm.
    """

    config: RunConfig
    arms: tuple[str, ...]
    seeds: int
    device: torch.device
    folder: Path

    def __post_init__(self) -> None:
        for arm in self.arms:
            if arm not in ARMS:
                raise unknown_name("arm", arm, ARMS)
        if len(self.arms) < 2:
            given = ", ".join(self.arms) or "none"
            raise ConfigError(f"arms must be at least two, got {given}; try plain,se")
        if len(set(self.arms)) < len(self.arms):
            raise ConfigError(f"arms must differ, got {', '.join(self.arms)}")
        if self.seeds < 1:
            raise ConfigError(f"seeds must be at least 1, got {self.seeds}; 3 give an interval")
        check_run(self.config.train, self.device, logger=self.config.logger)

    def of(self, arm: str, seed: int) -> RunConfig:
        """Return the configuration of one run."""
        config = overridden(self.config, ARMS[arm].changes)
        return replace(config, train=replace(config.train, seed=seed))

    def folder_of(self, arm: str, seed: int) -> Path:
        """Return the folder of one run."""
        return self.folder / "runs" / f"{arm}-seed{seed}"

    def network(self, arm: str, seed: int, data: ImageData) -> nn.Module:
        """Return the network with which a run begins; the caller's random numbers stay.

        Raises:
            SenetError: no such network, or it has no place for an SE block.
        """
        classes, size = len(data.classes), data.view.size
        return build_network(self.of(arm, seed), num_classes=classes, size=size, always_insert=True)

    def some_images(self, data: ImageData) -> Tensor:
        """Return a batch of training images, [N, C, H, W], as the networks get them."""
        images, _ = next(iter(data.train_batches(self.config.train, epoch=0)))
        return images

    def check(self, data: ImageData) -> None:
        """Train a copy of each network for one step and test it, before anything is written.

        Raises:
            SenetError: no such network, no place for an SE block, or images it cannot take.
        """
        data.check(self.config.train)
        known, blocks = NETWORKS.get(self.config.name), self.config.se
        beside = blocks is not None and blocks.existing == "add"
        if known is not None and known.se is not None and not beside:
            raise ConfigError(
                f"model must be a network without SE blocks, which the arms add, {self.config.name}"
                f" has some by its name; give {known.plain}, or existing='add' for more beside them"
            )
        images = self.some_images(data)
        for arm in ("plain", *(arm for arm in self.arms if arm != "plain")):
            net = self.network(arm, 0, data)
            check_network(net, images, classes=len(data.classes), name=self.config.name)
            train = self.of(arm, 0).train
            parameter_groups(net, train)
            if arm in self.arms and all_frozen(net, train):
                raise ConfigError(
                    f"arm {arm!r} has nothing to train in the first epoch, with se_only_epochs="
                    f"{train.se_only_epochs} and trained={train.trained!r}; try se_only_epochs=0"
                )

    def train(
        self, data: ImageData, *, on_progress: Progress, stop: Stop, begin: int = 0
    ) -> Iterator[Trial]:
        """Train what is not finished, seed by seed, so that what is interrupted has whole pairs.

        Args:
            data: the images.
            on_progress: called after each step.
            stop: ends it after a step.
            begin: the first seed; those before it are left out.

        Yields:
            Each run, also one that was finished before, and at last one that was stopped.

        Raises:
            Stopped: the user asked to stop.
        """
        steps = self.config.train.epochs * data.steps(self.config.train)
        planned = [(seed, arm) for seed in range(self.seeds) for arm in self.arms]
        for number, (seed, arm) in list(enumerate(planned))[begin * len(self.arms) :]:
            stop.check()
            net = self.network(arm, seed, data)
            with torch.random.fork_rng(devices=[]):
                run = train_run(
                    *(net, data, self.of(arm, seed).train),
                    folder=self.folder_of(arm, seed),
                    device=self.device,
                    title=f"{ARMS[arm].title or arm}, seed {seed + 1}/{self.seeds}",
                    on_progress=on_progress,
                    stop=stop,
                    before=number * steps,
                    total=len(planned) * steps,
                    callbacks=[Gates(self.folder_of(arm, seed), warn=False)],
                    logger=self.config.logger,
                    hyperparameters={"arm": arm, **flat(self.of(arm, seed))},
                )
            self._describe(arm, seed, data, run)
            yield Trial(arm, seed, sum(p.numel() for p in net.parameters()), run)
            if not run.done:
                raise Stopped

    def _describe(self, arm: str, seed: int, data: ImageData, run: Run) -> None:
        """Write what `senet.training.trained.load_run` needs to build the network again."""
        result = {
            "schema": "senet.train/1",
            "state": "done" if run.done else "stopped",
            "config": self.of(arm, seed).to_dict(),
            "always_insert": True,
            "data": data.description(),
            "epochs": run.epochs,
        }
        write_result(self.folder_of(arm, seed) / "run.json", result)


def said_of_classes(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what accuracies must be read beside.

    Args:
        runs: with "majority_share" and "only_answer" of their tests.

    Returns:
        majority_share: the accuracy of always answering the largest class; None if not known.
        warning: about networks that answer one class only; None where there is none.
    """
    shares = [share for run in runs if (share := run.get("majority_share")) is not None]
    said: dict[str, Any] = {"majority_share": max(shares, default=None), "warning": None}
    blind = [run["only_answer"] for run in runs if run.get("only_answer") is not None]
    if blind:
        said["warning"] = (
            f"{len(blind)} of {len(runs)} networks answer one class only "
            f"({', '.join(sorted(set(blind)))}): they tell no classes apart, and their accuracy is "
            "the share of that class"
        )
    return said


def paired(
    first: Mapping[int, float], second: Mapping[int, float], *, stage: int | None = None
) -> PairedDifference | None:
    """Return second - first over the seeds that both have; None where there is none.

    Args:
        first: seed -> value.
        second: seed -> value.
        stage: how many first pairs decided how many there are; None where that was fixed.
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    values = ([of[seed] for seed in seeds] for of in (first, second))
    return paired_difference(*values, first=stage)
