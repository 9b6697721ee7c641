"""Draw docs/img/passes.svg: the sweeps over feature maps that docs/free-se.md counts.

python benchmarks/draw_passes.py
"""

from __future__ import annotations

from pathlib import Path

FIGURE = Path(__file__).resolve().parent.parent / "docs" / "img" / "passes.svg"
READ, WRITE = "#2a6f97", "#e09f3e"
BOX, GAP, ROW = 24, 6, 62

# Row: forward and backward, each pass as (what it is, the maps it reads and writes).
STATISTICS, AFFINE = ("statistics", "r"), ("a U + b", "rw")
SUMS, GRADIENT = ("sums", "rr"), ("dU", "rrw")
SE_FORWARD = (("squeeze", "r"), ("s y", "rw"))
SE_BACKWARD = (("s g", "rw"), ("g y", "rrw"), ("sum", "r"), ("+ dz/L", "rw"))
ACT_FORWARD, ACT_BACKWARD = ("act", "rw"), ("g act'", "rrw")
Pass = tuple[str, str]
ROWS: dict[str, tuple[tuple[Pass, ...], tuple[Pass, ...]]] = {
    "batch norm": ((STATISTICS, AFFINE), (SUMS, GRADIENT)),
    "batch norm, then SE": (
        (STATISTICS, AFFINE, *SE_FORWARD),
        (*SE_BACKWARD, SUMS, GRADIENT),
    ),
    "SE batch norm": (
        (("stat., squeeze", "r"), ("s a U + s b", "rw")),
        (SUMS, GRADIENT),
    ),
    "batch norm, activation": (
        (STATISTICS, AFFINE, ACT_FORWARD),
        (ACT_BACKWARD, SUMS, GRADIENT),
    ),
    "…, then SE": (
        (STATISTICS, AFFINE, ACT_FORWARD, *SE_FORWARD),
        (*SE_BACKWARD, ACT_BACKWARD, SUMS, GRADIENT),
    ),
    "… and SE in one": (
        (STATISTICS, ("squeeze", "r"), ("s act(a U + b)", "rw")),
        (("five sums", "rr"), GRADIENT),
    ),
}


def text(x: float, y: float, words: str, **attributes: object) -> str:
    """Return words at a place."""
    given = "".join(f' {name.replace("_", "-")}="{v}"' for name, v in attributes.items())
    return f'<text x="{x:g}" y="{y:g}"{given}>{words}</text>'


def one_pass(x: float, y: float, name: str, maps: str) -> tuple[list[str], float]:
    """Return the boxes of a pass, and where the next begins."""
    width = max(len(maps) * (BOX + 2) - 2, len(name) * 5.4)
    start = x + (width - len(maps) * (BOX + 2) + 2) / 2
    shapes = []
    for kind in maps:
        colour = READ if kind == "r" else WRITE
        shapes.append(
            f'<rect x="{start:g}" y="{y:g}" width="{BOX}" height="30" rx="3" fill="{colour}"/>'
        )
        shapes.append(
            text(start + BOX / 2, y + 19, kind, text_anchor="middle", fill="#fff", font_size=11)
        )
        start += BOX + 2
    shapes.append(
        text(x + width / 2, y + 42, name, text_anchor="middle", fill="#555", font_size=10)
    )
    return shapes, x + width + GAP


def main() -> None:
    """Draw."""
    counts = [sum(len(maps) for half in row for _, maps in half) for row in ROWS.values()]
    height = 44 + ROW * len(ROWS) + 40
    said = ", ".join(f"{name} {n}" for name, n in zip(ROWS, counts, strict=True))
    shapes = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 {height}" font-size="12" '
        f'font-family="system-ui, sans-serif" role="img" aria-label="Sweeps over maps: {said}">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        text(12, 24, "Sweeps over feature maps, forward and backward", font_size=14,
             font_weight=600, fill="#222"),
    ]  # fmt: skip
    y = 44.0
    for index, (name, halves) in enumerate(ROWS.items()):
        if index == 3:
            y += 12
            line = f'<line x1="12" y1="{y - 10:g}" x2="948" y2="{y - 10:g}" stroke="#ddd"/>'
            shapes.append(line)
        shapes.append(text(12, y + 20, name, fill="#222", font_weight=600))
        x = 168.0
        for number, half in enumerate(halves):
            if number:
                shapes.append(
                    f'<line x1="{x + 1:g}" y1="{y - 3:g}" x2="{x + 1:g}" y2="{y + 46:g}" '
                    'stroke="#999" stroke-dasharray="2 3"/>'
                )
                x += GAP + 2
            for label, maps in half:
                boxes, x = one_pass(x, y, label, maps)
                shapes += boxes
        shapes.append(
            text(948, y + 21, str(counts[index]), text_anchor="end", font_size=15, font_weight=600)
        )
        y += ROW
    y += 14
    for x, colour, words in ((168, READ, "a map is read"), (288, WRITE, "a map is written")):
        shapes.append(
            f'<rect x="{x}" y="{y - 11:g}" width="14" height="14" rx="3" fill="{colour}"/>'
        )
        shapes.append(text(x + 20, y + 1, words, fill="#555"))
    words = "forward | backward; g is the gradient of the output, z, s and dz are vectors [N, C]"
    shapes.append(text(430, y + 1, words, fill="#555"))
    FIGURE.write_text("\n".join([*shapes, "</svg>"]) + "\n", encoding="utf-8")
    print(FIGURE.name, counts)


if __name__ == "__main__":
    main()
