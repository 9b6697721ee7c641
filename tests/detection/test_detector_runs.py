"""A detector from a configuration to boxes: trained, killed, gone on with, tested, drawn."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import senet
from detection.shapes import CLASSES, write_coco
from detection.tiny_runs import CPU, SIZE, tiny
from senet.cli import main
from senet.detection.detector_runs import evaluate_detector, load_detector, train_detector
from senet.detection.paired import compare_detectors
from senet.detection.precisions import average_precision
from senet.errors import ConfigError, DataError
from senet.schema import overridden
from senet.training.loop.checkpoints import newest_checkpoint, read_checkpoint


@pytest.fixture(autouse=True)
def _plain_backend():
    with senet.use_backend("reference"):
        yield


def weights(folder: Path) -> dict[str, torch.Tensor]:
    newest = newest_checkpoint(folder)
    assert newest is not None
    state: dict[str, torch.Tensor] = read_checkpoint(newest)["state_dict"]
    return state


def test_what_a_run_leaves(run: Path) -> None:
    result = json.loads((run / "run.json").read_text())
    assert [each["epoch"] for each in result["epochs"]] == [1, 2]
    last = result["epochs"][-1]
    assert last["train_loss"] > 0
    assert {"test_AP", "test_AP50", "test_AR_100", "test_VOC_AP50"} < set(last)
    assert result["data"]["classes"] == sorted(CLASSES)
    for each in json.loads((run / "detections.json").read_text()):
        assert set(each) == {"image_id", "category_id", "bbox", "score"}


def test_the_network_of_a_run_finds_the_same_boxes(run: Path) -> None:
    trained = load_detector(run)
    precisions, split, detections = evaluate_detector(trained, device="cpu")
    last = json.loads((run / "run.json").read_text())["epochs"][-1]
    assert precisions.numbers["AP"] == pytest.approx(last["test_AP"], abs=1e-9)
    assert len(split) == len(detections) == 5
    assert len(senet.se_modules(trained.net)) > 0
    assert average_precision(split, detections).voc == precisions.voc


def test_killed_and_gone_on_with(run: Path, data: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle: the weights are those of the undisturbed run, to the last bit."""
    file, out = tmp_path / "config.yaml", tmp_path / "run"
    file.write_text((run / "config.yaml").read_text())
    source = Path(__file__).resolve().parents[2] / "src"
    env = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "senet", "detect", "train", "--config", str(file)]
    process = subprocess.Popen(
        [*command, "--out", str(out), "--device", "cpu", "--save-every", "1"],
        env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while len(list(out.glob("step-*.ckpt"))) < 2 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    result = train_detector(tiny(data), out=out, resume=True, placement=CPU)

    assert result["state"] == "done"
    ours, theirs = weights(out), weights(run)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    again = train_detector(tiny(data), out=out, resume=True, placement=CPU)
    assert again["epochs"] == result["epochs"]


def test_options_that_changed(run: Path, data: Path) -> None:
    with pytest.raises(ConfigError, match=r"but train.lr was 0.0005, is 0.1; give the old ones"):
        train_detector(tiny(data, **{"train.lr": 0.1}), out=run, resume=True, placement=CPU)
    with pytest.raises(ConfigError, match="must be a new or an empty folder"):
        train_detector(tiny(data), out=run, placement=CPU)


def test_half_precision_of_the_backbone(data: Path, tmp_path: Path) -> None:
    changes = {"train.precision": "bf16", "train.steps": 1, "train.test_every": 1}
    changes |= {"train.warmup_steps": 0, "train.accumulate": 2}
    result = train_detector(tiny(data, **changes), out=tmp_path / "run", placement=CPU)
    assert result["epochs"][0]["train_loss"] > 0
    net = load_detector(tmp_path / "run").net
    levels = net.backbone(torch.rand(1, 3, 64, 64))
    assert net.backbone.precision is torch.bfloat16
    assert {level.dtype for level in levels.values()} == {torch.float32}


def test_compared(data: Path, tmp_path: Path) -> None:
    """Plain and SE: the same shared weights at the start, an interval at the end."""
    changes = {"train.steps": 1, "train.test_every": 1, "train.warmup_steps": 0}
    config = tiny(data, **changes)
    result = compare_detectors(config, seeds=1, out=tmp_path / "out", device="cpu")

    assert result["state"] == "done"
    assert [(r["arch"], r["seed"]) for r in result["runs"]] == [("plain", 0), ("se", 0)]
    plain, se = (r["train_loss"] for r in result["runs"])
    assert plain == pytest.approx(se, rel=1e-5)  # the first step: the same function
    assert result["runs"][1]["parameters"] > result["runs"][0]["parameters"]
    gap = result["summary"]["difference"]
    assert gap["low"] <= gap["AP"] <= gap["high"]
    times = result["summary"]["step_ms"]
    assert times["plain"]["median"] > 0
    assert times["ratio"]["lower"] <= times["ratio"]["median"] <= times["ratio"]["upper"]
    again = compare_detectors(config, seeds=1, out=tmp_path / "out", resume=True, device="cpu")
    assert again["summary"]["difference"] == gap
    with pytest.raises(ConfigError, match="must be plain, se_resnet18 has SE by its name"):
        compare_detectors(overridden(config, {"model": "se_resnet18"}), out=tmp_path / "b")


# ---- the command line


def called(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(each) for each in arguments])
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err


def test_eval_command(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = called(capsys, "detect", "eval", run, "--json", "--out", tmp_path)
    assert code == 0
    result = json.loads(out)
    assert result["AP"] == json.loads((tmp_path / "eval.json").read_text())["AP"]
    assert set(result["per_class"]) == set(CLASSES)
    assert (tmp_path / "detections.json").exists()


def test_predict_command(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = data / "JPEGImages"
    code, out, _ = called(
        capsys, "detect", "predict", run, folder, "--score", "0.01", "--json", "--out", tmp_path
    )
    assert code == 0
    listed = json.loads(out)
    assert len(listed) == 14
    for boxes in listed.values():
        for each in boxes:
            x1, y1, x2, y2 = each["box"]
            assert 0 <= x1 < x2 <= SIZE[0]
            assert 0 <= y1 < y2 <= SIZE[1]
            assert each["class"] in CLASSES
    with Image.open(tmp_path / "val_0.png.png") as image:
        assert image.size == SIZE


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--data", "nowhere"), "holds no annotations of a split 'train'"),
        (("train", "--recipe", "tiny"), "unknown recipe 'tiny'; known are: coco_2x, small"),
        (("train", "--set", "steps=5", "--set", "test_every=2"), "test_every must be a divisor"),
        (("eval", "nowhere"), "nowhere holds no run of senet detect that can be read"),
        (("predict", "nowhere", "film.mp4"), "film.mp4 is a video; write its frames to a folder"),
    ],
)
def test_errors_of_one_line(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", str(tmp_path / "out")) if arguments[0] == "train" else ()
    code, _, err = called(capsys, "detect", *arguments, *out)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_dry_run(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = called(capsys, "detect", "train", "--recipe", "coco_2x", "--dry-run")
    assert code == 0
    assert "steps: 180000" in out
    assert "milestones: [120000, 160000]" in out


def test_no_usable_box_is_one_error(tmp_path: Path) -> None:
    root = write_coco(tmp_path, {"train": [[]], "val": [[("red", (1, 1, 9, 9))]]}, SIZE)
    with pytest.raises(DataError, match="must have a box that can be used, and has none in 1"):
        train_detector(tiny(root), out=tmp_path / "run", placement=CPU)
    assert not (tmp_path / "run").exists()
