"""ShuffleNet v1 against its paper."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from senet.errors import UnknownNameError
from senet.insertion import se_modules
from senet.models import ShuffleNet, create_model
from senet.models.nets.shufflenet import Shuffle, ShuffleUnit


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def by_hand(groups: int, widths: tuple[int, ...]) -> int:
    """Weights and batch norms of table 1, unit by unit."""
    total = 3 * 9 * 24 + 2 * 24
    before = 24
    for number, (width, units) in enumerate(zip(widths, (4, 8, 4), strict=True)):
        for unit in range(units):
            narrow, made = width // 4, width if unit else width - before
            first = 1 if number == 0 and unit == 0 else groups
            total += before * narrow // first + 9 * narrow + narrow * made // groups
            total += 2 * (narrow + narrow + made)
            before = width
    return total + before * 1000 + 1000


@pytest.mark.parametrize(
    ("groups", "widths"),
    [(1, (144, 288, 576)), (2, (200, 400, 800)), (3, (240, 480, 960)), (4, (272, 544, 1088)),
     (8, (384, 768, 1536))],
)  # fmt: skip
def test_parameters_and_shapes_of_table_1(groups: int, widths: tuple[int, ...]) -> None:
    with torch.device("meta"):
        model = ShuffleNet(groups=groups)
        maps = {}
        for name in ("conv1", "maxpool", "stage2", "stage3", "stage4"):
            model.get_submodule(name).register_forward_hook(
                lambda _, __, out, name=name: maps.update({name: tuple(out.shape[1:])})
            )
        model(torch.zeros(1, 3, 224, 224))

    assert parameters(model) == by_hand(groups, widths)
    assert list(maps.values()) == [
        (24, 112, 112),
        (24, 56, 56),
        (widths[0], 28, 28),
        (widths[1], 14, 14),
        (widths[2], 7, 7),
    ]


def test_the_paper_cuts_its_parameters_off() -> None:
    """Table 3 prints 1.8 M and 2.4 M."""
    with torch.device("meta"):
        plain, se = ShuffleNet(), create_model("se_shufflenet_v1_g3", se={"bias": False})

    assert parameters(plain) == 1_865_728
    assert parameters(se) == 1_865_728 + 610_416
    assert [n // 100_000 for n in (parameters(plain), parameters(se))] == [18, 24]


def test_each_group_reaches_every_group() -> None:
    """With 3 groups of 3 channels, each group is then one channel of every group before."""
    x = torch.arange(9.0).reshape(1, 9, 1, 1).expand(2, 9, 2, 3)

    out = Shuffle(3)(x)

    assert out[1, :, 1, 2].tolist() == [0, 3, 6, 1, 4, 7, 2, 5, 8]
    assert out.shape == x.shape


def test_unit_of_stride_one_adds_and_of_stride_two_concatenates() -> None:
    x = torch.randn(2, 24, 9, 9)
    down = ShuffleUnit(24, 60, stride=2, groups=3).eval()
    keep = ShuffleUnit(24, 24, stride=1, groups=3).eval()
    for unit in (down, keep):
        nn.init.zeros_(unit.bn3.weight)  # the branch is 0

    assert torch.allclose(keep(x), x.relu())
    pooled = nn.functional.avg_pool2d(x, 3, 2, padding=1)
    assert torch.allclose(down(x), torch.cat((pooled, torch.zeros(2, 36, 5, 5)), 1).relu())


def test_first_convolution_of_stage_2_alone_has_no_groups() -> None:
    model = ShuffleNet(groups=3)

    groups = {n: m.groups for n, m in model.named_modules() if n.endswith(".conv1")}

    assert groups.pop("stage2.0.conv1") == 1
    assert set(groups.values()) == {3}


def test_blocks_rescale_the_branches() -> None:
    model = create_model("se_shufflenet_v1_g3", num_classes=5, se={"reduction": 8})

    blocks = se_modules(model)

    assert len(blocks) == 16
    assert {path.rpartition(".bn3.se")[2] for path in blocks} == {""}
    assert blocks["stage2.0.bn3.se"].channels == 216
    assert blocks["stage2.1.bn3.se"].hidden == 30
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_other_groups_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown groups '5'; known are: 1, 2, 3, 4, 8"):
        ShuffleNet(groups=5)
