"""`senet detect train`, `eval`, `predict` and `compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from senet.cli import options as o
from senet.cli.commands import app
from senet.cli.terminal import command_line, data_notes, finished, run_job, showing_progress
from senet.errors import optional
from senet.files import write_text
from senet.schema import overridden
from senet.training.config import LOGGERS, parse_values, read_yaml, to_yaml

__all__ = ["detect_app"]


detect_app = typer.Typer(
    help="Detectors on SE backbones: Faster R-CNN on images with boxes.", no_args_is_help=True
)
app.add_typer(detect_app, name="detect")

DataFolder = Annotated[
    str | None, typer.Option("--data", help="A folder in the layout of Pascal VOC or COCO.")
]
Split = Annotated[str | None, typer.Option(help="Name of the split that is tested.")]
Model = Annotated[str | None, typer.Option(help=o.NAME_HELP)]
Weights = Annotated[
    str | None, typer.Option(help="What it starts from: a file, timm/NAME, a run of senet train.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any value, as lr=0.01; may be repeated."),
]
Logger = Annotated[str | None, typer.Option(help=f"{', '.join(LOGGERS)}.")]
Steps = Annotated[int | None, typer.Option(help="Steps of the whole run.")]
Recipe = Annotated[str, typer.Option("--recipe", help="Where to begin: small or coco_2x.")]
Run = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help="Folder of `senet detect train`, or file of `senet export`."
    ),
]


def _config(recipe: str, file: Path | None, sets: list[str] | None, given: dict[str, Any]) -> Any:
    with optional("senet detect"):
        from senet.detection.config import detect_recipe

    begun = overridden(detect_recipe(recipe), {} if file is None else read_yaml(file))
    changes = {name: value for name, value in given.items() if value is not None}
    return overridden(begun, changes | parse_values(sets or ()))


@detect_app.command("train")
def train(
    *,
    recipe: Recipe = "small",
    file: o.ConfigFile = None,
    model: Model = None,
    weights: Weights = None,
    data: DataFolder = None,
    steps: Steps = None,
    logger: Logger = None,
    sets: Sets = None,
    out: o.Out = Path("runs/detect"),
    resume: o.Resume = False,
    device: o.Device = "auto",
    devices: o.Devices = 1,
    nodes: o.Nodes = 1,
    save_every: o.SaveEvery = None,
    dry_run: o.DryRun = False,
) -> None:
    """Train a detector by a recipe; killed or interrupted, --resume goes on to the same end."""
    given = {"model": model, "weights": weights, "data.root": data, "train.steps": steps}
    config = _config(recipe, file, sets, given | {"logger": logger})
    if dry_run:
        typer.echo(to_yaml(config), nl=False)
        return
    from senet.detection.detector_runs import train_detector
    from senet.training.loop.placement import Placement, is_first_process

    options: Any = {"placement": Placement(device, devices, nodes), "save_every": save_every}
    options |= {"out": out, "resume": resume, "quiet": not is_first_process()}
    console, result = run_job(train_detector, config, **options)
    lines = []
    if result["epochs"]:
        last = result["epochs"][-1]
        numbers = (f"{name} {_shown(last[f'test_{name}'])}" for name in ("AP", "AP50", "AR_100"))
        lines = [f"test after {last['epoch'] * config.train.part} steps: {', '.join(numbers)}"]
    for line in [*lines, *data_notes(result["data"]), f"results: {out}"]:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    finished(console, result, resume=resume)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


@detect_app.command("eval")
def evaluate(
    run: Run,
    *,
    data: DataFolder = None,
    split: Split = None,
    batch_size: Annotated[int, typer.Option(help="Images at a time.")] = 4,
    max_bad_images: Annotated[int, typer.Option(help="Unreadable images that are left out.")] = 0,
    device: o.Device = "auto",
    out: Annotated[
        Path | None, typer.Option(help="Folder for eval.json and detections.json (COCO's results).")
    ] = None,
    as_json: o.AsJson = False,
) -> None:
    """Test a detector: COCO's twelve numbers, per class, VOC's AP50."""
    with optional("senet detect eval"):
        from senet.detection.detector_runs import evaluate_detector
        from senet.detection.precisions import coco_results

    trained = _opened(run)
    with showing_progress(Console(stderr=as_json)) as on_progress:
        precisions, images, detections = evaluate_detector(
            trained,
            data,
            split,
            batch_size=batch_size,
            device=device,
            max_bad_images=max_bad_images,
            on_progress=on_progress,
        )
    numbers = precisions.to_dict()
    place = {"command": command_line(), "split": images.name, "images": len(images)}
    result = {**place, **numbers}
    if out is not None:
        write_text(out / "eval.json", json.dumps(result, indent=1))
        write_text(out / "detections.json", json.dumps(coco_results(images, detections)))
    if as_json:
        typer.echo(json.dumps(result, indent=1))
        return
    _show_numbers(f"{run} on {images.name}, {len(images)} images", numbers)


def _opened(source: Path) -> Any:
    """Return the detector of a run, or of an exported file."""
    from senet.detection.detector_files import load_exported_detector
    from senet.detection.detector_runs import load_detector
    from senet.training.exported import is_exported

    return load_exported_detector(source) if is_exported(source) else load_detector(source)


def _show_numbers(title: str, numbers: dict[str, Any]) -> None:
    """Print what `Precisions.to_dict` gives."""
    table = Table(title=title, title_justify="left")
    for head in ("", "AP", "AP50"):
        table.add_column(head, justify="left" if not head else "right")
    table.add_row("all", _shown(numbers["AP"]), _shown(numbers["AP50"]))
    for name, values in numbers["per_class"].items():
        table.add_row(name, _shown(values["AP"]), _shown(values["AP50"]))
    console = Console()
    console.print(table)
    rest = [name for name in numbers if name not in ("AP", "AP50", "per_class")]
    console.print(", ".join(f"{name} {_shown(numbers[name])}" for name in rest), highlight=False)


@detect_app.command("predict")
def predict(
    run: Run,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Files and folders.")],
    *,
    score: Annotated[float, typer.Option(help="The least score of a box.")] = 0.5,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the images with their boxes, as PNG.")
    ] = None,
    device: o.Device = "auto",
    as_json: o.AsJson = False,
) -> None:
    """Find the objects in images, or in those of a folder; with --out, draw them."""
    with optional("senet detect predict"):
        from senet.detection.predicted_boxes import detect, drawn, image_files

    paths, notes = image_files(images)
    trained = _opened(run)
    listed: dict[str, Any] = {}
    for path, image, boxes in detect(trained, paths, score=score, device=device):
        listed[str(path)] = boxes
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            name = path.name if len({p.name for p in paths}) == len(paths) else f"{len(listed)}"
            drawn(image, boxes, trained.classes).save(out / f"{name}.png")
        if not as_json:
            surest = ", ".join(f"{each['class']} {each['score']:.2f}" for each in boxes[:8])
            typer.echo(f"{path}: {len(boxes)} boxes{': ' * bool(surest)}{surest}")
    for line in notes:
        typer.echo(line, err=True)
    if as_json:
        typer.echo(json.dumps(listed, indent=1))


@detect_app.command("compare")
def compare(
    *,
    recipe: Recipe = "small",
    file: o.ConfigFile = None,
    model: Annotated[str, typer.Option(help="The plain network.")] = "resnet18",
    weights: Weights = None,
    data: DataFolder = None,
    split: Split = None,
    steps: Steps = None,
    logger: Logger = None,
    sets: Sets = None,
    seeds: o.Seeds = 3,
    out: o.Out = Path("runs/detect-compare"),
    resume: o.Resume = False,
    device: o.Device = "auto",
) -> None:
    """Train a detector without and with SE blocks, alike in everything else, and compare them."""
    given = {"model": model, "weights": weights, "data.root": data, "train.steps": steps}
    config = _config(recipe, file, sets, given | {"logger": logger})
    from senet.detection.paired import compare_detectors

    options: Any = {"seeds": seeds, "split": split, "out": out, "resume": resume}
    console, result = run_job(compare_detectors, config, device=device, **options)
    if "summary" in result:
        _show(console, result)
        console.print(f"results: {out / 'results.json'}", soft_wrap=True, highlight=False)
    finished(console, {"state": result["state"]}, resume=resume)


def _show(console: Console, result: dict[str, Any]) -> None:
    summary, config = result["summary"], result["config"]
    title = f"{config['model']} on {result['data']['name']}, {config['seeds']} seeds"
    table = Table("", "plain", "SE", title=title, title_justify="left")
    for name in ("AP", "AP50", "VOC_AP50", "parameters"):
        cells = []
        for arm in ("plain", "se"):
            value = summary[arm][name]
            digits = 0 if name == "parameters" else 3
            text = f"{value['mean']:,.{digits}f}"
            spread = value["std"] if name.endswith(("AP", "50")) else None
            cells.append(text if spread is None else f"{text} ± {spread:.3f}")
        table.add_row(name.replace("_", " "), *cells)
    times = summary["step_ms"]
    table.add_row("step, ms", *(f"{times[arm]['median']:,.0f}" for arm in ("plain", "se")))
    console.print(table)
    ratio, gap = times["ratio"], summary["difference"]
    console.print(
        f"a training step takes {ratio['median']:.3f} times as long with SE "
        f"(quartiles {ratio['lower']:.3f} to {ratio['upper']:.3f})",
        highlight=False,
    )
    console.print(
        f"AP with SE - plain: {gap['AP']:+.4f} [{gap['low']:+.4f}, {gap['high']:+.4f}] "
        "(95 %, over images and seeds)",
        highlight=False,
        markup=False,
    )
