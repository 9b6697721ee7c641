"""The arms of an experiment: networks that differ from each other in one thing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["ARMS", "Arm"]


class Arm(NamedTuple):
    """One of the networks of an experiment.

    Attributes:
        changes: what it changes in the experiment's configuration, as `senet.schema.overridden`
            takes it.
        title: what the progress calls it; its name if not given.
    """

    changes: Mapping[str, Any]
    title: str = ""


ARMS: dict[str, Arm] = {
    "plain": Arm({"se": None}),
    "se": Arm({}, "SE"),
    **{f"r{r}": Arm({"se.reduction": r}) for r in (2, 4, 8, 32)},
    "max": Arm({"se.squeeze": "max"}),
    "relu": Arm({"se.excitation": "relu"}),
    "tanh": Arm({"se.excitation": "tanh"}),
    **{f"stage{stage}": Arm({"se.stages": (stage,)}) for stage in (0, 1, 2)},
    "pre": Arm({"se.integration": "pre"}),
    "post": Arm({"se.integration": "post"}),
    "identity": Arm({"se.integration": "identity"}),
    "inner": Arm({"se.integration": "inner"}),
    "nosqueeze": Arm({"se.squeeze": "none"}),
    "constant": Arm({"se.squeeze": "constant"}),
    # of trained weights: what is cheap to train, and SE as one of these adapters
    "se-only": Arm({"train.trained": "se"}, "SE only"),
    "bn-only": Arm({"se": None, "train.trained": "bn"}),
    "head-only": Arm({"se": None, "train.trained": "head"}),
}
