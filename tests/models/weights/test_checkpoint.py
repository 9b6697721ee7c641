"""Checkpoints of training programs: which of their tensors are the network's, and what is said."""

from __future__ import annotations

import argparse
import collections
from pathlib import Path
from typing import Any

import pytest
import timm.utils
import torch
from networks import animated, contents, unchanged, with_classes
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from senet.errors import DataError
from senet.models.weights import convert_weights, load_weights
from senet.models.weights.checkpoint import weights_in
from senet.models.weights.inert import read_torch
from senet.models.weights.load import WeightsReport


def net() -> nn.Module:
    return animated(with_classes(10))


def loaded(content: Any, source: nn.Module, path: Path, **options: Any) -> WeightsReport:
    """Load a checkpoint; the weights must be those of `source`, to the last bit."""
    torch.save(content, path)
    model = with_classes(10)
    report = load_weights(model, path, **options)
    for name, tensor in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    return report


def refused(content: Any, path: Path, message: str) -> None:
    torch.save(content, path)
    model = with_classes(10)
    before = contents(model)
    with pytest.raises(DataError, match=message) as caught:
        load_weights(model, path)
    assert "\n" not in str(caught.value)
    unchanged(model, before)


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


# ---- entries


@pytest.mark.parametrize("entry", ["state_dict", "model_state_dict", "model", "net", "params"])
def test_entries_of_checkpoints(entry: str, tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save({"rate": torch.ones(1), entry: {"w": torch.zeros(2)}}, path)
    assert list(weights_in(read_torch(path), path).state) == ["w"]


def test_what_timm_saves(tmp_path: Path) -> None:
    """timm's own saver: options as a Namespace, the average beside the weights."""
    source, average = net(), net()
    optimizer = torch.optim.SGD(source.parameters(), 0.1, momentum=0.9)
    options = argparse.Namespace(model="seresnet", lr=0.1)
    saver = timm.utils.CheckpointSaver(
        source, optimizer, args=options, model_ema=average, checkpoint_dir=str(tmp_path)
    )
    saver.save_checkpoint(epoch=3, metric=76.5)
    path = tmp_path / "last.pth.tar"
    model = with_classes(10)

    report = load_weights(model, path)

    assert torch.equal(model.get_parameter("fc.bias"), average.get_parameter("fc.bias"))
    assert "taken: state_dict_ema, an average of the weights; ema=False takes state_dict" in str(
        report
    )
    report = load_weights(model, path, ema=False)
    assert torch.equal(model.get_parameter("fc.bias"), source.get_parameter("fc.bias"))
    assert report.taken == "state_dict; ema=True takes state_dict_ema, an average of the weights"


def test_what_torchvisions_scripts_save(tmp_path: Path) -> None:
    source = net()
    average = AveragedModel(source)
    average.module = net()
    checkpoint = {
        "model": source.state_dict(),
        "optimizer": torch.optim.SGD(source.parameters(), 0.1, momentum=0.9).state_dict(),
        "epoch": 2,
        "args": argparse.Namespace(output_dir=Path("runs"), opt="sgd"),
        "model_ema": average.state_dict(),
    }

    report = loaded(checkpoint, average.module, tmp_path / "a.pth")

    assert report.foreign == ("n_averaged",)
    assert report.taken.startswith("model_ema, an average of the weights; ema=False takes model")
    assert loaded(checkpoint, source, tmp_path / "b.pth", ema=False).foreign == ()


class HistoryBuffer:
    """A class of the training program alone."""

    def __init__(self) -> None:
        self.history = collections.deque([1.0])


def test_what_mmpretrain_saves(tmp_path: Path) -> None:
    """The average stands where the weights are looked for, and the weights in `ema_state_dict`."""
    average, source = net(), net()

    def named(state: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
        return {
            f"{prefix}{'head' if name.startswith('fc') else 'backbone'}.{name}": tensor
            for name, tensor in state.items()
        }

    checkpoint = {
        "meta": {"cfg": "model = dict()", "dataset_meta": {"classes": ["a"]}},
        "state_dict": {**named(average.state_dict()), "data_preprocessor.mean": torch.ones(3)},
        "message_hub": {"log_scalars": {"train/loss": HistoryBuffer()}},
        "ema_state_dict": {**named(source.state_dict(), "module."), "steps": torch.tensor(3)},
    }

    report = loaded(checkpoint, average, tmp_path / "a.pth")

    assert report.foreign == ("data_preprocessor.mean",)
    assert report.taken.startswith("state_dict, an average of the weights; ema=False takes ema_st")
    loaded(checkpoint, source, tmp_path / "b.pth", ema=False)
    del checkpoint["ema_state_dict"]
    assert loaded(checkpoint, average, tmp_path / "c.pth").taken == ""


def test_se_layers_of_mmpretrain(tmp_path: Path) -> None:
    source = net()
    state = {
        name.replace("bn3.se.fc", "se_layer.conv").replace(".weight", ".conv.weight")
        if ".se." in name and name.endswith("weight")
        else name.replace("bn3.se.fc1.bias", "se_layer.conv1.conv.bias").replace(
            "bn3.se.fc2.bias", "se_layer.conv2.conv.bias"
        ): tensor[..., None, None] if ".se." in name and tensor.dim() == 2 else tensor
        for name, tensor in source.state_dict().items()
    }
    assert "layer1.0.se_layer.conv1.conv.weight" in state
    loaded({"state_dict": prefixed(state, "backbone.")}, source, tmp_path / "net.pth")


def test_what_lightning_saves(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")
    callbacks = pytest.importorskip("lightning.pytorch.callbacks")

    class Task(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self, options: argparse.Namespace) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.model = net()
            self.criterion = nn.CrossEntropyLoss(weight=torch.ones(10))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    task = Task(argparse.Namespace(folder=Path("x")))
    averaging = callbacks.EMAWeightAveraging()
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, callbacks=[averaging], enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.strategy.connect(task)
    averaging.setup(trainer, task, "fit")
    average = net()
    averaging._average_model.module.model = average
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    model = with_classes(10)

    report = load_weights(model, tmp_path / "last.ckpt")

    assert report.foreign == ("criterion.weight",)
    assert "not of this network, passed over: criterion.weight" in str(report)
    assert "ema=False takes current_model_state" in report.taken
    assert torch.equal(model.get_parameter("fc.bias"), average.get_parameter("fc.bias"))
    load_weights(model, tmp_path / "last.ckpt", ema=False)
    assert torch.equal(model.get_parameter("fc.bias"), task.model.get_parameter("fc.bias"))


def test_an_average_without_weights_beside_it_is_said(tmp_path: Path) -> None:
    source = net()
    report = loaded({"params_ema": source.state_dict()}, source, tmp_path / "net.pth", ema=False)
    assert report.taken == "params_ema, an average of the weights; there are no others"


class Unknown(nn.Module):
    """A network of a class that is looked up nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.body = net()
        self.register_buffer("anchors", torch.ones(3))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_module_that_was_saved_whole(zipped: bool, tmp_path: Path) -> None:
    module = Unknown()
    torch.save(
        {"epoch": 1, "model": module},
        tmp_path / "net.pth",
        _use_new_zipfile_serialization=zipped,
    )
    model = with_classes(10)

    report = load_weights(model, tmp_path / "net.pth")

    assert report.foreign == ("anchors",)
    for name, tensor in module.body.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_a_module_that_holds_itself_ends(tmp_path: Path) -> None:
    module = nn.Linear(2, 2)
    module._modules["self"] = module
    torch.save(module, tmp_path / "net.pth")
    refused(module, tmp_path / "net.pth", r"conv1.weight \[64, 3, 7, 7\] is missing")


# ---- names


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.", "model._orig_mod.",
     "backbone.bottom_up.", "model.backbone.net.", "net.module."],
)  # fmt: skip
@pytest.mark.parametrize("beside", [{}, {"criterion.weight": torch.ones(10)}])
def test_prefixes_with_and_without_other_tensors(
    prefix: str, beside: dict[str, Tensor], tmp_path: Path
) -> None:
    source = net()
    state = {**prefixed(source.state_dict(), prefix), **beside}
    assert loaded(state, source, tmp_path / "net.pth").foreign == tuple(beside)


def test_parts_that_were_compiled_or_wrapped_one_by_one(tmp_path: Path) -> None:
    source, wrapped = net(), net()
    wrapped.load_state_dict(source.state_dict())
    wrapped.layer1 = torch.compile(wrapped.layer1)
    wrapped.layer2[0].conv1 = torch.compile(wrapped.layer2[0].conv1)
    wrapped.layer3 = nn.DataParallel(wrapped.layer3)
    state = wrapped.state_dict()
    assert "layer1._orig_mod.0.conv1.weight" in state

    loaded({"state_dict": state}, source, tmp_path / "net.pth")
    loaded({"state_dict": prefixed(state, "model.")}, source, tmp_path / "net.pth")


def test_weights_of_a_plain_network_below_a_prefix(tmp_path: Path) -> None:
    plain = {name: t for name, t in net().state_dict().items() if ".se." not in name}
    torch.save({**prefixed(plain, "model."), "loss.weight": torch.ones(2)}, tmp_path / "net.pth")

    report = load_weights(with_classes(10), tmp_path / "net.pth")

    assert len(report.identity) == 4
    assert report.foreign == ("loss.weight",)


def test_two_copies_of_which_one_is_an_average(tmp_path: Path) -> None:
    source, average = net(), net()
    state = {**prefixed(source.state_dict(), "net."), **prefixed(average.state_dict(), "ema_net.")}

    report = loaded(state, average, tmp_path / "a.pth")
    assert report.taken == "ema_net.; ema=False takes net., of two copies"
    report = loaded(state, source, tmp_path / "b.pth", ema=False)
    assert report.taken == "net.; ema=True takes ema_net., of two copies"


def test_two_copies_that_nothing_tells_apart(tmp_path: Path) -> None:
    state = {**prefixed(net().state_dict(), "student."), **prefixed(net().state_dict(), "teacher.")}
    refused(
        state, tmp_path / "net.pth", r"but holds it under student\. and teacher\.; save the one"
    )


def test_a_tensor_in_the_way_is_named(tmp_path: Path) -> None:
    """The network is not complete: what is foreign may be what is missing."""
    state = prefixed(net().state_dict(), "model.")
    state["probe.weight"] = state.pop("model.fc.weight")
    refused(
        state,
        tmp_path / "net.pth",
        r"fc\.weight \[10, 2048\] is missing; probe\.weight \[10, 2048\] is not of this network",
    )


def test_two_heads_that_nothing_tells_apart(tmp_path: Path) -> None:
    state = prefixed(net().state_dict(), "backbone.")
    weight = state.pop("backbone.fc.weight")
    state |= {"head_a.fc.weight": weight, "head_b.fc.weight": weight}
    refused(state, tmp_path / "net.pth", r"fc\.weight \[10, 2048\] is missing; head_a\.fc\.weight")


@pytest.mark.parametrize("prefix", ["", "model."])
def test_more_blocks_of_the_network_itself_are_another_network(prefix: str, tmp_path: Path) -> None:
    state = net().state_dict() | {"layer4.1.conv1.weight": torch.ones(512, 2048, 1, 1)}
    refused(
        prefixed(state, prefix),
        tmp_path / "net.pth",
        r"layer4\.1\.conv1\.weight \[512, 2048, 1, 1\] is not of this network",
    )


def test_a_checkpoint_is_converted(tmp_path: Path) -> None:
    import senet

    source = senet.create_model("se_resnet20", num_classes=7)
    state = {**prefixed(source.state_dict(), "model."), "loss.weight": torch.ones(7)}
    torch.save({"state_dict": state, "args": argparse.Namespace()}, tmp_path / "last.ckpt")

    assert convert_weights(tmp_path / "last.ckpt", tmp_path / "net.safetensors") == "se_resnet20"

    again = senet.create_model("se_resnet20", num_classes=7)
    report = load_weights(again, tmp_path / "net.safetensors")
    assert report.tensors == len(source.state_dict())
    assert str(tmp_path).encode() not in (tmp_path / "net.safetensors").read_bytes()


def test_prefixes_in_safetensors(tmp_path: Path) -> None:
    source, model = net(), with_classes(10)
    save_file(prefixed(source.state_dict(), "model."), tmp_path / "net.safetensors")
    load_weights(model, tmp_path / "net.safetensors")
    assert torch.equal(model.get_parameter("fc.bias"), source.get_parameter("fc.bias"))


def test_what_was_chosen_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = net()
    state = source.state_dict()
    loaded({"state_dict": state, "state_dict_ema": state}, source, tmp_path / "a.pth")
    loaded({**prefixed(state, "model."), "loss.weight": torch.ones(2)}, source, tmp_path / "b.pth")
    loaded(state, source, tmp_path / "c.pth")

    assert [record.getMessage() for record in caplog.records if record.name == "senet"] == [
        f"{tmp_path / 'a.pth'}: taken was state_dict_ema, an average of the weights; "
        "ema=False takes state_dict instead",
        f"{tmp_path / 'b.pth'}: passed over, not of this network: loss.weight",
    ]
