"""A run of `senet train` in its folder: what is there, what is frozen when, going on."""

from __future__ import annotations

import csv
import io
import json
import logging
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from senet import create_model, use_backend
from senet.errors import ConfigError, DataError
from senet.insertion import SEConfig, se_modules, se_parameters
from senet.schema import overridden
from senet.training.building import build_network, start_as_he
from senet.training.config import RunConfig, read_yaml, recipe
from senet.training.job import train
from senet.training.loop.checkpoints import load_weights, newest_checkpoint, read_checkpoint
from senet.training.loop.gate_log import Gates
from senet.training.loop.placement import Placement
from senet.training.trained import load_run
from training.tiny import CONFIG, CPU, image_folder


def test_folder_says_everything(run: Path) -> None:
    result = json.loads((run / "run.json").read_text())

    assert overridden(RunConfig(), read_yaml(run / "config.yaml")) == CONFIG
    assert (result["state"], result["command"]) == ("done", "senet train")
    assert RunConfig.from_dict(result["config"]) == CONFIG
    rows = list(csv.DictReader(io.StringIO((run / "history.csv").read_text())))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert float(rows[-1]["test_accuracy"]) == result["epochs"][-1]["test_accuracy"]
    assert result["epochs"][-1]["test_top5"] >= result["epochs"][-1]["test_accuracy"]
    gates = list(csv.DictReader(io.StringIO((run / "gates.csv").read_text())))
    assert len(gates) == 4 * 9
    assert {row["block"] for row in gates} == set(load_blocks(run))
    page = (run / "report.html").read_text()
    assert f"{100 * result['epochs'][-1]['test_accuracy']:.2f} % test accuracy" in page
    assert f"senet see {run}" in page
    assert page.count("<svg ") == 5  # loss, accuracy, classes, two of the gates


def load_blocks(run: Path) -> list[str]:
    return list(se_modules(load_run(run).net))


def test_base_is_frozen_first_and_batch_norms_at_the_end(tmp_path: Path) -> None:
    """Of two epochs the first moves SE blocks alone, the second all but batch norms."""
    source = create_model("resnet20", in_chans=1)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    changes = {"epochs": 2, "ema": None, "weights": str(tmp_path / "w.pth")}
    tmp_path = tmp_path / "run"
    config = overridden(CONFIG, changes)
    start = build_network(config, num_classes=10, size=(1, 8, 8))
    states: list[dict[str, torch.Tensor]] = [dict(start.state_dict())]

    def progress(_what: str, done: int, _total: int) -> None:
        if done == 5:  # the first step of the second epoch
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(config, out=tmp_path, placement=CPU, on_progress=progress)
    again = build_network(config, num_classes=10, size=(1, 8, 8))
    states.append(dict(load_weights(again, tmp_path).state_dict()))
    train(config, out=tmp_path, placement=CPU, resume=True)
    states.append(dict(load_run(tmp_path).net.state_dict()))
    ours = {id(p) for p in se_parameters(start).se}
    se = {name for name, p in start.named_parameters() if id(p) in ours}
    moved = [
        {name for name in start.state_dict() if not torch.equal(before[name], after[name])}
        for before, after in pairwise(states)
    ]
    assert moved[0] == se
    assert se < moved[1]
    assert not any("running" in name for name in moved[1])
    norms = {
        f"{path}.{name}"
        for path, module in start.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for name, _ in module.named_parameters(recurse=False)
    }
    assert moved[1].isdisjoint(norms)
    assert "linear.weight" in moved[1]


def test_going_on_needs_the_same_options(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not empty; go on with what is there by --resume"):
        train(CONFIG, out=run, placement=CPU)
    with pytest.raises(ConfigError, match=r"same options, but train.lr was 0.05, is 0.1; give"):
        train(overridden(CONFIG, {"lr": 0.1}), out=run, placement=CPU, resume=True)
    free, copy = overridden(CONFIG, {"workers": 1, "max_bad_images": 5}), tmp_path / "copy"
    shutil.copytree(run, copy)
    assert train(free, out=copy, placement=CPU, resume=True)["state"] == "done"
    with pytest.raises(ConfigError, match="precision 'fp16' needs a GPU"):
        train(overridden(CONFIG, {"precision": "fp16"}), out=tmp_path / "new", placement=CPU)


def test_a_finished_run_goes_on_with_its_own_classes_only(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "a")
    changes = {"data.name": str(folder), "image_size": 8, "epochs": 1, "batch_size": 8}
    config = overridden(RunConfig("resnet20"), changes)
    done = train(config, out=tmp_path / "run", placement=CPU)
    assert train(config, out=tmp_path / "run", placement=CPU, resume=True) == done
    for split in ("train", "test"):
        (folder / split / "blue").rename(folder / split / "sky")

    with pytest.raises(DataError, match="'blue' is gone, 'sky' is new; give the data as they were"):
        train(config, out=tmp_path / "run", placement=CPU, resume=True)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"save_every": 0}, "save_every must be a whole number of at least 1, got 0"),
        ({}, {"placement": Placement("tpu")}, "device must be one that is here"),
        ({"precision": "fp16"}, {}, "precision 'fp16' needs a GPU"),
        ({"augmentation": "resize-crop", "cutout": 0}, {}, "needs images above 64 px"),
        ({"erasing": 0.5, "cutout": 0}, {}, "erasing needs images above 64 px"),
    ],
)
def test_nothing_is_written_where_an_option_cannot_be(
    changes: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    given = {"placement": CPU, **options}
    with pytest.raises(ConfigError, match=message):
        train(overridden(CONFIG, changes), out=tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_bf16_goes_on_to_the_same_end(tmp_path: Path) -> None:
    changes = {"model": "se_resnet20", "se": {}, "train_images": 100, "epochs": 2}
    changes |= {"precision": "bf16", "batch_size": 50, "test_every": 2}
    config = overridden(RunConfig(), changes)

    def progress(_what: str, done: int, _total: int) -> None:
        if done == 3:  # the first step of the second epoch
            raise KeyboardInterrupt

    with use_backend("reference"):  # nothing to compile
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            train(config, out=tmp_path / "part", placement=CPU, on_progress=progress)
        train(config, out=tmp_path / "part", placement=CPU, resume=True)
        train(config, out=tmp_path / "whole", placement=CPU)
        train(overridden(config, {"precision": "fp32"}), out=tmp_path / "fp32", placement=CPU)

    part, whole, full = (
        dict(load_run(tmp_path / name).net.state_dict()) for name in ("part", "whole", "fp32")
    )
    torch.testing.assert_close(part, whole, rtol=0, atol=0)
    assert not torch.equal(whole["linear.weight"], full["linear.weight"])  # it was bf16
    assert {value.dtype for value in whole.values()} == {torch.float32, torch.int64}


def test_modern_recipe_on_odd_jpegs(tmp_path: Path) -> None:
    """Crops, RandAugment, erasing, rotation, jitter, mixup, CutMix and averaged weights at once."""
    folder = image_folder(tmp_path / "images", colours=("blue", "green", "red"), size=90)
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        image = Image.open(path).resize((1 + 7 * number % 150, 3 + 11 * number % 120))
        image.save(path.with_suffix(".jpg"))
        path.unlink()
    config = overridden(
        recipe("modern", model="resnet20"),
        {
            "data.name": str(folder), "epochs": 1, "batch_size": 18, "image_size": 72, "ema": 0.5,
            "test_size": 80, "warmup_epochs": 0.5, "precision": "fp32", "workers": 0,
            "rotation": 10, "pixel_jitter": 20,
        },
    )  # fmt: skip
    assert (config.train.mixup, config.train.cutmix, config.train.erasing) == (0.2, 1.0, 0.1)
    result = train(config, out=tmp_path / "run", placement=CPU)

    assert (result["data"]["train_images"], result["data"]["test_images"]) == (36, 12)
    assert result["epochs"][0]["train_loss"] < 3  # log(3), and what a first step may add
    state = read_checkpoint(newest_checkpoint(tmp_path / "run"))["state_dict"]  # type: ignore[arg-type]
    tested = load_run(tmp_path / "run").net.state_dict()
    assert torch.equal(tested["linear.weight"], state["ema.module.linear.weight"])
    assert not torch.equal(tested["linear.weight"], state["net.linear.weight"])


def test_he_start() -> None:
    net = build_network(CONFIG, num_classes=10, size=(1, 8, 8))
    gates = [p.clone() for p in se_parameters(net).se]
    start_as_he(net)

    weight = net.get_parameter("layer3.2.conv1.weight")
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.03)
    small = build_network(CONFIG, num_classes=2, size=(1, 8, 8))
    start_as_he(small)  # two classes must not make the logits large
    assert small.get_parameter("linear.weight").std().item() == pytest.approx(1 / 32**0.5, rel=0.2)
    assert all(torch.equal(a, b) for a, b in zip(gates, se_parameters(net).se, strict=True))


def test_weights_to_start_from(tmp_path: Path) -> None:
    plain = build_network(RunConfig("resnet20"), num_classes=10, size=(3, 8, 8))
    path = tmp_path / "plain.pth"
    torch.save(plain.state_dict(), path)
    config = RunConfig("resnet20", weights=str(path), se=SEConfig())
    net = build_network(config, num_classes=10, size=(3, 8, 8)).eval()
    x = torch.randn(2, 3, 8, 8)

    torch.testing.assert_close(net(x), plain.eval()(x), rtol=0, atol=0)


def test_gates_that_are_stuck_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gates = Gates(tmp_path)
    for epoch in range(1, 5):
        for path, std in (("a.se", 0.001), ("b.se", 0.1)):
            row = {"epoch": epoch, "block": path, "mean": 0.65, "std": std, "channel_std": std}
            gates.rows.append(row)
        with caplog.at_level(logging.WARNING, "senet"):
            gates._report(epoch)

    assert gates.stuck() == {"a.se": 0.65}
