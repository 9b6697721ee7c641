"""Where SE blocks belong: the rules, on small networks whose answer is plain to see."""

from __future__ import annotations

import copy
from typing import Any

import families
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import senet
from senet.errors import InputError, InsertionError

IMAGE = torch.zeros(1, 3, 32, 32)


def paths(model: nn.Module, example: object = IMAGE, **options: object) -> list[str]:
    return [site.path for site in senet.find_sites(model, example, senet.SEConfig(**options))]  # type: ignore[arg-type]


class Residual(nn.Module):
    """Functional where it can be: no module marks the addition or the activation."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, stride=2, padding=1)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x
        return F.relu(y)


def test_a_residual_branch_is_found_where_it_meets_its_identity() -> None:
    plan = senet.find_sites(Residual(), IMAGE)
    (site,) = plan
    assert (site.path, site.where, site.kind, site.unit) == (
        "bn2",
        "output",
        "batch_norm",
        "residual",
    )
    assert (site.channels, site.hidden, site.size, site.stage) == (32, 2, (16, 16), 1)
    assert site.parameters == 32 * 2 + 2 + 2 * 32 + 32
    assert site.macs == 2 * 32 * 2


@pytest.mark.parametrize("options", [{}, {"squeeze": "constant"}, {"bias": False}])
def test_the_plan_counts_what_insertion_adds(options: dict[str, Any]) -> None:
    model, config = Residual(), senet.SEConfig(**options)
    before = sum(p.numel() for p in model.parameters())
    plan = senet.find_sites(model, IMAGE, config)
    senet.insert(model, IMAGE, config)
    assert sum(p.numel() for p in model.parameters()) - before == plan.parameters


def test_finding_reads_only() -> None:
    model = Residual().train()
    model.bn1.eval()
    before = copy.deepcopy(model.state_dict())
    flags = [m.training for m in model.modules()]
    state = torch.get_rng_state()
    senet.find_sites(model, IMAGE)
    assert [m.training for m in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not torch.nn.modules.module._global_forward_hooks
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 8, 1)
        self.three = nn.Conv2d(3, 24, 3, padding=1)
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.head = nn.Conv2d(35, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([F.relu(self.one(x)), F.relu(self.three(x)), self.pool(x)], 1)
        return self.head(x)  # type: ignore[no-any-return]


def test_a_concatenation_without_a_module_of_its_own_is_met_at_its_reader() -> None:
    (site,) = senet.find_sites(Branches(), IMAGE)
    assert (site.path, site.where, site.kind, site.channels) == (
        "head",
        "input",
        "concatenation",
        35,
    )


class Stack(nn.Module):
    """Convolutions with one activation module for all: it cannot carry blocks of several widths."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv2(self.act(self.conv1(x))))  # type: ignore[no-any-return]


def test_an_activation_of_several_widths_leaves_the_blocks_to_its_neighbours() -> None:
    model = Stack()
    plan = senet.find_sites(model, IMAGE)
    # behind the first activation the only reader is conv2; behind the second there is none
    assert [(site.path, site.where, site.channels) for site in plan] == [
        ("conv2", "input", 16),
        ("conv2", "output", 32),
    ]
    before = model(IMAGE)
    senet.insert(model, IMAGE)
    assert torch.equal(model(IMAGE), before)
    assert len(senet.remove(model)) == 2


class Recurrent(nn.Module):
    """One residual block, run three times."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.conv1, self.conv2 = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(3):
            x = x + self.conv2(F.relu(self.conv1(x)))
        return x


def test_a_shared_module_gets_one_block() -> None:
    model = Recurrent()
    assert paths(model) == ["conv2"]
    senet.insert(model, IMAGE)
    assert len(senet.se_modules(model)) == 1


class UNet(nn.Module):
    """Two levels; the skip connection is concatenated to what comes up from below."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.below = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.up, self.out = nn.ConvTranspose2d(32, 16, 2, 2), nn.Conv2d(32, 16, 3, padding=1)
        self.acts = nn.ModuleList(nn.ReLU() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        a = self.acts[0](self.down(x))
        b = self.acts[1](self.below(F.max_pool2d(a, 2)))
        return self.acts[2](self.out(torch.cat([self.up(b), a], 1)))  # type: ignore[no-any-return]


def test_a_u_net_is_a_stack_of_plain_convolutions() -> None:
    assert paths(UNet()) == ["acts.0", "acts.1", "acts.2"]


def test_one_and_three_spatial_dimensions() -> None:
    one = nn.Sequential(nn.Conv1d(4, 16, 3), nn.BatchNorm1d(16), nn.ReLU())
    assert paths(one, torch.zeros(2, 4, 20)) == ["2"]
    three = nn.Sequential(nn.Conv3d(1, 16, 3), nn.ReLU())
    (site,) = senet.find_sites(three, torch.zeros(1, 1, 8, 8, 8))
    assert site.size == (6, 6, 6)


@pytest.mark.parametrize(
    ("integration", "weights"),
    # the paper's ablation networks: SE, SE-PRE, SE-POST, SE-Identity, SE 3x3 on ResNet-50, r = 16,
    # no biases. Two layers of C * C/16 weights each: sum over blocks of C^2 / 8, C the block's
    # output (standard, post, identity), its input (pre), or the width of its 3x3 convolution
    # (inner)
    [
        ("standard", (3 * 256**2 + 4 * 512**2 + 6 * 1024**2 + 3 * 2048**2) // 8),
        ("post", (3 * 256**2 + 4 * 512**2 + 6 * 1024**2 + 3 * 2048**2) // 8),
        ("identity", (3 * 256**2 + 4 * 512**2 + 6 * 1024**2 + 3 * 2048**2) // 8),
        ("pre", (64**2 + 3 * 256**2 + 4 * 512**2 + 6 * 1024**2 + 2 * 2048**2) // 8),
        ("inner", (3 * 64**2 + 4 * 128**2 + 6 * 256**2 + 3 * 512**2) // 8),
        ("inner_act", (3 * 64**2 + 4 * 128**2 + 6 * 256**2 + 3 * 512**2) // 8),
    ],
)
def test_the_integrations_of_the_paper_on_resnet50(integration: str, weights: int) -> None:
    plan = senet.find_sites(
        families.build("torchvision/resnet50"),
        torch.zeros(1, 3, 64, 64),
        senet.SEConfig(integration=integration, bias=False),
    )
    assert len(plan) == 16
    assert plan.parameters == weights == plan.macs


def test_biases_and_stages_on_resnet50() -> None:
    model = families.build("torchvision/resnet50")
    example = torch.zeros(1, 3, 224, 224)
    plan = senet.find_sites(model, example)
    assert (plan.parameters, plan.macs) == (2_530_992, 2_514_944)
    counts = {stage: sum(site.stage == stage for site in plan) for stage in (2, 3, 4, 5)}
    assert counts == {2: 3, 3: 4, 4: 6, 5: 3}
    # table 13 of the paper: 25.6 M, 25.7 M, 26.4 M parameters with SE in stage 2, 3 or 4 alone
    for stage, added in ((2, 24_576), (3, 131_072), (4, 786_432)):
        only = senet.find_sites(model, example, senet.SEConfig(stages=(stage,), bias=False))
        assert only.parameters == added


def test_include_and_exclude() -> None:
    model = families.build("torchvision/resnet18")
    assert paths(model, include="layer4.*") == ["layer4.0.bn2", "layer4.1.bn2"]
    assert paths(model, include=["layer3.0*", "layer4.0*"]) == ["layer3.0.bn2", "layer4.0.bn2"]
    assert paths(model, include=lambda site: site.channels == 128) == [
        "layer2.0.bn2",
        "layer2.1.bn2",
    ]
    assert len(paths(model, exclude="layer4.*")) == 6


def test_a_network_that_has_se_is_recognised() -> None:
    model = families.build("timm/seresnet18")
    plan = senet.find_sites(model, torch.zeros(1, 3, 64, 64))
    assert len(plan) == 0
    assert len(plan.existing) == 8
    assert plan.existing[0] == "layer1.0.se"
    assert len(plan.skipped) == 8
    assert len(paths(model, torch.zeros(1, 3, 64, 64), existing="add")) == 8


def test_our_own_blocks_are_recognised_too() -> None:
    model = Residual()
    model.bn2 = senet.SEBatchNorm2d(32)
    plan = senet.find_sites(model, IMAGE)
    assert (len(plan), plan.existing) == (0, ("bn2.se",))


@pytest.mark.parametrize(
    "name", ["timm/ese_vovnet19b_dw", "timm/tinynet_e", "torchvision/regnet_y_400mf"]
)
def test_kinds_of_gates_are_recognised(name: str) -> None:
    assert paths(families.build(name), torch.zeros(1, 3, 64, 64)) == []


def test_the_plan_can_be_read() -> None:
    text = str(
        senet.find_sites(families.build("torchvision/resnet18"), torch.zeros(1, 3, 224, 224))
    )
    lines = text.splitlines()
    assert len(lines) == 8 + 3
    assert lines[1].split() == [
        "layer1.0.bn2",
        "batch_norm",
        "2",
        "56x56",
        "64",
        "->",
        "4",
        "580",
        "512",
    ]
    assert "looked at" in lines[-1]


def test_tokens_are_refused_with_the_reason() -> None:
    model = families.build("timm/test_vit")
    plan = senet.find_sites(model, torch.zeros(1, 3, 160, 160))
    assert len(plan) == 0
    with pytest.raises(
        senet.errors.NoSitesError, match=r"looked at .* join tokens, not feature maps"
    ):
        senet.insert(model, torch.zeros(1, 3, 160, 160))


def test_a_token_network_with_a_convolutional_stem_is_refused_too() -> None:
    plan = senet.find_sites(families.build("timm/xcit_nano_12_p8_224"), torch.zeros(1, 3, 224, 224))
    assert len(plan) == 0


def test_an_input_that_does_not_fit_is_one_clear_line() -> None:
    with pytest.raises(
        InputError, match=r"must run on the example input, but on \[1, 4, 32, 32\] it failed"
    ):
        senet.find_sites(Residual(), torch.zeros(1, 4, 32, 32))
    assert not torch.nn.modules.module._global_forward_hooks


def wrapped(kind: str) -> object:
    model = Residual()
    if kind == "compiled":
        return torch.compile(model)
    if kind == "compiled in place":
        model.compile()
        return model
    if kind == "traced":
        return torch.jit.trace(model.eval(), IMAGE)
    if kind == "data parallel":
        return nn.DataParallel(model)
    return "resnet18"


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("compiled", "before a model is compiled"),
        ("compiled in place", "before a model is compiled"),
        ("traced", "traced or scripted"),
        ("data parallel", "wrapped for parallel training"),
        ("a name", r"torch\.nn\.Module, got str"),
    ],
)
def test_a_wrapped_model_is_refused(kind: str, message: str) -> None:
    with pytest.raises(InsertionError, match=message):
        senet.insert(wrapped(kind), IMAGE)  # type: ignore[arg-type]


def test_arguments_by_position_and_by_name() -> None:
    class Two(Residual):
        def forward(self, x: Tensor, factor: Tensor) -> Tensor:
            return super().forward(x) * factor

    assert paths(Two(), (IMAGE, torch.ones(1))) == ["bn2"]
    assert paths(Two(), {"x": IMAGE, "factor": torch.ones(1)}) == ["bn2"]


def test_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = Residual()
    example = torch.zeros(1, 3, 32, 32, device="meta")
    assert paths(model, example) == ["bn2"]
    senet.insert(model, example)
    assert model.bn2.se.fc1.weight.is_meta  # type: ignore[union-attr]
