"""The figures show what is in the result, the same each time, and touch nothing global."""

from __future__ import annotations

import copy
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

from senet.analysis.figures import (
    Drawing,
    cost_bars,
    excitation_depth,
    excitation_heat_map,
    excitation_profiles,
    learning_curves,
    paired_accuracy,
)
from senet.errors import InputError, UnknownNameError

FEW = [("layer1.0.se", 1, 3), ("layer1.1.se", 1, 60), ("layer2.0.se", 2, 4)]


@pytest.fixture(scope="module")
def result(make_result: Any) -> dict[str, Any]:
    made: dict[str, Any] = make_result(epochs=4, classes=["cat", "dog"], blocks=FEW)
    return made


def _all(result: dict[str, Any]) -> list[Drawing]:
    excitations = result["excitations"]
    return [
        learning_curves(result["runs"]),
        paired_accuracy(result["runs"]),
        excitation_profiles(excitations),
        *(excitation_heat_map(excitations, quantity=name) for name in ("mean", "distance")),
        *(excitation_depth(excitations, quantity=name) for name in ("mean", "spread")),
        cost_bars({"parameters": 1.01, "step time": 1.25}),
    ]


@pytest.fixture(scope="module")
def drawings(result: dict[str, Any]) -> list[Drawing]:
    return _all(result)


@pytest.fixture(scope="module")
def texts(drawings: list[Drawing]) -> list[str]:
    return [drawing.svg() for drawing in drawings]


def _texts(drawing: Drawing) -> list[str]:
    root = ET.fromstring(drawing.svg())
    return ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]


def _lines(drawing: Drawing, axis: int = 0) -> list[Any]:
    return list(drawing.figure.axes[axis].lines)


def test_svg_is_one_element_without_date_style_or_image(
    drawings: list[Drawing], texts: list[str]
) -> None:
    for drawing, svg in zip(drawings, texts, strict=True):
        root = ET.fromstring(svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.get("aria-label") == drawing.label
        assert not re.search(r"<style|<metadata|<image|<!--|<\?|<!DOCTYPE", svg)
        assert not re.search(r'(?:href|src)="(?!#)', svg)


def test_ids_are_prefixed_and_every_reference_has_one(
    drawings: list[Drawing], texts: list[str]
) -> None:
    for drawing, svg in zip(drawings, texts, strict=True):
        ids = re.findall(r' id="([^"]*)"', svg)
        used = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
        assert all(name.startswith(f"{drawing.name}-") for name in ids)
        assert used == set(ids)
        assert len(ids) == len(set(ids))


def test_same_input_same_text_and_the_settings_of_matplotlib_stay(
    result: dict[str, Any], texts: list[str]
) -> None:
    before = dict(mpl.rcParams)
    same = copy.deepcopy(result)
    again = [learning_curves(same["runs"]), excitation_profiles(same["excitations"])]

    assert [drawing.svg() for drawing in again] == [texts[0], texts[2]]
    assert dict(mpl.rcParams) == before


def test_writing_twice_gives_the_same(drawings: list[Drawing], texts: list[str]) -> None:
    assert drawings[0].svg() == texts[0]
    assert drawings[3].svg() == texts[3]


def test_pyplot_is_never_imported(root: Path) -> None:
    for path in (root / "src" / "senet" / "analysis").rglob("*.py"):
        assert not re.search(r"import.*pyplot|pylab", path.read_text())


def test_curves_are_thin_for_seeds_and_thick_for_their_mean(result: dict[str, Any]) -> None:
    lines = _lines(learning_curves(result["runs"], quantities=["test_accuracy"]))

    assert len(lines) == 2 * (3 + 1)
    values = [line.get_ydata() for line in lines[:4]]
    assert values[3] == pytest.approx([sum(column) / 3 for column in zip(*values[:3], strict=True)])


def test_unfinished_run_is_shown_but_not_in_the_mean(make_result: Any) -> None:
    runs = make_result(finished=5, epochs=6)["runs"]  # the last SE run has 2 of 6 epochs
    lines = _lines(learning_curves(runs, quantities=["train_loss"]))

    assert [len(line.get_xdata()) for line in lines] == [6, 6, 6, 6, 6, 6, 2, 6]


def test_epochs_that_were_not_tested_are_left_out() -> None:
    epochs = [{"epoch": k, "test_accuracy": 0.1 * k if k % 2 else None} for k in (1, 2, 3)]
    lines = _lines(
        learning_curves([{"arch": "se", "epochs": epochs}], quantities=["test_accuracy"])
    )

    assert list(lines[0].get_xdata()) == [1, 3]


def test_pairs_are_those_of_the_seeds(make_result: Any) -> None:
    runs = make_result(finished=5, epochs=3)["runs"]  # seed 2 has no finished SE run
    drawing = paired_accuracy(runs[::-1])

    assert drawing.label == "Test accuracy of plain and SE on 2 seeds, in pairs"
    by_run = {(run["arch"], run["seed"]): run["test_accuracy"] for run in runs}
    slopes = [list(line.get_ydata()) for line in _lines(drawing)[:2]]
    assert slopes == [[by_run["plain", k], by_run["se", k]] for k in (0, 1)]


def test_small_differences_are_not_magnified() -> None:
    runs = [{"arch": a, "seed": 0, "test_accuracy": v} for a, v in (("plain", 0.9), ("se", 0.9001))]
    low, high = paired_accuracy(runs).figure.axes[0].get_ylim()

    assert high - low == pytest.approx(0.01)


def test_profiles_have_a_line_per_class_and_the_mean_and_one_scale(result: dict[str, Any]) -> None:
    drawing = excitation_profiles(result["excitations"])
    axes = drawing.figure.axes

    assert [axis.get_title(loc="left") for axis in axes] == ["layer1.0", "layer1.1", "layer2.0"]
    assert [len(axis.lines) for axis in axes] == [3, 3, 3]
    assert len({axis.get_ylim() for axis in axes}) == 1
    assert [len(axis.lines[-1].get_ydata()) for axis in axes] == [3, 50, 4]
    mean = list(axes[1].lines[-1].get_ydata())
    assert mean == sorted(mean)
    assert {"cat", "dog", "all images", "50 of 60 channels, by mean gate"} <= set(_texts(drawing))


def test_profiles_of_chosen_blocks(result: dict[str, Any]) -> None:
    drawing = excitation_profiles(result["excitations"], paths=["layer2.0.se"], legend=False)

    assert [axis.get_title(loc="left") for axis in drawing.figure.axes] == ["layer2.0"]
    assert not drawing.figure.legends
    with pytest.raises(UnknownNameError, match=r"unknown block 'layer2\.1\.se'"):
        excitation_profiles(result["excitations"], paths=["layer2.1.se"])


def test_many_blocks_and_classes_are_thinned(make_result: Any) -> None:
    blocks = [(f"features.{k}.se", 1, 2) for k in range(40)]
    many = make_result(seeds=1, epochs=1, classes=[f"c{k}" for k in range(30)], blocks=blocks)
    excitations = many["excitations"]

    drawing = excitation_profiles(excitations)
    assert len(drawing.figure.axes) == 12
    assert len(drawing.figure.axes[0].lines) == 10 + 1
    heat = excitation_heat_map(excitations).figure.axes[0]
    assert [t.get_text() for t in heat.get_yticklabels()][::19] == ["c0", "c29"]
    assert len(heat.get_xticks()) == 20


def test_heat_map_values_by_hand() -> None:
    block = {"path": "se", "mean": [[0.5, 1.0], [1.0, 1.0], None], "channel_mean": [0.75, 1.0]}
    excitations = {"classes": ["cat", "dog", "none"], "blocks": [block]}

    def cells(quantity: str) -> list[Any]:
        figure = excitation_heat_map(excitations, quantity=quantity).figure
        return list(figure.axes[0].collections[0].get_array().flatten())

    assert cells("mean")[:2] == pytest.approx([0.75, 1.0])
    assert cells("distance")[:2] == pytest.approx([0.25 / 2**0.5] * 2)


def test_depth_shows_the_spread(result: dict[str, Any]) -> None:
    between, within = _lines(excitation_depth(result["excitations"]))
    blocks = result["excitations"]["blocks"]

    assert list(between.get_ydata()) == [block["between_class_std"] for block in blocks]
    assert list(within.get_ydata()) == [block["within_class_std"] for block in blocks]


def test_cost_bars_say_what_is_added() -> None:
    drawing = cost_bars({"parameters": 1.0991, "macs": 1.0006, "time": 0.9})

    assert {"+9.9 %", "+0.060 %", "\u221210.0 %"} <= set(_texts(drawing))
    (axis,) = drawing.figure.axes
    assert [text.xy[0] for text in axis.texts] == pytest.approx([0.0991, 0.0006, 0.0])


@pytest.mark.parametrize("name", ["$x_1^", "</text><script>", "a\nb", "日本語", 'a%"' + "a" * 50])
def test_any_class_name_can_be_drawn(make_result: Any, name: str) -> None:
    odd = make_result(seeds=1, epochs=1, classes=[name, "b"], blocks=FEW[:1])["excitations"]
    for drawing in (excitation_profiles(odd), excitation_heat_map(odd)):
        shown = [text for text in _texts(drawing) if text[:1] == name[:1]]
        assert shown
        assert "<script>" not in drawing.svg()


def test_save_writes_svg_and_png(tmp_path: Path) -> None:
    drawing = cost_bars({"parameters": 1.1})

    assert drawing.save(tmp_path / "cost.svg").read_text().startswith("<svg ")
    first = drawing.save(tmp_path / "cost.png", dpi=50).read_bytes()
    assert first.startswith(b"\x89PNG")
    assert first == drawing.save(tmp_path / "again.png", dpi=50).read_bytes()
    with pytest.raises(InputError, match=r"as \.svg or \.png, got 'cost\.gif'"):
        drawing.save(tmp_path / "cost.gif")


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(InputError, match="no run has a value of 'test_accuracy'"):
        learning_curves([])
    with pytest.raises(InputError, match="no seed has a finished run of both"):
        paired_accuracy([{"arch": "plain", "seed": 0, "test_accuracy": 0.9}])
    for draw in (excitation_profiles, excitation_heat_map, excitation_depth):
        with pytest.raises(InputError, match="hold no block"):
            draw({"classes": ["a"], "blocks": []})
    with pytest.raises(InputError, match="at least one ratio"):
        cost_bars({})


def test_unknown_quantities_are_refused(result: dict[str, Any]) -> None:
    with pytest.raises(UnknownNameError, match="did you mean: test_loss"):
        learning_curves(result["runs"], quantities=["test_los"])
    with pytest.raises(UnknownNameError, match="unknown quantity 'means'; did you mean: mean"):
        excitation_heat_map(result["excitations"], quantity="means")
    with pytest.raises(UnknownNameError, match="unknown quantity 'spreed'; did you mean: spread"):
        excitation_depth(result["excitations"], quantity="spreed")
