r"""The paper's ablations (tables 10-16) with ResNet-20 on CIFAR-10 (JPEG), as a page.

    python benchmarks/ablation.py --data ../shared/data/cifar10

trains 17 variants with 3 seeds and writes benchmarks/results/ablation.json and
docs/results/ablation.md. Interrupted, the same command goes on where it was. The smallest budget
that says anything, 10,000 images for 5 epochs, takes four to five minutes a run on one CPU core,
close to four hours in all; a little over one hour with --precision bf16 on a core that has such
arithmetic (AMX). The images are CIFAR-10 re-encoded as JPEG: no number here may stand
beside one of the original images.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from bench_train_step import commit
from progress_lines import Lines

from senet.compare import ablate
from senet.training import DataConfig, TrainConfig
from senet.training.config import PRECISIONS
from senet.training.loop.placement import find_device
from senet.training.run_folder import device_name

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "ablation.json"
PAGE = ROOT / "docs" / "results" / "ablation.md"
NAME = "CIFAR-10 (JPEG)"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with train.parquet and test.parquet")
    parser.add_argument("--train-images", type=int, default=10_000, help="size of the subset")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--precision", default="fp32", choices=sorted(PRECISIONS))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runs", default=str(ROOT / "runs" / "ablation"), help="checkpoints")
    parser.add_argument("--result", default=str(RESULT), help="where the JSON file goes")
    parser.add_argument("--page", default=str(PAGE), help="where the page goes")
    return parser.parse_args()


def row_cells(row: dict[str, Any]) -> list[str]:
    """The cells of a row."""
    error, gap = row["error"], row["difference"]
    spread = "" if error["std"] is None else f" ± {error['std']:.2f}"
    change = ""
    if gap is not None:
        change = f"{gap['mean']:+.2f}"
        if gap["low"] is not None:
            change += f" [{gap['low']:+.2f}, {gap['high']:+.2f}]"
    paper = f"{row['paper_difference']:+.2f}" if row["variant"] and gap else ""
    mine = f"{error['mean']:.2f}{spread}"
    return [row["name"], mine, change, f"{row['paper_error']:.2f}", paper, row["direction"] or ""]


def table_text(table: dict[str, Any]) -> str:
    """One of the tables."""
    base = next(row["name"] for row in table["rows"] if row["variant"] == table["compared_with"])
    lines = [
        f"## Table {table['table']}: {table['subject']}",
        "",
        f"Differences are to *{base}*.",
        "",
        "| | top-1 error here, % | difference | paper, ImageNet, % | difference | direction |",
        "|---|---|---|---|---|---|",
        *(f"| {' | '.join(row_cells(row))} |" for row in table["rows"]),
    ]
    return "\n".join(lines)


def compared(tables: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """The comparisons, each once: SE with the plain network stands in three tables."""
    return {
        (row["variant"], table["compared_with"]): {**row, "table": table["table"]}
        for table in reversed(tables)
        for row in table["rows"]
        if row["direction"]
    }


def agreement(tables: list[dict[str, Any]]) -> str:
    """What agrees with the paper, what does not, and what this budget cannot tell."""
    rows = list(compared(tables).values())
    lines = []
    for part in ("as in the paper", "against the paper", "open", "the same network"):
        names = [
            f"{row['name']} (table {row['table']})" for row in rows if row["direction"] == part
        ]
        lines.append(f"- {part}, {len(names)}: {', '.join(names[::-1]) or 'none'}")
    gaps = [row["difference"] for row in rows if row["direction"] != "the same network"]
    widths = sorted((gap["high"] - gap["low"]) / 2 for gap in gaps if gap["low"] is not None)
    published = sorted(abs(row["paper_difference"]) for row in rows)
    lines.append("")
    if widths:
        lines.append(
            f"The intervals reach ± {widths[len(widths) // 2]:.1f} points (median); the paper's "
            f"differences are {published[0]:.2f} to {published[-1]:.2f} points. Where a difference "
            "here is no larger than those, this budget cannot see it: *open* is not *none*."
        )
    return "\n".join(lines)


def page(result: dict[str, Any]) -> str:
    """The page in docs/results."""
    config, runs = result["config"], result["runs"]
    train = config["train"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    minutes = sum(run["seconds"] for run in runs) / 60
    tables = "\n\n".join(table_text(table) for table in result["tables"])
    return f"""# The paper's ablations on {NAME}

Written by `benchmarks/ablation.py`; do not edit. ResNet-20 in place of ResNet-50, 32 px in place of
224, a few epochs in place of 300: only the *direction* of a difference can be set beside the
paper's, never its size, and no error here beside one on the original images of CIFAR-10. ± is the
standard deviation over seeds, [ ] the 95 % interval of the paired difference; a direction is *open*
where that interval holds zero.

{agreement(result["tables"])}

## What was trained

{config["data"]["train_images"]:,} training images, {train["epochs"]} epochs, batch
{train["batch_size"]}, learning rate {train["lr"]}, cosine, label smoothing
{train["label_smoothing"]}, {train["precision"]}, SE layers without biases and gates that start at
1/2 as in the paper's ablations, {config["seeds"]} seeds;
{len(runs)} runs took {minutes:.0f} minutes on {result["device_name"]}.
ResNet-20 has three stages, which stand for the paper's stages 2 to 4. With 16 channels in the first
stage, r = 16 and r = 32 give one hidden unit there. Its units end with a 3x3 convolution, so SE
behind the last 3x3 is the standard place.

{tables}

## How to repeat this

```
{result["command"]}
```

Commit {result["commit"]}, {versions}.
"""


def main() -> None:
    """Train, then write the JSON file and the page."""
    given = arguments()
    result = ablate(
        data=DataConfig(f"hfds/{given.data}", train_images=given.train_images),
        train=TrainConfig(
            epochs=given.epochs,
            test_every=given.epochs,
            label_smoothing=0.1,
            precision=given.precision,
        ),
        seeds=given.seeds,
        out=given.runs,
        device=given.device,
        command=shlex.join(["python", "benchmarks/ablation.py", *sys.argv[1:]]),
        on_progress=Lines(),
    )
    if result["state"] != "done":
        print("interrupted; the same command goes on")
        sys.exit(130)
    result |= {"commit": commit(), "device_name": device_name(find_device(given.device))}
    for path, text in (
        (given.result, json.dumps({"data_name": NAME, **result}, indent=1) + "\n"),
        (given.page, page(result)),
    ):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text, encoding="utf-8")
    print(f"wrote {given.page}")


if __name__ == "__main__":
    main()
