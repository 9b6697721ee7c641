"""The interface of a classifier, with timm's names and meaning, on all networks of the project."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.counted import shared
from senet.errors import ConfigError
from senet.insertion import SEConfig, insert
from senet.models import (
    NETWORKS,
    BNInception,
    CifarResNet,
    Classifier,
    PreActResNet,
    ResNet,
    ShakeNet,
    create_model,
)
from senet.models.nets.classifier import ResidualBlock

SE = {"reduction": 8}
INTEGRATIONS = ("standard", "pre", "post", "identity", "inner")
KINDS = {
    "resnet": lambda **options: ResNet(depths=(1, 1, 1, 1), se=SE, **options),
    "inception": lambda **options: BNInception(se=SE, **options),
    "cifar": lambda **options: CifarResNet(depth=8, se=SE, **options),
    "preact": lambda **options: PreActResNet(depth=10, se=SE, **options),
    "shake": lambda **options: ShakeNet(depth=8, base=16, se=SE, **options),
}
# One of each kind, plain and with SE.
NAMES = [
    name
    for plain in (
        "resnet20",
        "preact_resnet164",
        "wrn16_8",
        "shake_shake26_2x96d",
        "shake_even29_2x4x64d",
        "resnet18",
        "resnet50",
        "resnext50_32x4d",
        "bn_inception",
    )
    for name in (plain, f"se_{plain}")
] + ["se_resnet50_post", "senet154"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("name", NAMES)
def test_features_and_head_of_every_network(name: str) -> None:
    model, family = shared(name), NETWORKS[name].family
    assert isinstance(model, Classifier)
    channels, height, width = family.input_size
    step = model.feature_info[-1]["reduction"]
    maps: dict[str, tuple[int, ...]] = {}
    handles = [
        model.get_submodule(info["module"]).register_forward_hook(
            lambda _, __, out, name=info["module"]: maps.update({name: tuple(out.shape)})
        )
        for info in model.feature_info
    ]
    x = torch.empty(2, channels, height + 32, width, device="meta")  # no 7x7 limit

    last = model.forward_features(x)
    for handle in handles:
        handle.remove()

    assert last.shape == (2, model.num_features, (height + 32) // step, width // step)
    assert model.forward_head(last).shape == (2, family.num_classes)
    assert model.forward_head(last, pre_logits=True).shape == (2, model.num_features)
    assert model.input_size == family.input_size
    for info in model.feature_info:
        scale = info["reduction"]
        size = (2, info["num_chs"], (height + 32) // scale, width // scale)
        assert maps[info["module"]] == size


def test_the_parts_make_the_whole(kind: str) -> None:
    model = KINDS[kind](num_classes=4, in_chans=2).eval()
    x = torch.randn(2, 2, 40, 48)

    with torch.no_grad():
        last = model.forward_features(x)
        pooled = model.forward_head(last, pre_logits=True)
        assert torch.equal(model(x), model.get_classifier()(pooled))
        assert torch.equal(model(x), model.forward_head(last))
        torch.testing.assert_close(pooled, last.mean((2, 3)))


def test_a_new_classifier(kind: str) -> None:
    model = KINDS[kind](num_classes=4).double()
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)

    model.reset_classifier(7)
    assert model(x).shape == (2, 7)
    assert model.num_classes == 7
    assert model.get_classifier().weight.dtype == torch.float64
    assert {
        k for k, v in model.state_dict().items() if k not in kept or v.shape != kept[k].shape
    } == {
        f"{model._last}.weight",
        f"{model._last}.bias",
    }
    model.reset_classifier(0)
    assert model(x).shape == (2, model.num_features)
    assert isinstance(model.get_classifier(), nn.Identity)
    model.reset_classifier(0, "")
    assert model(x).shape == model.forward_features(x).shape
    model.reset_classifier(3, "avg")
    assert model(x).shape == (2, 3)


def test_without_classes_the_features_come_out(kind: str) -> None:
    model = KINDS[kind](num_classes=0).eval()
    x = torch.randn(2, 3, 32, 32)

    with torch.no_grad():
        assert torch.equal(model(x), model.forward_features(x).mean((2, 3)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1,), "num_classes must be at least 0, got -1"),
        ((5, ""), "global_pool must be 'avg', or '' with num_classes=0, got ''"),
        ((5, "max"), "got 'max' with num_classes=5"),
    ],
)
def test_what_cannot_be_is_refused(arguments: tuple[int, ...], message: str) -> None:
    model = KINDS["cifar"](num_classes=4)
    before = model.get_classifier()

    with pytest.raises(ConfigError, match=message):
        model.reset_classifier(*arguments)

    assert model.get_classifier() is before
    assert (model.num_classes, model.global_pool) == (4, "avg")


def test_a_centred_block_stays_the_identity() -> None:
    # the first weights of the network must not be drawn over those of the blocks
    options = {"reduction": 8, "centered": True}
    for build in (
        lambda se: ResNet(block="basic", depths=(1, 1, 1, 1), se=se),
        lambda se: CifarResNet(depth=8, se=se),
        lambda se: PreActResNet(depth=10, se=se),
    ):
        model = build(options)
        last = [m for path, m in model.named_modules() if path.endswith(".se.fc2")]
        assert last
        assert not any(m.weight.any() for m in last)
        plain = build(None)
        plain.load_state_dict({k: v for k, v in model.state_dict().items() if ".se." not in k})
        x: Tensor = torch.randn(2, 3, 32, 32)
        assert torch.equal(model.eval()(x), plain.eval()(x))


@pytest.mark.parametrize("kind", ["resnet", "cifar", "preact"])
def test_stochastic_depth_leaves_out_whole_branches(kind: str) -> None:
    """Each image of a batch has the branch or not, and with it the mean of the two is the same."""
    net = KINDS[kind](num_classes=2)
    net.set_drop_path(0.5)
    blocks = [each for each in net.modules() if isinstance(each, ResidualBlock)]
    steps = max(1, len(blocks) - 1)
    assert [each.drop_path_rate for each in blocks] == [0.5 * k / steps for k in range(len(blocks))]
    branch = torch.rand(400, 2, 3, 3)

    left, kept = blocks[-1].train().drop_path(branch), blocks[-1].eval().drop_path(branch)

    assert kept is branch
    gone = (left == 0).flatten(1).all(1)
    assert torch.equal(left[~gone], 2 * branch[~gone])
    assert 150 < int(gone.sum()) < 250  # 5 standard deviations


@pytest.mark.parametrize("integration", INTEGRATIONS)
@pytest.mark.parametrize("name", ["resnet20", "timm/resnet18"])
def test_a_rate_of_nothing_changes_nothing(name: str, integration: str) -> None:
    """Where no branch is left out, training computes the same with inserted blocks at any place."""
    outputs = []
    for rate in (0.0, 1e-9):
        torch.manual_seed(0)
        net = create_model(name, num_classes=3, drop_path_rate=rate)
        insert(net, torch.zeros(1, 3, 32, 32), SEConfig(integration=integration, init="paper"))
        torch.manual_seed(1)
        outputs.append(net.train()(torch.rand(4, 3, 32, 32)))
    torch.testing.assert_close(*outputs)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bn_inception", "drop_path_rate needs residual blocks, and BNInception has none"),
        ("vgg16_bn", "vgg16_bn has no branch that drop_path_rate could leave out"),
        ("timm/vgg11", "timm/vgg11 has no branch"),
        ("torchvision/vgg11", "torchvision/vgg11 has no branch"),
        ("torchvision/mobilenet_v3_small", "torchvision/mobilenet_v3_small has no branch"),
    ],
)
def test_a_network_without_stochastic_depth_is_named(name: str, message: str) -> None:
    with torch.device("meta"), pytest.raises(ConfigError, match=message):
        create_model(name, drop_path_rate=0.1)


def test_stochastic_depth_by_the_libraries_own_options() -> None:
    from torchvision.ops import StochasticDepth

    with torch.device("meta"):
        net = create_model("torchvision/efficientnet_b0", drop_path_rate=0.4)
    rates = [each.p for each in net.modules() if isinstance(each, StochasticDepth)]
    assert rates == sorted(rates)
    assert 0.3 < rates[-1] < 0.4
    with pytest.raises(ConfigError, match=r"drop_path_rate must be in \[0, 1\), got 1.0"):
        create_model("resnet20", drop_path_rate=1.0)
