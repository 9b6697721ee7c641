r"""What the gates of SE networks do on CIFAR-10 (JPEG), and what can be taken away.

    python benchmarks/excitations.py --data ../shared/data/cifar10 \
        --weights ../shared/data/weights/resnet20-12fca82f.th

writes benchmarks/results/excitations_*.json and docs/results/excitations.md. Interrupted, the same
command goes on where it was; `--parts` chooses some of the parts. The images are CIFAR-10
re-encoded as JPEG: no number here may stand beside one of the original images.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from progress_lines import Lines
from provenance import commit, processor
from write_excitations_page import NETWORKS, page

from senet import SEConfig
from senet.analysis import record_gates
from senet.analysis.gate_findings import kinds_of
from senet.compare import compare
from senet.cost.op_counter import count_forward
from senet.files import write_text
from senet.schema import overridden
from senet.slim import find_folds, fold
from senet.slim.slimming import labelled_batches_of
from senet.slim.trials import Trials
from senet.training.config import DataConfig, RunConfig, TrainConfig, recipe
from senet.training.data import Unreadable
from senet.training.job import train
from senet.training.run_folder import now, versions
from senet.training.trained import load_written

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "results" / "excitations.md"
PARTS = ("se", "finetune", "gates_se", "gates_pretrained")

# The training of the first part, as changes of the recipe "cifar" for SE-ResNet-20.
TRAINING = {
    "se.reduction": 4,
    "train.epochs": 24,
    "train.schedule": "cosine",
    "train.milestones": [],
    "train.precision": "bf16",
    "train.weight_decay": 5e-4,
    "train.nesterov": True,
}
# The comparison: plain, SE and a constant gate, alike in everything else.
ARMS = ("plain", "se", "constant")
BLOCKS = SEConfig(reduction=4)
IMAGES, SEEDS = 10_000, 5
FINETUNE = TrainConfig(
    epochs=2, lr=0.02, warmup_epochs=0.2, batch_size=128, weight_decay=5e-4, precision="bf16"
)
# The networks whose gates are looked at: where their runs are.
RUNS = {"se": "se", "pretrained": "finetune/runs/se-seed0"}
CHOICE, MAX_DROP = 2500, 0.1  # training images for the constants and the choice; points


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with train.parquet and test.parquet")
    parser.add_argument("--weights", required=True, help="state dict of the pretrained ResNet-20")
    parser.add_argument(
        "--parts",
        default=",".join(PARTS),
        help="some of the parts, in order; '' for the page alone",
    )
    parser.add_argument("--runs", default=str(ROOT / "runs" / "excitations"), help="trained here")
    parser.add_argument("--results", default=str(RESULTS), help="where the JSON files go")
    parser.add_argument("--page", default=str(PAGE), help="where the page goes")
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


def command() -> str:
    """The command that the page shows."""
    return shlex.join(["python", "benchmarks/excitations.py", *sys.argv[1:]])


def trained(options: argparse.Namespace) -> dict[str, Any]:
    """The first part: SE-ResNet-20 on all training images, or what is left of its training."""
    changes = {**TRAINING, "data.name": f"hfds/{options.data}"}
    config: RunConfig = overridden(recipe("cifar", model="se_resnet20"), changes)
    out = Path(options.runs) / "se"
    result = train(config, out=out, resume=True, command=command(), on_progress=Lines("se"))
    return finished(result)


def comparison(options: argparse.Namespace) -> dict[str, Any]:
    """The comparison of the three arms, from the published weights."""
    result = compare(
        model="resnet20",
        data=DataConfig(f"hfds/{options.data}", train_images=IMAGES, normalization="imagenet"),
        train=FINETUNE,
        se=BLOCKS,
        arms=ARMS,
        weights=options.weights,
        seeds=SEEDS,
        out=Path(options.runs) / "finetune",
        resume=True,
        device=options.device,
        timing=False,
        command=command(),
        on_progress=Lines("finetune"),
    )
    result["excitations"] = None  # in the report of the runs folder
    return finished(result)


def gates(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """What the gates of a network do on the test images, and what folding them costs there.

    Constants and the greedy choice are those of training images.
    """
    trained = load_written(Path(options.runs) / RUNS[name])
    data, said = DataConfig(f"hfds/{options.data}"), Lines(f"gates_{name}")
    chosen_on = labelled_batches_of(trained, data, Unreadable(0), training=True, images=CHOICE)
    test = labelled_batches_of(trained, data, Unreadable(0), training=False, images=None)
    recorded = record_gates(trained.net, test, classes=trained.classes, on_progress=said)
    plan = find_folds(trained.net, chosen_on, max_drop=MAX_DROP, timing=False, on_progress=said)
    stages = {stage: [f.path for f in plan.folds if f.stage == stage] for stage in plan.stages}
    groups = {
        "all blocks": tuple(fold.path for fold in plan.folds),
        **{f"stage {stage}": tuple(paths) for stage, paths in stages.items()},
        f"the greedy choice, at most {MAX_DROP} points on training images": plan.chosen,
    }
    constants = {fold.path: fold.constant for fold in plan.folds}
    trials = Trials(trained.net, test, constants, None, said)
    trials.test(groups.values())
    saved = {fold.path: fold.saves for fold in plan.folds}
    folded = fold(trained.net, plan)
    example = next(iter(test))[0][:1]
    return {
        "command": command(),
        "versions": versions(),
        "date": now(),
        "network": NETWORKS[name],
        "images": trials.tested.images if trials.tested else 0,
        "accuracy": trials.tested.accuracy if trials.tested else None,
        "loss": trials.tested.loss if trials.tested else None,
        "parameters": sum(p.numel() for p in trained.net.parameters()),
        "macs": sum(count_forward(trained.net.eval(), example).macs.values()),
        "error": folded.folding.error,  # type: ignore[union-attr]
        "plan": plan.to_dict(),
        "groups": {
            group: {
                "blocks": list(paths),
                "parameters": sum(saved[path].parameters for path in paths),
                "macs": sum(saved[path].macs for path in paths),
                "cost": {k: list(v) for k, v in trials.costs[paths]._asdict().items()}
                if paths
                else None,
            }
            for group, paths in groups.items()
        },
        "gates": recorded.to_dict(),
        "kinds": {block.path: kinds_of(block) for block in recorded.blocks},
    }


def finished(result: dict[str, Any]) -> dict[str, Any]:
    """The result of a part that is done; Ctrl-C ends the script."""
    if result["state"] != "done":
        print("interrupted; the same command goes on")
        sys.exit(130)
    return result


def main() -> None:
    """Measure the parts that are asked for, each written as soon as it is done."""
    options = arguments()
    results = Path(options.results)
    for part in options.parts.split(",") if options.parts else ():
        if part == "se":
            result = trained(options)
        elif part.startswith("gates_"):
            result = gates(options, part.removeprefix("gates_"))
        else:
            result = comparison(options)
        result |= {"commit": commit(), "processor": processor("cpu")}
        path = results / f"excitations_{part}.json"
        write_text(path, json.dumps(result, indent=1) + "\n")
        print(f"{part}: {path}", flush=True)
    files = {part: results / f"excitations_{part}.json" for part in PARTS}
    there = {part: json.loads(file.read_text()) for part, file in files.items() if file.exists()}
    write_text(Path(options.page), page(there))


if __name__ == "__main__":
    main()
