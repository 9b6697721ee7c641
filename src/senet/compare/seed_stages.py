"""The runs of a comparison: of so many seeds, or of as many as a narrow interval takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, final

from senet.analysis.over_images import Outcomes
from senet.compare.experiment import Experiment, Trial
from senet.compare.outcomes import kept_outcomes
from senet.compare.summary import (
    all_pairs_until,
    image_intervals,
    planned_power,
    run_entry,
    summary_of_runs,
)
from senet.errors import ConfigError, InputError, first_line
from senet.progress import Progress
from senet.training.data import ImageData
from senet.training.loop.checkpoints import load_weights
from senet.training.loop.stopping import Stop
from senet.training.run_folder import write_result

__all__ = ["Goal", "Stages"]


@final
@dataclass(frozen=True)
class Goal:
    """The interval that a comparison goes on to.

    Attributes:
        points: the most that a 95 % interval of a difference of accuracies reaches to each side.
        first: of how many pairs the spread says how many pairs that takes.
        max_seeds: the most seeds, also where it takes more.

    Raises:
        ConfigError: points that are not above 0, fewer than 2 first pairs, or fewer seeds at most.
    """

    points: float
    first: int
    max_seeds: int

    def __post_init__(self) -> None:
        if not self.points > 0:
            raise ConfigError(f"until must be above 0 points, got {self.points:g}; try 0.5")
        if self.first < 2:
            raise ConfigError(
                "until needs at least 2 seeds to begin with, whose spread says how many follow, "
                f"got {self.first}; try 5"
            )
        if self.max_seeds < self.first:
            raise ConfigError(
                f"max_seeds must be at least seeds, {self.first}, got {self.max_seeds}"
            )

    def resumed(self, before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of an earlier comparison as those that this one goes on with.

        One that had no goal may get one while all its seeds are among the first; more seeds at most
        change nothing that was said before.
        """
        seeds, goal = list(range(self.first)), before["until"]
        if goal is None:
            within = set(before["seeds"]) <= set(seeds)
            return {**before, "until": asdict(self), **({"seeds": seeds} if within else {})}
        return {**before, "until": {**goal, "max_seeds": self.max_seeds}, "seeds": seeds}


@final
class Stages:
    """Trains the runs of an experiment, and keeps what they say in a result.

    Args:
        experiment: of the first seeds.
        images: that it is trained on and tested with.
        result: gets "runs", "summary", and with a goal "until" and all the seeds.
        goal: None for the seeds of the experiment and no more.
    """

    def __init__(
        self, experiment: Experiment, images: ImageData, result: dict[str, Any], goal: Goal | None
    ) -> None:
        self.experiment, self.images, self.result, self.goal = experiment, images, result, goal
        self.outcomes: dict[str, dict[int, Outcomes]] = {arm: {} for arm in experiment.arms}

    def train(self, *, on_progress: Progress, stop: Stop) -> None:
        """Train what is not finished; each run is written into the result when it ends.

        Raises:
            Stopped: the user asked to stop.
        """
        self._train(0, on_progress, stop)
        if self.goal is None:
            return
        first, half_width = self.goal.first, self.goal.points / 100
        needed = all_pairs_until(
            self.result["runs"], self.experiment.arms, first=first, half_width=half_width
        )
        self.experiment = replace(self.experiment, seeds=min(needed, self.goal.max_seeds))
        self.result["config"]["seeds"] = list(range(self.experiment.seeds))
        self.result["until"] = {**asdict(self.goal), "needed": needed}
        self._train(first, on_progress, stop)

    def _train(self, begin: int, on_progress: Progress, stop: Stop) -> None:
        first = self.goal.first if self.goal else None
        trials = self.experiment.train(self.images, on_progress=on_progress, stop=stop, begin=begin)
        for trial in trials:
            if any(epoch["test_accuracy"] is not None for epoch in trial.run.epochs):
                entry = run_entry(trial, self.experiment.config.train)
                self.result["runs"].append(entry)
            summary = summary_of_runs(self.result["runs"], self.experiment.arms, first=first)
            self.result["summary"] = summary
            write_result(self.experiment.folder / "results.json", self.result)
            if trial.run.done:
                self.outcomes[trial.arm][trial.seed] = self._tested(trial, stop)
                first_pair = trial.seed == 0 and trial.arm == self.experiment.arms[-1]
                if first_pair and (power := self._power()):
                    on_progress(power["text"], 0, 1)

    def _tested(self, trial: Trial, stop: Stop) -> Outcomes:
        """Return what the network of a finished run says of each test image."""
        experiment, folder = self.experiment, self.experiment.folder_of(trial.arm, trial.seed)

        def network() -> Any:
            net = experiment.network(trial.arm, trial.seed, self.images)
            return load_weights(net, folder).to(experiment.device)

        return kept_outcomes(network, self.images, experiment.config.train, folder, stop)

    def _power(self) -> dict[str, Any] | None:
        runs, experiment = self.result["runs"], self.experiment
        return planned_power(runs, experiment.arms, self.outcomes, seeds=experiment.seeds)

    def look_further(self) -> None:
        """Put into the summary what other images would say, and what the seeds can show."""
        summary = self.result["summary"]
        if "measures" not in summary:  # stopped before the first run
            return
        summary["power"] = self._power()
        try:
            image_intervals(summary, self.outcomes)
        except InputError as error:
            summary["no_image_intervals"] = first_line(error)
