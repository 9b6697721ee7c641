"""Draw docs/img/train_step.svg from benchmarks/results/train_step.csv.

python benchmarks/draw_train_step.py
"""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "senet"  # the same figure gives the same file

import matplotlib.pyplot as plt  # noqa: E402  after the backend is chosen

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "train_step.csv"
FIGURE = ROOT / "docs" / "img" / "train_step.svg"
# variant: what it is, its colour
SHOWN = {
    "timm": ("module after module (timm's, where it has the network)", "#b0b0b0"),
    "inserted": ("senet.insert", "#2a6f97"),
    "warm": ("after senet.warm_up", "#52b69a"),
    "zoo": ("senet's own network", "#89c2d9"),
}


def cases() -> dict[str, dict[str, dict[str, str]]]:
    """Return the newest rows by case and variant, of the device and allocator measured last.

    Batch 8, 224 x 224 pixels, channels_last.
    """
    size = {"batch": "8", "image": "224", "memory_format": "channels_last"}
    with RESULTS.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if size.items() <= row.items()]
    found: dict[str, dict[str, dict[str, str]]] = {}
    for row in rows:
        if all(row[name] == rows[-1][name] for name in ("device", "allocator")):
            case = f"{row['network']}\n{row['dtype']}, {row['mode']}"
            # timm's where it has the network, else insertion that is computed by the reference
            if row["variant"] == "reference" and "timm" in found.get(case, {}):
                continue
            found.setdefault(case, {})[row["variant"].replace("reference", "timm")] = row
    return found


def draw() -> None:
    """Draw two panels: time and bytes kept, as multiples of the network without SE."""
    shown = cases()
    if not shown:
        raise SystemExit(f"{RESULTS} must hold rows of batch 8 and 224 pixels; run the benchmark")
    device = next(iter(next(iter(shown.values())).values()))["device"]
    figure, panels = plt.subplots(1, 2, figsize=(9, 0.7 + 0.66 * len(shown)), sharey=True)
    titles = {"ratio": "time of a training step", "kept_ratio": "bytes kept for the backward"}
    for panel, (column, title) in zip(panels, titles.items(), strict=True):
        for index, rows in enumerate(shown.values()):
            for place, (variant, (_, colour)) in enumerate(SHOWN.items()):
                if variant not in rows:
                    continue
                row, y = rows[variant], index + 0.2 * (place - 1.5)
                value = float(row[column])
                panel.barh(y, value - 1, left=1, height=0.17, color=colour)
                if column == "ratio":
                    ends = [float(row["median_low"]), float(row["median_high"])]
                    panel.plot(ends, [y, y], color="#333333", linewidth=1)
                end = max(value, float(row["median_high"]) if column == "ratio" else 1)
                panel.annotate(
                    f"{value:.3f}", (end, y), (4, 0),
                    textcoords="offset points", va="center", fontsize=7, color="#333333",
                )  # fmt: skip
        panel.axvline(1, color="#333333", linewidth=1)
        panel.set_title(f"{title} / without SE", fontsize=9)
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.tick_params(axis="y", length=0)
        panel.tick_params(labelsize=8)
        panel.margins(x=0.2)
    panels[0].set_yticks(range(len(shown)), list(shown))
    panels[0].invert_yaxis()
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for _, colour in SHOWN.values()]
    names = [name for name, _ in SHOWN.values()]
    figure.legend(handles, names, loc="lower center", ncols=4, fontsize=8, frameon=False)
    figure.text(0.99, 0.005, device, ha="right", fontsize=6, color="#777777")
    figure.tight_layout(rect=(0, 0.09, 1, 1))
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, metadata={"Date": None})
    print(FIGURE.relative_to(ROOT))


if __name__ == "__main__":
    draw()
