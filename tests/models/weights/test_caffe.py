"""The authors' Caffe models: the same outputs as the layers computed one by one."""

from __future__ import annotations

import json
from pathlib import Path

import caffe_net
import pytest
import torch
from caffe_net import DEPTHS, Layer
from torch import Tensor, nn

import senet
from senet.errors import DataError
from senet.models import BNInception, CifarResNet, ResNet
from senet.models.weights.caffe import CaffeLayer, read_layers
from senet.models.weights.caffe_names import state_of
from senet.models.weights.load import load_weights
from senet.models.weights.matching import match
from senet.models.weights.preprocess import preprocessing
from senet.models.weights.source import Source

ORDER = json.loads((Path(__file__).parent / "caffe_class_order.json").read_text())
WNIDS = " ".join(ORDER["wnid"]).split()
SE = {"reduction": 16}
SENET = {"groups": 64, "width_per_group": 4, "stem": "3x3", "thin": 2, "projection": 3}
SHORT = (1, 2, 1, 1)


def images(size: int = 64) -> Tensor:
    """Two images, RGB in 0..255."""
    return torch.randint(256, (2, 3, size, size)).double()


def caffe_input(rgb: Tensor) -> Tensor:
    return rgb.flip(1) - torch.tensor([104.0, 117.0, 123.0]).reshape(1, 3, 1, 1)


def our_outputs(model: nn.Module, rgb: Tensor) -> Tensor:
    """Logits with the preprocessing that came with the weights, but for resizing and cropping."""
    wanted = preprocessing(model)
    mean, std = (
        torch.tensor(values, dtype=torch.float64).reshape(1, 3, 1, 1)
        for values in (wanted.mean, wanted.std)
    )
    with torch.no_grad():
        return model.double().eval()((rgb / 255 - mean) / std)  # type: ignore[no-any-return]


def in_sorted_order(logits: Tensor) -> Tensor:
    """Caffe's logits in the order of the sorted WordNet identifiers."""
    position = {wnid: i for i, wnid in enumerate(WNIDS)}
    return logits[:, [position[wnid] for wnid in sorted(WNIDS)]]


def whole_resnet50() -> tuple[nn.Module, caffe_net.Net]:
    return senet.create_model("se_resnet50"), caffe_net.residual(DEPTHS["50"])


def short_resnext() -> tuple[nn.Module, caffe_net.Net]:
    model = ResNet(depths=SHORT, groups=32, width_per_group=4, se=SE)
    return model, caffe_net.residual(SHORT, kind="resnext")


def short_senet() -> tuple[nn.Module, caffe_net.Net]:
    model = ResNet(depths=(1, 1, 1, 1), se=SE, **SENET)  # type: ignore[arg-type]
    return model, caffe_net.residual((1, 1, 1, 1), kind="senet")


def whole_inception() -> tuple[nn.Module, caffe_net.Net]:
    return BNInception(se=SE), caffe_net.inception()


@pytest.mark.parametrize(
    "built", [whole_resnet50, short_resnext, short_senet, whole_inception], ids=lambda f: f.__name__
)
def test_outputs_equal_the_layers_run_one_by_one(built, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model, caffe = built()
    rgb = images()
    expected = in_sorted_order(caffe_net.run(caffe, caffe_input(rgb)))
    path = caffe_net.write(caffe, tmp_path / "net.caffemodel")

    report = load_weights(model, path)

    torch.testing.assert_close(our_outputs(model, rgb), expected, rtol=1e-8, atol=1e-8)
    assert expected.std() > 0.1  # the comparison is not of zeros
    assert report.layout == "authors"
    assert report.identity == report.kept == report.ignored == ()


def test_a_factor_that_is_no_power_of_two(tmp_path: Path) -> None:
    """Caffe's own factor is near 1000, and the division rounds in float32 (relative 6e-8)."""
    caffe, rgb = caffe_net.residual((1, 1, 1, 1), classes=10, factor=999.982), images(32)
    path = caffe_net.write(caffe, tmp_path / "net.caffemodel")
    model = ResNet(depths=(1, 1, 1, 1), stride_first=True, se=SE, num_classes=10)
    load_weights(model, path)

    expected = caffe_net.run(caffe, caffe_input(rgb))  # 10 classes: not permuted
    torch.testing.assert_close(our_outputs(model, rgb), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("generation", ["legacy", "v1", "double"])
def test_generations_of_the_format_hold_the_same(generation: str, tmp_path: Path) -> None:
    caffe = caffe_net.residual((1, 1, 1, 1), classes=10)
    states = []
    for kind in ("shape", generation):
        path = caffe_net.write(caffe, tmp_path / f"{kind}.caffemodel", generation=kind)
        states.append(state_of(read_layers(path), "net")[0])

    assert list(states[0]) == list(states[1])
    with torch.device("meta"):
        model = ResNet(depths=(1, 1, 1, 1), se=SE, num_classes=10)
    for state in states:
        match(model, Source("net", state))  # both fit
    for name, tensor in states[0].items():
        assert torch.equal(tensor.flatten(), states[1][name].flatten()), name


@pytest.mark.parametrize(
    ("name", "depths", "kind"),
    [
        ("se_resnet50", "50", "resnet"),
        ("se_resnet101", "101", "resnet"),
        ("se_resnet152", "152", "resnet"),
        ("se_resnext50_32x4d", "50", "resnext"),
        ("se_resnext101_32x4d", "101", "resnext"),
        ("senet154", "152", "senet"),
        ("se_bn_inception", "", ""),
    ],
)
def test_every_tensor_of_the_seven_networks_has_its_place(
    name: str, depths: str, kind: str
) -> None:
    caffe = (
        caffe_net.residual(DEPTHS[depths], kind=kind, empty=True)
        if kind
        else caffe_net.inception(empty=True)
    )
    layers = [CaffeLayer(each.name, each.kind, tuple(each.blobs), None) for each in caffe.layers]
    state, _ = state_of([layer for layer in layers if layer.blobs], "net")
    with torch.device("meta"):
        model = senet.create_model(name)

    matched = match(model, Source("net", state, "caffe"))

    counters = {key for key in model.state_dict() if key.endswith("num_batches_tracked")}
    assert set(matched.tensors) == set(model.state_dict()) - counters
    assert matched.absent_se == matched.ignored == []


def test_classes_and_channels() -> None:
    first, last = torch.rand(8, 3, 7, 7), torch.arange(1000.0)
    state, origin = state_of(
        [
            CaffeLayer("conv1/7x7_s2", "Convolution", (first,), None),
            CaffeLayer("classifier", "InnerProduct", (last[:, None], last), None),
        ],
        "net",
    )

    assert torch.equal(state["conv1.weight"], first[:, [2, 1, 0]])
    # The first five validation images: their labels elsewhere, and in the authors' list.
    assert state["fc.bias"][[65, 970, 230, 809, 516]].tolist() == [489, 360, 170, 821, 296]
    assert sorted(WNIDS) == [WNIDS[int(i)] for i in state["fc.weight"][:, 0]]
    assert origin["fc.bias"] == "layer 'classifier'"


def batch_norm(*, factor: float = 1.0, eps: float | None = None, count: int = 3) -> CaffeLayer:
    blobs = (torch.full((4,), 6.0), torch.full((4,), 8.0), torch.tensor([factor]))
    return CaffeLayer("conv1/7x7_s2/bn", "BatchNorm", blobs[:count], eps)


@pytest.mark.parametrize(("factor", "mean", "variance"), [(2.0, 3.0, 4.0), (0.0, 0.0, 0.0)])
def test_factor_of_the_statistics(factor: float, mean: float, variance: float) -> None:
    state, _ = state_of([batch_norm(factor=factor)], "net")

    assert state["bn1.running_mean"].tolist() == [mean] * 4
    assert state["bn1.running_var"].tolist() == [variance] * 4


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([batch_norm(eps=1e-3)], r"layer 'conv1/7x7_s2/bn' must have epsilon 1e-05 .* has 0\.001"),
        ([batch_norm(count=2)], r"'conv1/7x7_s2/bn' must have means, .* has 2 blobs"),
        ([batch_norm(), batch_norm()], r"each layer once, and has 'conv1/7x7_s2/bn' twice"),
        (
            [CaffeLayer("conv1/7x7_s2/bn/scale", "Scale", (torch.ones(4),), None)],
            "must have gamma and beta, has 1 blobs",
        ),
        (
            [CaffeLayer("conv1_1", "Convolution", (torch.ones(4, 3, 3, 3),), None)],
            "has a layer 'conv1_1', which none of them has",
        ),
        (
            [CaffeLayer("conv2_1_1x1_down/bn", "BatchNorm", (torch.ones(4),) * 3, None)],
            "'conv2_1_1x1_down/bn', which none of them has",
        ),
    ],
)
def test_layers_that_cannot_be(layers: list[CaffeLayer], message: str) -> None:
    with pytest.raises(DataError, match=message):
        state_of(layers, "net")


def test_epsilon_is_read(tmp_path: Path) -> None:
    layer = Layer("conv1/7x7_s2/bn", "BatchNorm", ("x",), "x", {"eps": 1e-3}, [torch.ones(4)] * 3)
    path = tmp_path / "net.caffemodel"
    path.write_bytes(caffe_net.encoded(layer))

    (read,) = read_layers(path)

    assert read.eps == pytest.approx(1e-3)
    assert read.kind == "BatchNorm"


# ---- files that are cut off or broken


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    net = caffe_net.Net()
    net.classifier(net.norm(net.conv("conv1/7x7_s2", "data", 8, 7, stride=2)), 10)
    path = caffe_net.write(net, tmp_path_factory.mktemp("small") / "net.caffemodel")
    return path.read_bytes()


@pytest.mark.parametrize("share", [0.0005, 0.01, 0.3, 0.9, 0.9999])
def test_a_cut_off_file_is_named_as_such(small: bytes, share: float, tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(small[: max(1, int(share * len(small)))])
    model = CifarResNet(depth=8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    with pytest.raises(DataError, match=r"must be a whole \.caffemodel, but .*cut off.*again"):
        load_weights(model, path)

    after = model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_a_file_cut_off_between_layers(tmp_path: Path) -> None:
    net = caffe_net.residual((1, 1, 1, 1), classes=10)
    net.layers = [layer for layer in net.layers if not layer.name.startswith("conv5")]
    path = caffe_net.write(net, tmp_path / "net.caffemodel")
    model = ResNet(depths=(1, 1, 1, 1), stride_first=True, se=SE, num_classes=10)

    with pytest.raises(
        DataError, match=r"layer4\.0\.conv1\.weight \[512, 1024, 1, 1\] is missing.*cut off"
    ):
        load_weights(model, path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x0a\x02SE", "it has no layers"),
        (b"\x0a\x02SE\xa3\x06", "is no field of a network"),
        (b"\x0a\x02SE\xfa\xff\xff\xff\x7f\x00", "is no field of a network"),
        (b"\x0a" + b"\xff" * 11, "is no number"),
        (b"\xa2\x06\x02\x0a\x7f", "the layer at byte 3 cannot be decoded"),
    ],
)
def test_broken_bytes(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"must be a whole .caffemodel, but .*{message}"):
        list(read_layers(path))


@pytest.mark.parametrize("shape", [[5], [0, 4], [2**40, 2**40]])
def test_numbers_that_do_not_fill_their_shape(shape: list[int], tmp_path: Path) -> None:
    dims = caffe_net.block(1, b"".join(map(caffe_net.varint, shape)))
    blob = caffe_net.block(7, dims) + caffe_net.block(5, bytes(16))
    layer = caffe_net.text(1, "conv1/7x7_s2") + caffe_net.block(7, blob)
    path = tmp_path / "net.caffemodel"
    path.write_bytes(caffe_net.block(100, layer))

    with pytest.raises(DataError, match=r"blob 0 of layer 'conv1/7x7_s2' has the shape .* and 4 n"):
        list(read_layers(path))
