"""The paper's rounded columns, and the exact counts behind them; docs/paper.md explains both."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from models.counted import count, counted, on_meta
from senet.models import NETWORKS
from senet.models.families import Paper

PLAIN, STATISTICS = 25_557_032, 53_120  # ResNet-50: parameters, running means and variances
CHANNELS = {2: [256] * 3, 3: [512] * 4, 4: [1024] * 6, 5: [2048] * 3}  # of its SE blocks, by stage
MAPS = {2: 56, 3: 28, 4: 14, 5: 7}


PAGE = (Path(__file__).resolve().parents[2] / "docs" / "paper.md").read_text()


def blocks(r: int = 16, stages: tuple[int, ...] = (2, 3, 4, 5), *, bias: bool = False) -> int:
    """Count what SE blocks add: 2 C^2 / r, the paper's equation 5, and C + C / r biases."""
    channels = [c for stage in stages for c in CHANNELS[stage]]
    return sum(2 * c * c // r + (c + c // r if bias else 0) for c in channels)


def rounded(params: int) -> float:
    """Return millions with one digit, as the paper's tables, running statistics included."""
    return round((params + STATISTICS) / 1e6, 1)


# top-1 and top-5 error, GFLOPs
TABLE_2 = {
    "resnet50": (24.80, 7.48, 3.86),
    "resnet101": (23.17, 6.52, 7.58),
    "resnet152": (22.42, 6.34, 11.30),
    "resnext50_32x4d": (22.11, 5.90, 4.24),
    "resnext101_32x4d": (21.18, 5.57, 7.99),
    "bn_inception": (25.38, 7.89, 2.03),
    "se_resnet50": (23.29, 6.62, 3.87),
    "se_resnet101": (22.38, 6.07, 7.60),
    "se_resnet152": (21.57, 5.73, 11.32),
    "se_resnext50_32x4d": (21.10, 5.49, 4.25),
    "se_resnext101_32x4d": (20.70, 5.01, 8.00),
    "se_bn_inception": (24.23, 7.14, 2.04),
}


@pytest.mark.parametrize("name", TABLE_2)
def test_table_2(name: str) -> None:
    top1, top5, gflops = TABLE_2[name]

    assert NETWORKS[name].paper == Paper(2, top1, top5, gflops)
    # to the printed digits: SE-ResNet-152 has 11.289
    assert round(counted(name).macs / 1e9, 2) == pytest.approx(gflops, abs=0.0301)


def test_the_page_has_the_exact_counts() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| ([\d,]+) \|", PAGE, re.MULTILINE)
    counts = {name: (params, macs) for name, params, macs in rows}

    assert set(TABLE_2) | {"senet154", "senet154_plain"} <= set(counts)
    for name in TABLE_2:
        network = counted(name)
        assert counts[name] == (f"{network.params:,}", f"{network.macs:,}")


def test_a_variant_is_not_the_network_of_table_2() -> None:
    assert NETWORKS["se_resnet50_pre"].paper is None
    assert NETWORKS["senet154"].paper == Paper(8, 18.68, 4.47)


# Equation 5 leaves out biases, and the ablations had none; r = 8 rounds to 30.7 only with them.
@pytest.mark.parametrize(
    ("r", "printed", "bias"),
    [(2, 45.7, False), (4, 35.7, False), (8, 30.7, True), (16, 28.1, False), (32, 26.9, False)],
)
def test_table_10_reduction_ratio(r: int, printed: float, bias: bool) -> None:
    model = on_meta("se_resnet50", se={"reduction": r, "bias": bias})

    params = sum(parameter.numel() for parameter in model.parameters())

    assert params == PLAIN + blocks(r, bias=bias)
    assert rounded(params) == printed
    assert f"| r = {r} | {PLAIN + blocks(r):,} |" in PAGE


@pytest.mark.parametrize(
    ("stages", "gflops", "printed"),
    [((2,), 3.86, 25.6), ((3,), 3.86, 25.7), ((4,), 3.86, 26.4), ((2, 3, 4, 5), 3.87, 28.1)],
)
def test_table_13_stages(stages: tuple[int, ...], gflops: float, printed: float) -> None:
    model = on_meta("se_resnet50", se={"stages": stages, "bias": False})

    counts = count(model, (3, 224, 224))

    assert counts.params == PLAIN + blocks(stages=stages)
    assert rounded(counts.params) == printed
    assert counts.macs / 1e9 == pytest.approx(gflops, abs=0.03)
    assert f"| {counts.params:,} | {(counts.params + STATISTICS) / 1e6:.3f} |" in PAGE


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("se_resnet50", 2_514_944),
        ("se_resnet50_pre", 1_991_168),  # the first blocks of a stage see its input's channels
        ("se_resnet50_post", 2_514_944),
        ("se_resnet50_identity", 2_514_944),
        ("se_resnet50_3x3", 157_184),
        ("se_resnet50_nosqueeze", 2_514_944),
    ],
)
def test_tables_14_to_16_weights_of_the_blocks(name: str, weights: int) -> None:
    model = on_meta(name, se={"bias": False})

    assert sum(parameter.numel() for parameter in model.parameters()) == PLAIN + weights


def test_table_15_behind_the_3x3() -> None:
    counts = count(on_meta("se_resnet50_3x3", se={"bias": False}), (3, 224, 224))

    assert rounded(counts.params) == 25.8
    assert counts.macs == 3_857_973_248 + 157_184
    assert counts.macs / 1e9 == pytest.approx(3.86, abs=0.005)  # the printed digit
    widths = [layer.weight[1] for layer in counts.layers if layer.path.endswith("se.fc1")]
    assert widths == [64] * 3 + [128] * 4 + [256] * 6 + [512] * 3


def test_table_16_without_squeeze() -> None:
    counts = counted("se_resnet50_nosqueeze")

    positions = sum(MAPS[stage] ** 2 * 2 * c * c // 16 for stage in MAPS for c in CHANNELS[stage])
    assert counts.macs == 3_857_973_248 + positions
    assert counts.macs / 1e9 == pytest.approx(4.27, abs=0.005)
    assert rounded(counts.params) == 28.1


def test_mobilenet_has_its_blocks_behind_the_pointwise_convolutions() -> None:
    depthwise = [32, 64, 128, 128, 256, 256, *[512] * 6, 1024]
    pointwise = [*depthwise[1:], 1024]
    plain = 4_231_976

    millions = [(plain + sum(2 * c * c // 16 for c in w)) / 1e6 for w in (depthwise, pointwise)]

    assert [round(number, 1) for number in millions] == [4.6, 4.7]  # the paper has 4.7 M


def test_what_section_4_says_of_parameters() -> None:
    added = counted("se_resnet50").params - counted("resnet50").params

    assert added / PLAIN == pytest.approx(0.10, abs=0.005)  # "~10 %"
    assert blocks(stages=(2, 3, 4)) / PLAIN == pytest.approx(0.04, abs=0.005)  # "~4 %"


@pytest.mark.parametrize(
    ("name", "published", "exact"),
    [
        ("resnet110", 1.7, 1_727_962),
        ("preact_resnet164", 1.7, 1_703_258),
        ("wrn16_8", 11.0, 10_961_370),
        ("shake_shake26_2x96d", 26.2, 26_192_922),
    ],
)
def test_cifar_networks_have_the_published_size(name: str, published: float, exact: int) -> None:
    counts = counted(name)

    assert counts.params == exact
    assert round(exact / 1e6, 1) == published


def test_shake_even_29_is_two_halves_of_a_resnext_29() -> None:
    counts = counted("shake_even29_2x4x64d")

    # ResNeXt-29 8x64d, 34.4 M with 10 classes, has one last norm a unit, not two
    norms = 3 * 2 * (256 + 512 + 1024)
    assert counts.params == 34_529_700
    assert round((counts.params - norms - 90 * 1025) / 1e6, 1) == 34.4


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("se_resnet110", [1] * 18 + [2] * 18 + [4] * 18),
        ("se_preact_resnet164", [4] * 18 + [8] * 18 + [16] * 18),
        ("se_wrn16_8", [8, 8, 16, 16, 32, 32]),
        ("se_shake_shake26_2x96d", [6] * 4 + [12] * 4 + [24] * 4),
        ("se_shake_even29_2x4x64d", [16] * 3 + [32] * 3 + [64] * 3),
    ],
)
def test_hidden_widths_of_the_cifar_networks(name: str, hidden: list[int]) -> None:
    layers = [layer for layer in counted(name).layers if layer.path.endswith("se.fc1")]

    assert [layer.weight[0] for layer in layers] == hidden
