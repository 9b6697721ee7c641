r"""SE on CIFAR-10 (JPEG): trained from scratch, and inserted into a pretrained network.

    python benchmarks/cifar10.py --data ../shared/data/cifar10 \
        --weights ../shared/data/weights/resnet20-12fca82f.th

writes benchmarks/results/cifar10_*.json and docs/results/cifar10.md; with `--model resnet32` and
its weights, cifar10_resnet32_*.json and docs/results/cifar10-resnet32.md. Interrupted, the same
command goes on where it was. The images are CIFAR-10 re-encoded as JPEG: no number here may stand
beside one of the original images.
"""

from __future__ import annotations

import argparse
import copy
import json
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench_train_step import commit
from progress_lines import Lines
from torch import Tensor, nn

import senet
from senet.analysis.series import upgraded
from senet.compare import compare
from senet.models import create_model
from senet.training import DataConfig, TrainConfig
from senet.training.data import load_data
from senet.training.loop.placement import find_device
from senet.training.run_folder import device_name

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "results" / "cifar10.md"
NAME = "CIFAR-10 (JPEG)"
TITLES = {"resnet20": "ResNet-20", "resnet32": "ResNet-32"}

# The same learning rate for both networks of a part, and everything else alike too.
SCRATCH = TrainConfig(epochs=5, batch_size=64, lr=0.1, weight_decay=5e-4)
FINETUNE = TrainConfig(epochs=1, batch_size=64, lr=0.01, weight_decay=5e-4, warmup_epochs=0.2)


PARTS = ("inserted", "scratch", "finetune", "environment")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with train.parquet and test.parquet")
    parser.add_argument("--weights", required=True, help="state dict of the pretrained network")
    parser.add_argument("--model", default="resnet20", choices=["resnet20", "resnet32"])
    parser.add_argument("--train-images", type=int, default=10_000, help="size of the subset")
    parser.add_argument("--epochs", type=int, default=SCRATCH.epochs, help="from scratch")
    parser.add_argument("--finetune-epochs", type=int, default=FINETUNE.epochs)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runs", help="checkpoints (default: runs/cifar10)")
    parser.add_argument("--results", default=str(RESULTS), help="where the JSON files go")
    parser.add_argument("--page", help="where the page goes (default: docs/results)")
    parser.add_argument(
        "--page-only", action="store_true", help="of the JSON files, measure nothing"
    )
    given = parser.parse_args()
    suffix = "" if given.model == "resnet20" else f"-{given.model}"
    given.runs = given.runs or str(ROOT / "runs" / f"cifar10{suffix}")
    given.page = given.page or str(PAGE.with_stem(PAGE.stem + suffix))
    return given


def pretrained(model: str, path: str, num_classes: int, in_chans: int) -> nn.Module:
    """The published network; its file keeps the keys under the prefix "module."."""
    net = create_model(model, num_classes=num_classes, in_chans=in_chans)
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = {key.removeprefix("module."): value for key, value in state["state_dict"].items()}
    if num_classes == len(state["linear.bias"]):  # compare also builds it with 2, for its size
        net.load_state_dict(state)
    return net


def predictions(net: nn.Module, batches: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """The logits of all test images, and their labels."""
    net = net.to(device).eval()
    with torch.no_grad():
        pairs = [(net(images.to(device)).cpu(), labels) for images, labels in batches]
    return torch.cat([logits for logits, _ in pairs]), torch.cat([labels for _, labels in pairs])


def inserted(options: argparse.Namespace) -> dict[str, Any]:
    """Insert SE into the pretrained network, and compare every prediction before and after."""
    device = find_device(options.device)
    config = DataConfig(f"hfds/{options.data}", normalization="imagenet", train_images=100)
    data = load_data(config, input_size=(3, 32, 32))
    batches = data.test_batches(TrainConfig(batch_size=500))
    plain = pretrained(options.model, options.weights, len(data.classes), 3).eval()
    before, labels = predictions(copy.deepcopy(plain), batches, device)
    report = senet.insert(plain, torch.zeros(1, 3, 32, 32))
    after, _ = predictions(plain, batches, device)
    correct = [int((logits.argmax(1) == labels).sum()) for logits in (before, after)]
    return {
        "images": len(labels),
        "correct_before": correct[0],
        "correct_after": correct[1],
        "same_class": int((before.argmax(1) == after.argmax(1)).sum()),
        "largest_logit_difference": float((before - after).abs().max()),
        "blocks": len(report.sites),
        "parameters_before": report.base_parameters,
        "parameters_added": report.parameters,
    }


def comparison(part: str, options: argparse.Namespace, **chosen: Any) -> dict[str, Any]:
    """One `senet compare`; goes on where it was interrupted. Ctrl-C ends the script."""
    out = Path(options.runs) / part
    result = compare(
        seeds=options.seeds,
        out=out,
        resume=True,
        device=options.device,
        command=command(),
        on_progress=Lines(part),
        **chosen,
    )
    if result["state"] != "done":
        print("interrupted; the same command goes on")
        sys.exit(130)
    result["excitations"] = None  # in the report of the runs folder
    return result


def command() -> str:
    """The command that the page shows."""
    return shlex.join(["python", "benchmarks/cifar10.py", *sys.argv[1:]])


def measured(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """All parts, each in the form of its JSON file."""
    common = {"name": f"hfds/{options.data}", "train_images": options.train_images}
    exact = inserted(options)
    scratch = comparison(
        "scratch",
        options,
        model=options.model,
        data=DataConfig(**common),
        train=TrainConfig(**(SCRATCH.to_dict() | {"epochs": options.epochs})),
    )
    network = partial(pretrained, options.model, options.weights)
    network.__name__ = f"pretrained {options.model}"  # type: ignore[attr-defined]
    finetune = comparison(
        "finetune",
        options,
        model=network,
        data=DataConfig(**common, normalization="imagenet"),
        train=TrainConfig(**(FINETUNE.to_dict() | {"epochs": options.finetune_epochs})),
        timing=False,
    )
    return {"inserted": exact, "scratch": scratch, "finetune": finetune}


def percent(value: float) -> str:
    """A fraction in percent."""
    return f"{100 * value:.2f} %"


def accuracy_table(result: dict[str, Any]) -> str:
    """Accuracy by seed, then mean and spread, and the paired difference with its interval."""
    accuracy = {(run["arch"], run["seed"]): run["test_accuracy"] for run in result["runs"]}
    lines = ["| seed | plain | with SE | SE - plain, points |", "|---|---|---|---|"]
    for seed in result["config"]["seeds"]:
        plain, se = accuracy["plain", seed], accuracy["se", seed]
        lines.append(f"| {seed} | {percent(plain)} | {percent(se)} | {100 * (se - plain):+.2f} |")
    means = upgraded(result)["summary"]["arms"]
    cells = [
        percent(means[arch]["mean"])
        + (f" ± {100 * means[arch]['std']:.2f}" if means[arch]["std"] is not None else "")
        for arch in ("plain", "se")
    ]
    gap = difference(result)
    interval = "no interval"
    if gap["low"] is not None:
        interval = f"[{100 * gap['low']:+.2f}, {100 * gap['high']:+.2f}]"
    lines.append(f"| **mean** | {cells[0]} | {cells[1]} | {100 * gap['mean']:+.2f} {interval} |")
    return "\n".join(lines)


def difference(result: dict[str, Any]) -> dict[str, Any]:
    """SE minus plain, of a result of any schema."""
    entry: dict[str, Any] = upgraded(result)["summary"]["differences"][0]["difference"]
    return entry


def recipe(result: dict[str, Any]) -> str:
    """What was done, and how long it took."""
    config, data = result["config"], result["data"]
    seconds = sum(run["seconds"] for run in result["runs"])
    return (
        f"{data['train_images']:,} training images (a fixed stratified subset of the 50,000), "
        f"{data['test_images']:,} test images, {config['epochs']} epochs, batch "
        f"{config['batch_size']}, learning rate {config['lr']}, SGD with Nesterov momentum "
        f"{config['momentum']}, weight decay {config['weight_decay']}, cosine with "
        f"{config['warmup_epochs']:g} epochs of warm-up, zero-pad-4 crop and flip, r = "
        f"{config['se']['reduction']:g}. {len(result['runs'])} runs took "
        f"{seconds / 60:.0f} minutes on {result['device']}."
    )


def cost_sentence(result: dict[str, Any]) -> str:
    """What SE costs in this network; times where they were measured."""
    total = result["cost"]["total"]
    plain, more = total["plain"], total["difference"]
    text = (
        f"SE adds {more['parameters']:,} parameters to {plain['parameters']:,}, and "
        f"{100 * more['macs'] / plain['macs']:.3f} % multiply-adds."
    )
    if total["ratio"].get("step_ms"):
        text += (
            f" Measured on the same machine: a training step takes {total['ratio']['step_ms']:.2f} "
            f"times as long, a forward pass {total['ratio']['latency_ms']:.2f} times."
        )
    return text


def seen(result: dict[str, Any]) -> str:
    """Which effect the interval could have shown; the paper's own are about one point."""
    gap = difference(result)
    if gap["low"] is None:
        return ""
    half = 50 * (gap["high"] - gap["low"])
    known = "the paper's, on the original images and with its recipes, are 0.4 to 1.2 points"
    return f"The interval reaches ± {half:.2f} points: smaller effects cannot be seen ({known})."


def repeat(scratch: dict[str, Any], commit: str) -> str:
    """How to repeat it, and with what it was done."""
    versions = ", ".join(f"{name} {version}" for name, version in scratch["versions"].items())
    return f"""## How to repeat this

```
{scratch["command"]}
```

Commit {commit}, {scratch["date"]}, {versions}.
"""


def page(parts: dict[str, dict[str, Any]]) -> str:
    """The page in docs/results."""
    exact, scratch, finetune = parts["inserted"], parts["scratch"], parts["finetune"]
    images, title = exact["images"], TITLES[scratch["config"]["model"]]
    unchanged = exact["same_class"] == images
    return f"""# SE-{title} on {NAME}

Written by `benchmarks/cifar10.py`; do not edit. The images are CIFAR-10 re-encoded as JPEG, which
makes them harder: these are numbers on {NAME}, and none of them may be set beside the paper's or
anyone's on the original images. The budget is small, meant for two CPU cores in about an hour, so
the networks are far from the accuracy that long training gives. Accuracies are those on the test
images after the last epoch; ± is the standard deviation over seeds, [ ] the 95 % interval of the
paired difference.

## Trained from scratch

{recipe(scratch)}

{accuracy_table(scratch)}

**{NAME}, {title} from scratch: {scratch["summary"]["verdict"]}.**
{seen(scratch)}
{cost_sentence(scratch)}

## Inserted into a pretrained network

The published {title} (trained on the original images; ImageNet's mean and standard deviation)
classifies {exact["correct_before"]:,} of {images:,} test images of {NAME} correctly
({percent(exact["correct_before"] / images)}). After `senet.insert` with {exact["blocks"]} blocks
({exact["parameters_added"]:,} parameters on {exact["parameters_before"]:,}) it is
{exact["correct_after"]:,} ({percent(exact["correct_after"] / images)}). The predicted class is the
same for {exact["same_class"]:,} of {images:,} images{", every one" if unchanged else ""}; the
largest difference of any logit is {exact["largest_logit_difference"]:g}.

## Fine-tuned from there, with SE and without

{recipe(finetune)}

{accuracy_table(finetune)}

**{NAME}, pretrained {title} fine-tuned: {finetune["summary"]["verdict"]}.**
{seen(finetune)}
Both columns start from the {percent(exact["correct_before"] / images)} above.

{repeat(scratch, parts["environment"]["commit"])}"""


def main() -> None:
    """Measure, then write the JSON files and the page."""
    options = arguments()
    folder = Path(options.results)
    head = "cifar10" if options.model == "resnet20" else f"cifar10_{options.model}"
    files = {name: folder / f"{head}_{name}.json" for name in PARTS}
    if options.page_only:
        parts = {name: json.loads(path.read_text()) for name, path in files.items()}
    else:
        parts = measured(options)
        parts["environment"] = {
            "commit": commit(),
            "device": device_name(find_device(options.device)),
            "command": command(),
        }
        folder.mkdir(parents=True, exist_ok=True)
        for name, path in files.items():
            text = json.dumps({"data_name": NAME, **parts[name]}, indent=1)
            path.write_text(text + "\n", encoding="utf-8")
    Path(options.page).parent.mkdir(parents=True, exist_ok=True)
    Path(options.page).write_text(page(parts), encoding="utf-8")
    print(f"wrote {options.page}")


if __name__ == "__main__":
    main()
