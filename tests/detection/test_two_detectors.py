"""A detector on two devices: each its share of the images, the same weights, one writer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detection.tiny_runs import tiny
from detection.two_detectors import STEPS
from senet.detection.box_data import load_boxes
from senet.training.loop.checkpoints import newest_checkpoint, read_checkpoint


def test_shares_together_are_the_batches_of_one(data: Path) -> None:
    """Images and boxes alike to the last bit, flips too; every test image once."""
    config = tiny(data, **STEPS)
    boxes, loop = load_boxes(config.data, config.train), config.train.loop()
    whole = list(boxes.train_batches(loop, epoch=0))
    shares = [list(boxes.train_batches(loop, epoch=0, rank=r, world_size=2)) for r in (0, 1)]
    for (images, targets), *parts in zip(whole, *shares, strict=True):
        assert all(len(part[0]) == 2 for part in parts)
        for ours, theirs in zip(images, [i for part in parts for i in part[0]], strict=True):
            assert torch.equal(ours, theirs)
        for mine, other in zip(targets, [t for part in parts for t in part[1]], strict=True):
            assert torch.equal(mine["boxes"], other["boxes"])
    tested = [
        int(target["position"])
        for rank in (0, 1)
        for _, targets in boxes.test_batches(loop, rank=rank, world_size=2)
        for target in targets
    ]
    assert sorted(tested) == list(range(5))


@pytest.mark.slow  # the loop that both share has a fast one, in tests/training/loop
def test_two_gloo_processes(data: Path, tmp_path: Path) -> None:
    here = Path(__file__).resolve().parent
    paths = [str(here.parents[1] / "src"), str(here.parent)]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *launch, str(here / "two_detectors.py"), str(data), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr

    weights = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    newest = newest_checkpoint(tmp_path / "run")
    assert newest is not None
    written = read_checkpoint(newest)["state_dict"]
    for name, value in weights[0].items():
        assert torch.equal(value, written[f"net.{name}"]), name
        if "running" not in name:  # each device has the statistics of its own images
            assert torch.equal(value, weights[1][name]), name
    epochs = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert epochs[0][0]["test_AP"] == epochs[1][0]["test_AP"]
    assert epochs[0][0]["train_loss"] == epochs[1][0]["train_loss"] > 0
    detections = json.loads((tmp_path / "run" / "detections.json").read_text())
    assert len({each["image_id"] for each in detections}) > 3  # from both
    assert len(list((tmp_path / "run").glob("step-*.ckpt"))) <= 2
