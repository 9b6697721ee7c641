"""Faster R-CNN on blood cells, without and with SE: 5 seeds each, tested once.

    python benchmarks/detection.py                    # about two hours on one core; stop and go on
    python benchmarks/detection.py --steps 4 --seeds 1 --out /tmp/trial --page /tmp/trial.md

The data are BCCD (364 images; MIT) in ../shared/data/bccd, in the layout of Pascal VOC. Both
networks are trained by the recipe `small` on the training and validation images together, and
tested once, after the last step, on the test images; nothing is chosen by these runs. Then
the first SE detector shows what padding does: an image alone, and in a batch beside a wider one.
Writes docs/results/detection.md, its figure, and benchmarks/results/detection.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from senet.cli.terminal import showing_progress  # noqa: E402
from senet.detection import (  # noqa: E402
    compare_detectors,
    load_detector,
    mask_padding_in,
    open_boxes,
)
from senet.detection.box_data import read_image  # noqa: E402
from senet.detection.config import DetectConfig, detect_recipe  # noqa: E402
from senet.detection.predicted_boxes import detect, drawn  # noqa: E402
from senet.insertion import se_modules  # noqa: E402
from senet.schema import overridden  # noqa: E402
from senet.training.data.image_files import opened_image  # noqa: E402

DATA = ROOT.parent / "shared" / "data" / "bccd"
PAGE = ROOT / "docs" / "results" / "detection.md"
RESULT = ROOT / "benchmarks" / "results" / "detection.json"


def configuration(steps: int) -> DetectConfig:
    """The recipe `small` on BCCD, for a plain ResNet-18."""
    changes: dict[str, Any] = {
        "model": "resnet18",
        "data.root": str(DATA),
        "data.train_split": "trainval",
        "data.test_split": "test",
        "train.steps": steps,
        "train.warmup_steps": min(100, steps),
    }
    return overridden(detect_recipe("small"), changes)


# ---- padding


def change_of_finest_level(detector: nn.Module, alone: torch.Tensor, wide: torch.Tensor) -> float:
    """How far the finest level of an image is, alone and beside a wider one: relative, in L1."""
    levels: list[torch.Tensor] = []
    hook = detector.backbone.register_forward_hook(
        lambda _module, _given, out: levels.append(out["0"][:1].clone())
    )
    with torch.no_grad():
        for images in ([alone], [alone, wide]):
            detector.eval()(images)
    hook.remove()
    height, width = levels[0].shape[2:]
    first, second = levels[0], levels[1][:, :, :height, :width]
    return float((second - first).abs().sum() / first.abs().sum())


def padding(folder: Path, count: int) -> dict[str, float]:
    """The mean change over some test images: plain, SE, and SE that squeezes own pixels only.

    The gates are drawn at random, far from 1, so that what the squeeze sees matters.
    """
    changes: dict[str, list[float]] = {"plain": [], "SE, whole map": [], "SE, own pixels": []}
    plain = load_detector(folder / "runs" / "plain-seed0").net
    masked = load_detector(folder / "runs" / "se-seed0").net
    generator = torch.Generator().manual_seed(0)
    for block in se_modules(masked).values():
        block.fc2.weight.data.normal_(0, 1, generator=generator)
    whole = mask_padding_in(copy.deepcopy(masked), enabled=False)
    for image in open_boxes(DATA, "test").images[:count]:
        pixels = torch.from_numpy(np.asarray(read_image(image)).copy())
        alone = pixels.permute(2, 0, 1).float() / 255
        wide = torch.rand(3, alone.shape[1], 2 * alone.shape[2], generator=generator)
        for detector in (plain, whole, masked):
            detector.transform.max_size = 1000  # the wider one stays wider
        for name, detector in zip(changes, (plain, whole, masked), strict=True):
            changes[name].append(change_of_finest_level(detector, alone, wide))
    return {name: sum(values) / len(values) for name, values in changes.items()}


# ---- the page


def drawn_detections(folder: Path, file: Path) -> str:
    """Draw three test images: as annotated, and as each first detector sees them."""
    images = open_boxes(DATA, "test")
    chosen = images.images[:3]
    rows = [
        [
            {"class": images.classes[o.label - 1], "score": 1.0, "box": list(o.box)}
            for o in image.objects
        ]
        for image in chosen
    ]
    columns = [[drawn(read_image(i), r, images.classes) for i, r in zip(chosen, rows, strict=True)]]
    for arm in ("plain", "se"):
        trained = load_detector(folder / "runs" / f"{arm}-seed0")
        columns.append(
            [drawn(image, boxes, trained.classes)
             for _, image, boxes in detect(trained, [each.file for each in chosen], device="cpu")]
        )  # fmt: skip
    width, height = opened_image(chosen[0].file).size
    sheet = Image.new("RGB", (len(columns) * width // 2, len(chosen) * height // 2))
    for x, column in enumerate(columns):
        for y, image in enumerate(column):
            small = image.resize((width // 2, height // 2))
            sheet.paste(small, (x * width // 2, y * height // 2))
    sheet.save(file, quality=80)
    return file.name


def time_line(times: dict[str, Any]) -> str:
    """How long a training step takes."""
    plain, se = (times[arm]["median"] for arm in ("plain", "se"))
    low, ratio, high = (times["ratio"][name] for name in ("lower", "median", "upper"))
    return (
        f"A training step takes {plain:,.0f} ms and {se:,.0f} ms, {ratio:.3f} times as long "
        f"(in turn; quartiles of the ratio {low:.3f} to {high:.3f})."
    )


def page(result: dict[str, Any], padded: dict[str, float], shown: str) -> str:
    """Return the page of a finished comparison."""
    runs, summary, config = result["runs"], result["summary"], result["config"]
    pairs = [(runs[k], runs[k + 1]) for k in range(0, len(runs), 2)]
    gap, plain, se = summary["difference"], summary["plain"], summary["se"]
    train = config["train"]
    seen = "differs from 0" if gap["low"] > 0 or gap["high"] < 0 else "does not differ from 0"
    sizes = [f"{arm['parameters']['mean']:,.0f}" for arm in (plain, se)]
    data, versions, detector = result["data"], result["versions"], config["detector"]
    lines = [
        "# Faster R-CNN on blood cells",
        "",
        "Written by `benchmarks/detection.py`; do not edit.",
        "[BCCD](https://github.com/Shenggan/BCCD_Dataset) (MIT): "
        f"{data['train_images']} images to train on, {data['test_images']} test images, three",
        f"classes. ResNet-18 with FPN from scratch, shorter side {detector['min_size'][0]} px, "
        f"{train['steps']} steps of {train['batch_size']} images,",
        f"{train['optimizer']} at {train['lr']:g}: the recipe `small`, the same for both, fixed "
        "before. Tested once, after the last step.",
        "",
        "| seed | AP plain | AP SE | AP50 plain | AP50 SE |",
        "|---|---|---|---|---|",
        *(
            f"| {a['seed']} | {a['AP']:.3f} | {b['AP']:.3f} | {a['AP50']:.3f} | {b['AP50']:.3f} |"
            for a, b in pairs
        ),
        f"| mean | {plain['AP']['mean']:.3f} | {se['AP']['mean']:.3f} "
        f"| {plain['AP50']['mean']:.3f} | {se['AP50']['mean']:.3f} |",
        "",
        f"**The difference of AP, {gap['AP']:+.4f}, {seen}**: its 95 % interval over images and "
        f"seeds is [{gap['low']:+.4f}, {gap['high']:+.4f}].",
        "",
        f"Parameters: {sizes[0]} plain, {sizes[1]} with SE. {time_line(summary['step_ms'])}",
        "",
        "| class | AP plain | AP SE |",
        "|---|---|---|",
        *(
            f"| {name} | {_mean(runs, 'plain', name):.3f} | {_mean(runs, 'se', name):.3f} |"
            for name in runs[0]["per_class"]
        ),
        "",
        f"![Three test images: annotated, found by the plain network, with SE](../img/{shown})",
        "",
        *_padding_lines(padded),
        f"torch {versions['torch']}, torchvision {versions['torchvision']}, {result['date']}; "
        f"{torch.get_num_threads()} threads.",
        "",
    ]
    return "\n".join(lines)


def _padding_lines(padded: dict[str, float]) -> list[str]:
    return [
        "## Padding",
        "",
        "How far the finest level of a test image is from itself, alone and in a batch beside an",
        "image twice as wide (relative, in L1; SE with random gates, so that the squeeze matters):",
        "",
        "| network | change |",
        "|---|---|",
        *(f"| {name} | {value:.3f} |" for name, value in padded.items()),
        "",
        "What is left with the mask comes in by the convolutions, over the border of the image.",
        "",
    ]


def _mean(runs: list[dict[str, Any]], arm: str, name: str) -> float:
    values = [run["per_class"][name]["AP"] for run in runs if run["arch"] == arm]
    return sum(values) / len(values)


def main() -> None:
    """Train what is not trained yet, test, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=20, help="for the change by padding")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "detection")
    parser.add_argument("--page", type=Path, default=PAGE)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with showing_progress(Console()) as on_progress:
        result = compare_detectors(
            configuration(given.steps),
            seeds=given.seeds,
            out=given.out,
            resume=True,
            device="cpu",
            command="python benchmarks/detection.py",
            on_progress=on_progress,
        )
    if result["state"] != "done":
        raise SystemExit("interrupted; the same command goes on")
    padded = padding(given.out, given.images)
    ours = given.page == PAGE
    folder = ROOT / "docs" / "img" if ours else given.page.parent
    shown = drawn_detections(given.out, folder / "detection.jpg")
    given.page.write_text(page(result, padded, shown), encoding="utf-8")
    kept = RESULT if ours else given.page.with_suffix(".json")
    result["config"]["data"]["root"] = "../shared/data/bccd"
    kept.write_text(json.dumps({**result, "padding": padded}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
