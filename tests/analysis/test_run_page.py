"""The page of a run: what it says, what it warns of, and that a browser shows it at any width."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import pytest

from browser import Browser, chromium
from senet.analysis import proportion_interval, render_report
from senet.analysis.class_results import class_section

BAD = 'plums & <b>"pears"</b>'
CLASSES = ["apple", BAD, "quince"]
CONFUSION = [[90, 6, 4], [5, 14, 1], [0, 2, 8]]


def _tested(confusion: list[list[int]], classes: list[str]) -> dict[str, Any]:
    per_class = {}
    for k, (name, row) in enumerate(zip(classes, confusion, strict=True)):
        of = proportion_interval(row[k], sum(row))
        answers = sum(each[k] for each in confusion)
        per_class[name] = {
            "proportion": of.proportion,
            "low": of.low,
            "high": of.high,
            "n": of.n,
            "precision": row[k] / answers,
            "f1": 2 * row[k] / (sum(row) + answers),
        }
    return {"per_class": per_class, "confusion": confusion}


def _epoch(epoch: int, accuracy: float) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "train_loss": 1 / epoch,
        "test_loss": 1.1 / epoch,
        "seconds": 60.0,
        "test_accuracy": accuracy,
        "test_balanced_accuracy": 0.8,
        "test_macro_f1": 0.7425,
        "test_majority_share": 100 / 130,
        "test_only_answer": None,
        "test_top5": None,
    }


RESULT: dict[str, Any] = {
    "schema": "senet.train/1",
    "state": "done",
    "command": "senet train --data fruit/ --out runs/a",
    "versions": {"torch": "2.14.1"},
    "date": "2030-01-02T03:04:05+00:00",
    "placement": {"device": "cpu", "devices": 1},
    "config": {"model": "se_resnet20", "se": None, "train": {"epochs": 3, "lr": 0.05}},
    "data": {
        "name": "fruit/",
        "train_images": 900,
        "test_images": 130,
        "classes": CLASSES,
        "image_size": [3, 32, 32],
        "left_out": ["a.png: cut off"],
        "passed_over": ["one file"],
    },
    "epochs": [_epoch(1, 0.5), _epoch(2, 0.7), _epoch(3, 112 / 130)],
    "chosen_epoch": 3,
    "tested": _tested(CONFUSION, CLASSES),
    "stuck_gates": {"layer1.0.bn2.se": 0.497},
}
GATES = [
    {"epoch": str(e), "block": f"layer{b}.se", "mean": "0.5", "std": "0.2", "channel_std": "0.1"}
    for e in (1, 2, 3)
    for b in (1, 2)
]


@pytest.fixture(scope="module")
def page() -> str:
    return render_report(RESULT, folder="runs/a b", gates=GATES)


def test_the_page_says_what_was_trained_and_what_comes_next(page: str) -> None:
    for text in (
        "senet train: se_resnet20 on fruit/",
        "<h1>86.15 % test accuracy</h1>",
        "900 training images \u00b7 130 test images \u00b7 3 classes \u00b7 3\u00d732\u00d732 "
        "\u00b7 3 epochs \u00b7 3 min 0 s",
        "95 % interval 79.2 to 91.1",  # Wilson's of 112 of 130
        "Always the largest class",
        "76.92 %",
        "After epoch 3, the last that was tested",
        "The gates of layer1.0.bn2.se are nearly constant, at 0.497",
        "1 images cannot be read and are left out: a.png: cut off.",
        "One file.",
        f'scope="row">{html.escape(BAD, quote=False).replace(chr(34), "&#34;")}</th>',
        "quince taken for plums",
        "apple taken for plums",
        "senet eval &#39;runs/a b&#39; --data FOLDER",
        "senet see &#39;runs/a b&#39;",
        "senet train --data fruit/ --out runs/a --resume --set epochs=6",
        "senet compare --config &#39;runs/a b&#39;/config.yaml --model resnet20",
        "2.14.1",
    ):
        assert text in page
    assert page.count("<svg ") == 2 + 1 + 2
    assert "Unfinished" not in page
    assert "default-src 'none'" in page
    assert render_report(RESULT, folder="runs/a b", gates=GATES) == page


def test_an_unfinished_run_says_how_to_go_on() -> None:
    part = {**RESULT, "state": "stopped", "epochs": RESULT["epochs"][:2], "chosen_epoch": 2}
    page = render_report({**part, "tested": None})

    assert "Unfinished: 2 of 3 epochs are done." in page
    assert "senet train --data fruit/ --out runs/a --resume" in page
    assert "senet eval" not in page
    assert "Class by class" not in page
    nothing = render_report({**part, "epochs": [], "chosen_epoch": None})
    assert "Nothing is tested yet" in nothing


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"test_only_answer": BAD, "test_accuracy": 20 / 130}, "for every test image: it tells no"),
        ({"test_accuracy": 100 / 130}, "Always answering the largest class would be as good: 76.9"),
    ],
)
def test_an_accuracy_that_says_nothing_is_named(changes: dict[str, Any], warning: str) -> None:
    epochs = [*RESULT["epochs"][:2], {**RESULT["epochs"][2], **changes}]
    assert warning in render_report({**RESULT, "epochs": epochs})


def test_classes_over_seeds_and_many_classes() -> None:
    """Shares are means over the runs, matrices sums; of many classes the weakest are listed."""
    other = _tested([[80, 16, 4], [5, 14, 1], [0, 2, 8]], CLASSES)
    both = class_section({"plain": [RESULT["tested"], other], "SE": [other]}, CLASSES)

    assert both["columns"] == ["images", "plain", "SE"]
    assert dict(both["rows"])["apple"] == ["100", "85.00 %", "80.00 %"]
    assert both["matrices"][0].label == (
        "Answers by class, plain: 214 of 260 images are on the diagonal"
    )
    names = [f"class {k}" for k in range(60)]
    many = _tested([[10 if a != k else k + 1 for a in range(60)] for k in range(60)], names)
    section = class_section({"network": [many]}, names)
    assert (len(section["rows"]), section["of"], section["matrices"]) == (50, 60, [])
    assert section["rows"][0][0] == "class 0"
    assert class_section({"network": [{"per_class": None}]}, names) == {}


def test_a_browser_shows_the_page_at_any_width(tmp_path: Path, page: str) -> None:
    if chromium() is None:
        pytest.skip("needs Chromium or Chrome on the path, to open the page")
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    with Browser(tmp_path / "profile") as browser:
        for width, dark in ((1280, False), (400, True)):
            browser.open(file, width=width, dark=dark)
            assert browser.value("document.documentElement.scrollWidth") <= width
            colour = browser.value("getComputedStyle(document.body).backgroundColor")
            assert (colour == "rgb(15, 19, 24)") == dark
        cells = "[...document.querySelectorAll('[aria-labelledby=classes] tbody tr')]"
        tops = f"{cells}.map(r => new Set([...r.cells].slice(1).map(c => c.offsetTop)).size)"
        assert browser.value(f"JSON.stringify({tops})") == "[1,1,1]"  # a class, a line
        assert browser.errors == []
        assert {url.partition(":")[0] for url in browser.requests} == {"file"}
