"""The networks that timm has and `senet.insert` gives their blocks: VGG, the Inceptions, ..."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.counted import on_meta
from senet.blocks import SqueezeExcitation
from senet.cost.op_counter import count_forward
from senet.insertion import find_sites, remove, se_modules
from senet.models import NETWORKS, create_model


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# Parameters of the plain networks: VGG, Inception-v3 (no auxiliary classifier) and DenseNet as
# torchvision documents them; MobileNet 4,231,976 as its authors' code counts; weights of the SE
# blocks by hand, sum of 2 C (C // 16).
@pytest.mark.parametrize(
    ("name", "plain", "channels"),
    [
        ("vgg16_bn", 138_365_992, [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6),
        ("inception_v3", 23_834_568, [256, 288, 288] + [768] * 5 + [1280, 2048, 2048]),
        (
            "inception_resnet_v2",
            55_843_464,
            [320] + [320] * 10 + [1088] + [1088] * 20 + [2080] + [2080] * 10,
        ),
        ("mobilenet_v1", 4_231_976, [64, 128, 128, 256, 256] + [512] * 6 + [1024] * 2),
        ("densenet121", 7_978_856, [256, 512, 1024, 1024]),
    ],
)
def test_parameters_and_blocks(name: str, plain: int, channels: list[int]) -> None:
    se = on_meta(f"se_{name}", se={"bias": False})

    blocks = list(se_modules(se).values())
    assert [block.channels for block in blocks] == channels
    assert [block.hidden for block in blocks] == [width // 16 for width in channels]
    added = sum(2 * width * (width // 16) for width in channels)
    assert parameters(se) == plain + added
    assert not any(block.centered for block in blocks)  # the paper's gate
    remove(se)
    assert parameters(se) == plain


def test_totals_of_the_paper() -> None:
    """Table 3: 4.7 M parameters. The sum for VGG-16 is 226,304 with a block behind each ReLU."""
    vgg, mobile = (
        on_meta(f"se_{name}", se={"bias": False}) for name in ("vgg16_bn", "mobilenet_v1")
    )

    assert parameters(vgg) == 138_365_992 + 226_304
    assert parameters(mobile) == 4_711_720


@pytest.mark.parametrize(
    ("name", "macs", "printed", "se"),
    [
        ("vgg16_bn", 15_470_264_320, 15.47e9, 226_304),
        ("mobilenet_v1", 568_740_352, 569e6, 479_744),
        ("shufflenet_v1_g3", 137_460_672, 140e6, 610_416),
    ],
)
def test_multiply_adds(name: str, macs: int, printed: float, se: int) -> None:
    x = torch.zeros(1, 3, 224, 224, device="meta")

    plain, with_se = (
        sum(count_forward(on_meta(each), x).macs.values()) for each in (name, f"se_{name}")
    )

    assert plain == macs
    assert plain == pytest.approx(printed, rel=0.02)
    assert with_se - plain == se


def test_blocks_of_vgg_stand_behind_the_activations() -> None:
    se = on_meta("se_vgg16_bn")

    carriers = [se.get_submodule(path.rpartition(".")[0]) for path in se_modules(se)]

    assert all(isinstance(module, nn.ReLU) for module in carriers)
    assert not [path for path in se_modules(se) if not path.startswith("features.")]


def test_blocks_of_mobilenet_stand_behind_the_pointwise_convolutions() -> None:
    se = on_meta("se_mobilenet_v1")

    assert {path.split(".")[3] for path in se_modules(se)} == {"bn2"}  # bn1 is the depthwise one's


def test_sites_are_those_of_the_whole_image() -> None:
    """The places are looked for on the meta device at full size: their stages are right."""
    with torch.device("meta"):
        plan = find_sites(create_model("inception_v3"), torch.zeros(1, 3, 299, 299))
        late = create_model("se_inception_v3", se={"stages": (5,)})

    assert [site.stage for site in plan] == [3] * 3 + [4] * 5 + [5] * 3
    assert list(se_modules(late)) == ["Mixed_7a.se", "Mixed_7b.se", "Mixed_7c.se"]


def test_blocks_have_values_and_work() -> None:
    model = create_model("se_mobilenet_v1", num_classes=7, in_chans=1, se={"reduction": 8})
    block = se_modules(model)["blocks.0.0.bn2.se"]
    seen: list[torch.Tensor] = []
    block.gate.register_forward_hook(lambda module, args, s: seen.append(s))

    logits = model(torch.randn(2, 1, 32, 32))
    logits.sum().backward()

    assert logits.shape == (2, 7)
    assert block.hidden == 8
    assert isinstance(block, SqueezeExcitation)
    assert (seen[0] - 0.5).abs().max() < 0.5  # sigmoids
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "rate", "places"), [("vgg16_bn", 0.5, 2), ("inception_v3", 0.2, 1)]
)
def test_dropout_is_that_of_the_networks_own_paper(name: str, rate: float, places: int) -> None:
    drops = [m.p for m in on_meta(f"se_{name}").modules() if isinstance(m, nn.Dropout)]

    assert drops == [rate] * places


def test_every_such_network_knows_its_image() -> None:
    sizes = {
        name: NETWORKS[name].family.input_size[1]
        for name in ("vgg16_bn", "mobilenet_v1", "inception_v3", "se_inception_resnet_v2")
    }

    assert list(sizes.values()) == [224, 224, 299, 299]
