"""Whatever the project writes says which network it is, and is built exactly so."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import senet
from senet import SEConfig
from senet.cli.commands import app
from senet.compare import compare
from senet.errors import DataError
from senet.models import create_model
from senet.training import DataConfig, TrainConfig
from senet.training.data import open_split
from senet.training.trained import load_run
from training.tiny import image_folder


def invoked(*arguments: str) -> str:
    answer = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert answer.exit_code == 0, (answer.output, answer.exception)
    return answer.output


def test_a_checkpoint_says_which_network_it_is_of(run: Path, tmp_path: Path) -> None:
    [file, *_] = sorted(run.glob("step-*.ckpt"), reverse=True)
    split = open_split(DataConfig(), training=False)
    split.image(0).save(tmp_path / "0.png")  # type: ignore[union-attr]
    image = str(tmp_path / "0.png")
    answer = invoked("predict", image, "--run", str(run))
    for given in (
        ["--run", str(file)],
        ["--weights", str(file)],
        ["--model", "resnet20", "--weights", str(file)],
        ["--model", "se_resnet20", "--weights", str(file), "--classes", "10"],
    ):
        assert invoked("predict", image, *given) == answer
    for given, message in (
        (["--model", "se_resnet32"], "says that it is of resnet20 with inserted SE blocks, not of"),
        (["--model", "resnet20", "--classes", "2"], "is of 10 classes, --classes was 2"),
    ):
        result = CliRunner().invoke(app, ["predict", image, *given, "--weights", str(file)])
        assert message in str(result.exception)


def accuracy(*arguments: str) -> float:
    answer = CliRunner().invoke(app, ["eval", *arguments, "--device", "cpu", "--json"])
    assert answer.exit_code == 0, (arguments, answer.exception)
    return float(json.loads(answer.stdout)["top1"]["proportion"])


def test_every_file_of_weights_is_the_very_network(run: Path, tmp_path: Path) -> None:
    """A run of centred gates in a plain network, through each file that the project writes.

    By the name `se_resnet20` alone it would be the paper's gate, and another answer.
    """
    right = accuracy(str(run))
    net = load_run(run).net
    senet.save(net, tmp_path / "saved")
    senet.save_pretrained(net, tmp_path / "hub")
    moved = shutil.copytree(run, tmp_path / "moved")
    (moved / "run.json").unlink()  # as of a run that was killed
    [newest] = sorted(run.glob("step-*.ckpt"))[-1:]
    converted = tmp_path / "net.safetensors"
    assert invoked("convert", str(run), str(converted)).startswith(f"{converted}: weights of")
    digits = ["--data", "digits"]
    for given in (
        [str(moved)],
        [str(newest)],
        [str(tmp_path / "saved"), *digits],
        [str(tmp_path / "hub"), *digits],
        [str(tmp_path / "saved" / "model.safetensors"), *digits],
        [str(converted), *digits],
        ["--model", "se_resnet20", "--weights", str(converted), *digits],
        ["--model", "resnet20", "--weights", str(newest), *digits],
    ):
        assert accuracy(*given) == right, given
    for file in (newest, converted, tmp_path / "saved" / "model.safetensors"):
        again = senet.from_pretrained(file)
        image = torch.randn(3, 1, 8, 8)
        with torch.no_grad():
            assert torch.equal(again(image), net(image))
        other = create_model("se_resnet20", in_chans=1, se={"reduction": 4})
        before = {name: value.clone() for name, value in other.state_dict().items()}
        with pytest.raises(
            DataError,
            match="SE blocks of the kind avg, sigmoid, centered, this CifarResNet has avg, sigmoid",
        ):
            senet.load_weights(other, file)
        assert all(torch.equal(before[name], now) for name, now in other.state_dict().items())


def test_an_arm_of_a_comparison_is_asked_by_its_checkpoint(tmp_path: Path) -> None:
    data = DataConfig(str(image_folder(tmp_path / "f")), image_size=8)
    recipe = TrainConfig(epochs=1, batch_size=8)
    result = compare(
        model="resnet20", data=data, train=recipe, se=SEConfig(reduction=4, stages=(2,)),
        seeds=1, out=tmp_path / "out", device="cpu", timing=False,
    )  # fmt: skip
    for run in result["runs"]:
        arm = tmp_path / "out" / "runs" / f"{run['arch']}-seed0"
        [newest] = sorted(arm.glob("step-*.ckpt"))[-1:]
        assert accuracy(str(arm)) == accuracy(str(newest)) == run["test_accuracy"]


def test_several_processes_share_an_evaluation(run: Path, tmp_path: Path) -> None:
    """599 images over two processes: each once, in order, the scores of one process."""
    given = ["eval", str(run), "--device", "cpu", "--batch-size", "50", "--out"]
    invoked(*given, str(tmp_path / "one"))
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "senet"]
    answer = subprocess.run(
        [sys.executable, *torchrun, *given, str(tmp_path / "two")],
        env={**os.environ, "PYTHONPATH": str(Path(senet.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("top-1") == 1  # one process speaks
    one, two = (
        list(csv.DictReader((tmp_path / name / "predictions.csv").read_text().splitlines()))
        for name in ("one", "two")
    )
    assert len(one) == 599
    assert [row["image"] for row in one] == [row["image"] for row in two]
    assert [row["class1"] for row in one] == [row["class1"] for row in two]
    for ours, theirs in zip(one, two, strict=True):
        assert float(ours["score1"]) == pytest.approx(float(theirs["score1"]), rel=1e-4)
