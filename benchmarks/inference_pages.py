"""The tables of README.md and docs/deploy.md, from the rows of bench_inference.py."""

from __future__ import annotations

from pathlib import Path

from senet.files import write_text

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- latency: begin -->\n", "<!-- latency: end -->"
NETWORKS = {
    "resnet50": "ResNet-50",
    "resnext50": "ResNeXt-50 32x4d",
    "mobilenetv3": "MobileNetV3-large",
    "efficientnet_b0": "EfficientNet-B0 (timm)",
    "seresnet50": "SE-ResNet-50 (timm)",
}
ENGINES = {
    "eager": "PyTorch",
    "compile": "torch.compile",
    "onnx": "ONNX Runtime",
    "openvino": "OpenVINO",
}
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16"}
VARIANTS = {
    "undeployed": "not deployed",
    "warm": "after `senet.warm_up`",
    "portable": '`"portable"`',
    "deployed": '`"fast"`',
    "blocked": '`"blocked"`',
    "timm": "timm's module",
}
Rows = list[dict[str, str]]


def cell(rows: Rows) -> str:
    """The ratio of one row with its interval, empty without a row."""
    return "; ".join(
        f"{float(row['ratio']):.2f} [{float(row['low']):.2f}, {float(row['high']):.2f}]"
        for row in rows[:1]
    )


def table(rows: Rows, network: str, variants: dict[str, str]) -> list[str]:
    """One network: a line for each engine, precision and batch size."""
    lines = [
        "| " + " | ".join(["engine", "batch", *variants.values()]) + " |",
        "|" + "---|" * (2 + len(variants)),
    ]
    for engine, called in ENGINES.items():
        for precision, precise in PRECISIONS.items():
            for batch in ("1", "8"):
                case = (network, engine, precision, batch)
                keys = ("network", "engine", "precision", "batch")
                these = [row for row in rows if tuple(row[key] for key in keys) == case]
                if these:
                    cells = [cell([r for r in these if r["variant"] == v]) for v in variants]
                    lines.append("| " + " | ".join([f"{called}, {precise}", batch, *cells]) + " |")
    return lines


def full(rows: Rows) -> str:
    """All networks, for docs/deploy.md."""
    parts = []
    for network, called in NETWORKS.items():
        seen = {row["variant"] for row in rows if row["network"] == network}
        shown = {name: column for name, column in VARIANTS.items() if name in seen}
        if shown:
            parts += [f"{called}:", "", *table(rows, network, shown), ""]
    return "\n".join(parts)


def short(rows: Rows) -> str:
    """ResNet-50 with and without `senet.deploy`, for README.md."""
    variants = {name: VARIANTS[name] for name in ("undeployed", "deployed")}
    variants["deployed"] = "`senet.deploy`"
    return "\n".join([*table(rows, "resnet50", variants), ""])


def write(rows: Rows) -> None:
    """Put the tables between their marks."""
    for page, text in (
        (ROOT / "docs" / "deploy.md", full(rows)),
        (ROOT / "README.md", short(rows)),
    ):
        before, begin, rest = page.read_text().partition(BEGIN)
        _, end, after = rest.partition(END)
        if not begin or not end:
            raise SystemExit(f"{page} must have the marks {BEGIN.strip()} and {END}")
        write_text(page, before + begin + text + end + after)
