"""What a batch's padding does to the gates of an image: with the mask, nothing."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import Tensor, nn

import senet
from senet.detection import faster_rcnn, mask_padding_in
from senet.errors import InputError
from senet.padding import Padding, current_padding

SMALL = {"min_size": 64, "max_size": 192, "out_channels": 16, "box_width": 32}


def gates(model: nn.Module, *args: object) -> dict[str, Tensor]:
    """Run a model and return the gates of its first image, by block."""
    recorded: dict[str, Tensor] = {}
    handles = [
        block.gate.register_forward_hook(
            lambda _, __, s, n=name: recorded.update({n: s[:1].clone()})
        )
        for name, block in senet.se_modules(model).items()
    ]
    model(*args)
    for handle in handles:
        handle.remove()
    return recorded


@pytest.fixture(scope="module")
def image() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.rand(3, 64, 64), torch.rand(3, 64, 160)


@pytest.mark.parametrize("backend", ["reference", "eager"])
def test_detector(image: tuple[Tensor, Tensor], backend: str) -> None:
    """Blocks see 1x1 convolutions only, so that nothing else leaks over the border."""
    alone, wide = image
    layers = [nn.Conv2d(3, 16, 4, 4), nn.BatchNorm2d(16), nn.ReLU(),
              nn.Conv2d(16, 32, 2, 2, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
              nn.Conv2d(32, 32, 2, 2, bias=False), nn.BatchNorm2d(32), nn.ReLU()]  # fmt: skip
    network = nn.Sequential(*layers)
    senet.insert(network, torch.zeros(1, 3, 64, 64))
    for block in senet.se_modules(network).values():
        nn.init.normal_(block.fc2.weight)
    masked = faster_rcnn(network, 3, neck="fpn", trainable_stages=0, **SMALL).eval()
    plain = mask_padding_in(copy.deepcopy(masked), enabled=False)
    with senet.use_backend(backend), torch.no_grad():
        truth = gates(plain, [alone])
        spoiled = gates(plain, [alone, wide])
        recorded = gates(masked, [alone, wide])
    for name, gate in truth.items():
        assert torch.allclose(recorded[name], gate, atol=1e-5)
    assert any(not torch.allclose(spoiled[n], gate, atol=1e-2) for n, gate in truth.items())
    assert current_padding() is None


def test_a_detector_of_torchvision(image: tuple[Tensor, Tensor]) -> None:
    """A whole detector with inserted blocks: the gates differ less with the mask."""
    detector = faster_rcnn("se_resnet18", 3, mask_padding=False, **SMALL).eval()
    with senet.use_backend("reference"), torch.no_grad():
        truth = gates(detector, [image[0]])
        without = gates(detector, list(image))
        within = gates(mask_padding_in(mask_padding_in(detector)), list(image))

    def apart(recorded: dict[str, Tensor]) -> float:
        return sum(float((recorded[n] - gate).abs().mean()) for n, gate in truth.items())

    assert apart(within) < 0.6 * apart(without)
    assert len(detector.transform._forward_hooks) == 1


def test_a_detector_deploys_with_the_mask() -> None:
    """The form for engines squeezes over the own pixels as well."""
    detector = faster_rcnn("se_resnet18", 3, **SMALL).eval()
    for block in senet.se_modules(detector).values():
        nn.init.normal_(block.fc2.weight)
    images = [torch.rand(3, 64, 64), torch.rand(3, 48, 90)]
    with senet.use_backend("reference"), torch.no_grad():
        deployed = senet.deploy(detector, (images,))
        assert len(deployed.deployment.canonical) == 8
        for detected, expected in zip(deployed(images), detector(images), strict=True):
            assert torch.allclose(detected["boxes"], expected["boxes"], atol=1e-2)


@pytest.mark.parametrize("squeeze", ["avg", "max"])
def test_a_deployed_network_squeezes_own_pixels(squeeze: str) -> None:
    layers = [nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 1)]
    net = nn.Sequential(*layers, nn.BatchNorm2d(16), nn.ReLU()).eval()
    x, sizes = torch.rand(2, 3, 8, 8), [(8, 5), (8, 8)]
    senet.insert(net, x, senet.SEConfig(squeeze=squeeze))
    for block in senet.se_modules(net).values():
        nn.init.normal_(block.fc2.weight)
    deployed = senet.deploy(net, x)
    with senet.mask_padding(sizes, (8, 8)):
        assert torch.allclose(deployed(x), net(x), atol=1e-5)


def test_a_failure_leaves_no_padding_behind(image: tuple[Tensor, Tensor]) -> None:
    detector = faster_rcnn("se_resnet18", 3, **SMALL).eval()
    detector.backbone.body.layer2.register_forward_hook(lambda *_: 1 / 0)
    with senet.use_backend("reference"), pytest.raises(ZeroDivisionError):
        detector(list(image))
    assert current_padding() is None


def test_classifier_of_a_padded_batch() -> None:
    """A batch of images of different sizes through the whole network, as in segmentation."""
    net = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU())
    senet.insert(net, torch.zeros(1, 3, 8, 8))
    for block in senet.se_modules(net).values():
        nn.init.normal_(block.fc2.weight)
    image = torch.rand(1, 3, 20, 30)
    batch = torch.zeros(2, 3, 24, 32)
    batch[:1, :, :20, :30] = image
    batch[1] = torch.rand(3, 24, 32)
    sizes = torch.tensor([[20, 30], [24, 32]])

    with senet.mask_padding(sizes, batch.shape[2:]):
        inside = net(batch)[:1, :, :20, :30]

    assert torch.allclose(inside, net(image), atol=1e-6)
    assert not torch.allclose(net(batch)[:1, :, :20, :30], net(image), atol=1e-3)


def test_no_padding_changes_nothing() -> None:
    block, x = senet.SqueezeExcitation(16), torch.rand(2, 16, 8, 8)
    with senet.mask_padding([(8, 8), (8, 8)], (8, 8)):
        assert torch.equal(block(x), block(x))
        assert Padding([(8, 8), (8, 8)], (8, 8)).mask(x) is None


@pytest.mark.parametrize("squeeze", ["avg", "max"])
def test_every_squeeze(squeeze: str) -> None:
    block, x = senet.SqueezeExcitation(16, squeeze=squeeze), torch.rand(2, 16, 8, 8)
    x[0, :, :, 5:] = 9.0
    with senet.mask_padding([(8, 5), (8, 8)], (8, 8)):
        inside = block(x)[:1, :, :, :5]
    assert torch.allclose(inside, block(x[:1, :, :, :5]), atol=1e-6)


@pytest.mark.parametrize(
    ("size", "length", "counts"),
    [((50, 100), 25, [13, 25]), ((33, 64), 2, [2, 2]), ((1, 64), 4, [1, 4]), ((1, 64), 1, [1, 1])],
)
def test_positions_of_a_smaller_map(size: tuple[int, int], length: int, counts: list[int]) -> None:
    """A position that an image fills in part is its own."""
    padding = Padding([(n,) for n in size], (size[1],))
    mask = padding.mask(torch.zeros(2, 3, length))
    assert mask is not None
    assert mask.shape == (2, 1, length)
    assert mask.sum((1, 2)).tolist() == counts
    assert bool(mask[0, 0, 0])


def test_checkpointed_blocks_see_the_padding_again() -> None:
    torch.manual_seed(0)
    net = senet.create_model("se_resnet20", num_classes=2)
    x, sizes = torch.randn(2, 3, 32, 32), [(32, 20), (32, 32)]
    grads = []
    for checkpointed in (False, True):
        twin = copy.deepcopy(net)
        twin.set_grad_checkpointing(checkpointed)
        with senet.mask_padding(sizes, (32, 32)):
            y = twin(x)
        y.sum().backward()
        grads.append(twin.conv1.weight.grad)
    assert torch.equal(*grads)


def test_compiled() -> None:
    block, x = senet.SqueezeExcitation(16), torch.rand(2, 16, 8, 8)
    torch._dynamo.reset()
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(x), block(x))
    with senet.mask_padding([(8, 5), (8, 8)], (8, 8)):
        expected = block(x)
        assert torch.allclose(compiled(x), expected, atol=1e-6)
    assert torch.allclose(compiled(x), block(x), atol=1e-6)
    assert not torch.allclose(expected, block(x), atol=1e-3)


def test_another_thread_has_its_own_batch() -> None:
    seen: list[Padding | None] = []
    with senet.mask_padding([(1,), (2,)], (2,)):
        thread = threading.Thread(target=lambda: seen.append(current_padding()))
        thread.start()
        thread.join()
    assert seen == [None]


@pytest.mark.parametrize("size", [(9, 4), (0, 4), (4,)])
def test_sizes_that_do_not_fit(size: tuple[int, ...]) -> None:
    with (
        pytest.raises(InputError, match="must be within the canvas"),
        senet.mask_padding([size], (8, 8)),
    ):
        pass


def test_map_of_another_batch() -> None:
    block = senet.SqueezeExcitation(16)
    with senet.mask_padding([(8, 5)], (8, 8)), pytest.raises(InputError, match="sizes of 1 images"):
        block(torch.rand(2, 16, 8, 8))
