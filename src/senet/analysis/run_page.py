"""One page that shows a training run: how good it is, curves, classes, gates, what comes next.

`run.html` is the page; its style and parts are those of the comparison's.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from senet.analysis import number_texts as texts
from senet.analysis.class_results import class_section
from senet.analysis.pages import environment
from senet.analysis.series import number, part
from senet.models import NETWORKS
from senet.schema import flat

if TYPE_CHECKING:
    from senet.analysis.figures import Drawing

__all__ = ["run_page"]


def run_page(
    result: Mapping[str, Any], *, folder: str, gates: Sequence[Mapping[str, Any]] = ()
) -> str:
    """Return a run as one self-contained HTML page; see `senet.analysis.render_report`."""
    page = environment("the report of a run").get_template("run.html")
    data, config, epochs = part(result, "data"), part(result, "config"), _epochs(result)
    last = next((each for each in epochs if each["epoch"] == result.get("chosen_epoch")), {})
    planned = int(part(config, "train").get("epochs") or len(epochs))
    return page.render(
        result=result,
        subject=f"{config.get('model')} on {data.get('name')}",
        data=data,
        config=flat(config),
        recipe={**part(config, "train"), "epochs": planned, "weights": config.get("weights")},
        where={**part(result, "versions"), "date": result.get("date")},
        placement=part(result, "placement"),
        last=last,
        best_by=part(config, "train").get("best_by"),
        epochs=epochs,
        planned=planned,
        seconds=sum(number(each.get("seconds")) for each in epochs),
        warnings=list(_warnings(result, last)),
        training=list(_curves(epochs)),
        classes=class_section({"network": [part(result, "tested")]}, data.get("classes") or []),
        gates=_gates(gates),
        commands=list(_commands(result, folder, planned, has_se=bool(gates))),
    )


def _epochs(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [epoch for epoch in result.get("epochs") or [] if isinstance(epoch, Mapping)]


def _warnings(result: Mapping[str, Any], last: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a reader must know before the numbers, in sentences."""
    accuracy, share = number(last.get("test_accuracy")), number(last.get("test_majority_share"))
    if only := last.get("test_only_answer"):
        yield f"The network answers {only} for every test image: it tells no classes apart."
    elif accuracy <= share:
        yield (
            f"Always answering the largest class would be as good: {texts.percent(share)}. Look at "
            "the balanced accuracy, and try class_weights=balanced or sampling=balanced."
        )
    for path, mean in part(result, "stuck_gates").items():
        yield (
            f"The gates of {path} are nearly constant, at {texts.decimal(mean, 3)}: this block "
            "does nothing that a constant would not do."
        )
    data = part(result, "data")
    if left_out := list(data.get("left_out") or []):
        yield f"{len(left_out)} images cannot be read and are left out: {'; '.join(left_out[:3])}."
    yield from (f"{line[:1].upper()}{line[1:]}." for line in data.get("passed_over") or [] if line)


# heading: quantity of an epoch -> the line's name
_CURVES = {
    "Loss": {"train_loss": "training", "test_loss": "test", "val_loss": "validation"},
    "Accuracy": {
        "test_accuracy": "test",
        "test_balanced_accuracy": "test, balanced",
        "val_accuracy": "validation",
    },
}


def _curves(epochs: Sequence[Mapping[str, Any]]) -> Iterator[Drawing]:
    from senet.analysis.figures import epoch_curves

    for heading, lines in _CURVES.items():
        if any(each.get(name) is not None for each in epochs for name in lines):
            yield epoch_curves(epochs, lines, heading=heading, name=heading.lower())


def _gates(rows: Sequence[Mapping[str, Any]]) -> list[Drawing]:
    from senet.analysis import figures

    quantities = ("image_std", "mean") if rows else ()
    return [
        figures.gates_over_time(rows, quantity=quantity, name=f"time-{quantity}")
        for quantity in quantities
    ]


def _commands(
    result: Mapping[str, Any], folder: str, planned: int, *, has_se: bool
) -> Iterator[tuple[str, str]]:
    """Yield what to do next: why, and the command."""
    run, command = shlex.quote(folder), str(result.get("command") or "")
    resumed = command if "--resume" in command or not command else f"{command} --resume"
    if result.get("state") != "done":
        yield "Go on with this run", resumed or "senet.training.job.train(..., resume=True)"
        return
    yield "Test it on other images", f"senet eval {run} --data FOLDER"
    yield "Name what is in images", f"senet predict IMAGE.jpg --run {run}"
    if has_se:
        yield "See what the gates do, and what each block is worth", f"senet see {run}"
        yield "Take out the blocks that a constant can replace", f"senet slim {run}"
    yield "Write it for another engine", f"senet export {run} --out network.onnx"
    if resumed and len(_epochs(result)) == planned:
        yield "Train it for longer", f"{resumed} --set epochs={2 * planned}"
    if (plain := _plain(str(part(result, "config").get("model")))) is not None:
        compared = shlex.quote(f"{folder}-compare")
        yield (
            "Ask whether SE helps on these data",
            f"senet compare --config {run}/config.yaml --model {plain} --out {compared}",
        )


def _plain(model: str) -> str | None:
    """Return the network without SE blocks that a comparison begins with; None for a function."""
    if model in NETWORKS:
        return NETWORKS[model].plain
    return model if "/" in model else None
