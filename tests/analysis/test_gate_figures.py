"""The figures of recorded gates: costs, classes, images, time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from analysis.test_gate_page import HISTORY, Net, _batches
from senet.analysis import gate_costs, record_gates
from senet.analysis.figures import (
    Drawing,
    block_costs,
    class_differences,
    excitation_depth,
    gates_over_time,
    image_itself,
    image_maps,
    image_strips,
    similarity_map,
)
from senet.analysis.gate_classes import class_contrast, class_similarity
from senet.analysis.image_gates import image_gates
from senet.errors import InputError

CLASSES = ["$a_b$", "cat", "dog", "ship"]


def test_each_figure_shows_its_numbers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, batches = Net(), _batches(4)
    gates = record_gates(net, batches, classes=CLASSES)
    known = gates.to_dict()

    measured, chance = excitation_depth(known, quantity="specificity").figure.axes[0].lines[:2]
    assert list(measured.get_ydata()) == [block["eta2"] for block in known["blocks"]]
    assert set(chance.get_ydata()) == {known["blocks"][0]["eta2_by_chance"]}
    share = excitation_depth(known, quantity="constancy").figure.axes[0].lines[0]
    assert list(share.get_ydata()) == [block["variance_share"][0] for block in known["blocks"]]

    costs = gate_costs(net, batches[:1], gates.means(), classes=CLASSES).to_dict()
    axis = block_costs(costs).figure.axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["se1", "se2", "all blocks"]
    held = axis.lines[1]
    values = [100 * each["accuracy"][0] for each in costs["constant"].values()]
    assert list(held.get_xdata()) == values

    similarity = class_similarity(gates)
    cells = similarity_map(similarity).figure.axes[0].images[0].get_array()
    order = similarity.order()
    assert cells[0, 1] == pytest.approx(similarity.cosine[order[0], order[1]].item())

    contrasts = class_contrast(gates, "cat", "dog", count=5)
    first, second = class_differences(contrasts, "cat", "dog").figure.axes[0].lines
    assert list(first.get_xdata()) == [each.first for each in contrasts]
    assert list(second.get_xdata()) == [each.second for each in contrasts]

    spread, _ = gates_over_time(HISTORY).figure.axes[0].lines
    assert list(spread.get_ydata()) == pytest.approx([0.03**0.5] * 2)  # of 0.2^2 - 0.1^2

    seen = image_gates(net, batches[0][0][0], gates, shown=torch.rand(9, 9, 1))
    strip = image_strips(seen).figure.axes[1].images[0].get_array()
    block = seen.blocks[1]
    expected = (block.gate - block.usual)[block.order]
    assert torch.allclose(torch.tensor(strip[0].tolist(), dtype=torch.float64), expected)
    maps = image_maps(block)
    assert len(maps.figure.axes) == 6
    for drawing in (maps, image_itself(seen)):
        text = drawing.save(tmp_path / f"{drawing.name}.svg").read_text()
        assert "data:image/png;base64," in text
        assert isinstance(drawing, Drawing)


def test_what_has_nothing_to_draw_is_refused() -> None:
    with pytest.raises(InputError, match="hold no block"):
        block_costs({"constant": {}})
    with pytest.raises(InputError, match=r"rows of gates\.csv"):
        gates_over_time([])
    with pytest.raises(InputError, match="at least one channel"):
        class_differences([], "a", "b")
    seen = image_gates(Net(), torch.randn(3, 9, 9), record_gates(Net(), _batches(4, 1)))
    with pytest.raises(InputError, match="must be kept with its gates, got the gates alone"):
        image_itself(seen)
