"""With torch and safetensors alone the project's networks work; the rest says what is missing."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from environments import Environment

OWN = """
import torch
import senet
from senet.models import NETWORKS, input_size

for name in NETWORKS:
    with torch.device("meta"):
        try:
            senet.create_model(name)
        except senet.errors.MissingPackageError as error:
            assert "which is timm's, needs the package timm" in str(error), error
            assert NETWORKS[name].plain in {
                "vgg16_bn", "inception_v3", "inception_resnet_v2", "mobilenet_v1", "densenet121"
            }
    assert input_size(name) == NETWORKS[name].family.input_size
assert senet.list_models() == [*NETWORKS]
assert senet.list_models("resnet1?") == ["resnet18"]

model = senet.create_model("se_resnet20").eval()
x = torch.ones(1, 3, 32, 32)
senet.save_pretrained(model, "own")
assert torch.equal(senet.from_pretrained("own")(x), model(x))
plain = senet.create_model("resnet20").eval()
senet.insert(plain, x)
senet.save_pretrained(plain, "own")
assert torch.equal(senet.from_pretrained("own")(x), plain(x))

torch.save({"state_dict": model.state_dict()}, "resnet20-0123abcd.pth")
try:
    senet.load_weights(model, "resnet20-0123abcd.pth")
except senet.errors.DataError as error:
    assert "sha256" in str(error)
torch.save({"state_dict": model.state_dict()}, "net.pth")
print(senet.load_weights(model, "net.pth").tensors)
print(senet.convert_weights("net.pth", "net.safetensors"))
"""

MISSING = """
import torch
import senet

model = senet.create_model("resnet20")
doors = [
    lambda: senet.create_model("timm/resnet18"),
    lambda: senet.create_model("torchvision/resnet18"),
    lambda: senet.create_model("resnet5o"),
    lambda: senet.models.input_size("mobilenetv3_small_050"),
    lambda: senet.create_model("vgg16_bn"),
    lambda: senet.list_models("timm/*"),
    lambda: senet.load_weights(model, "timm/resnet18"),
    lambda: senet.load_weights(model, "torchvision/resnet18"),
    lambda: senet.load_weights(model, "hf://owner/net"),
    lambda: senet.from_pretrained("owner/net"),
    lambda: senet.push_to_hub(model, "owner/net"),
    lambda: senet.register_with_timm(),
    lambda: senet.backbone("resnet20"),
    lambda: senet.models.weights.CAFFE.transform(),
]
for door in doors:
    try:
        door()
    except senet.errors.MissingPackageError as error:
        print(error)
    else:
        print("no error")
"""


def test_the_projects_own_networks_work(core: Environment, tmp_path: Path) -> None:
    done = core.run("-W", "error", "-c", OWN, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    with torch.device("meta"):
        import senet

        tensors = len(senet.create_model("se_resnet20").state_dict())
    assert done.stdout.split() == [str(tensors), "se_resnet20"]


def test_every_other_door_says_what_is_missing(core: Environment, tmp_path: Path) -> None:
    done = core.run("-W", "error", "-c", MISSING, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    timm, vision, hub = (
        f"needs the package {package}, which is not installed; install it with: pip install "
        f'"senet[{extra}]"'
        for package, extra in (
            ("timm", "timm"),
            ("torchvision", "timm"),
            ("huggingface_hub", "hub"),
        )
    )
    nearest = re.compile(r"(?<=did you mean: )[^?]*?\b(resnet50|mobilenet_v1)\b[^?]*")
    assert [nearest.sub(r"\1", line) for line in done.stdout.splitlines()] == [
        f"a network named timm/... {timm}",
        f"a network named torchvision/... {vision}",
        "unknown model 'resnet5o'; did you mean: resnet50?"
        f" If it is another library's: a network named timm/... {timm}",
        "unknown model 'mobilenetv3_small_050'; did you mean: mobilenet_v1? "
        f"If it is another library's: a network named timm/... {timm}",
        f"the network vgg16_bn, which is timm's, {timm}",
        f"a network named timm/... {timm}",
        f"the source timm/resnet18 {timm}",
        f"the source torchvision/resnet18 {vision}",
        f"the source hf://owner/net {hub}",
        f"the network owner/net, which is no folder, {hub}",
        f"senet.push_to_hub {hub}",
        f"senet.register_with_timm {timm}",
        f"senet.backbone {timm}",
        f"Preprocessing.transform {vision}",
    ]
