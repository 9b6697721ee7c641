"""Several processes are one: the same images, the same losses, the exact test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from senet.errors import ConfigError
from senet.training import DataConfig, TrainConfig
from senet.training.data import BatchSampler, ImageData, load_data
from senet.training.loop.checkpoints import newest_checkpoint, read_checkpoint
from senet.training.loop.placement import Placement
from training import two_processes
from training.tiny import image_folder

TRAIN = TrainConfig(batch_size=8, workers=0)


def loaded(root: Path, *, size: int) -> ImageData:
    folder = image_folder(root / f"images{size}", train=13, test=3, size=size)
    return load_data(DataConfig(str(folder), image_size=size), input_size=(3, size, size))


@pytest.mark.parametrize("size", [8, 72])
@pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (2, 2), (4, 2), (1, 4)])
def test_all_shares_together_are_what_one_process_sees(
    tmp_path: Path, size: int, world: int, accumulate: int
) -> None:
    """In order, augmented alike to the last bit, nothing lost, nothing twice."""
    data = loaded(tmp_path, size=size)
    whole = list(data.train_batches(TRAIN, epoch=1))
    shares = [
        list(data.train_batches(TRAIN, epoch=1, rank=rank, world_size=world, accumulate=accumulate))
        for rank in range(world)
    ]

    assert [len(labels) for _, labels in whole] == [8, 8, 8]
    assert all(len(share) == 3 * accumulate for share in shares)
    for item in (0, 1):
        parts = [share[run][item] for run in range(3 * accumulate) for share in shares]
        assert torch.equal(torch.cat(parts), torch.cat([batch[item] for batch in whole]))


@pytest.mark.parametrize("size", [8, 72])
@pytest.mark.parametrize("world", [2, 4, 9])
def test_every_test_image_is_seen_once_also_where_they_do_not_divide(
    tmp_path: Path, size: int, world: int
) -> None:
    data = loaded(tmp_path, size=size)
    whole = torch.cat([images for images, _ in data.test_batches(TRAIN)])
    assert len(whole) == 6
    for rank in range(world):
        mine = list(data.test_batches(TRAIN, rank=rank, world_size=world))
        expected = whole[rank::world]
        assert sum(len(labels) for _, labels in mine) == len(expected)
        if mine:
            assert torch.equal(torch.cat([images for images, _ in mine]), expected)


@pytest.mark.parametrize("size", [8, 72])
def test_rest_of_an_epoch_is_its_end(tmp_path: Path, size: int) -> None:
    data = loaded(tmp_path, size=size)
    whole = list(data.train_batches(TRAIN, epoch=0))
    rest = list(data.train_batches(TRAIN, epoch=0, skip=2))

    assert len(rest) == 1
    torch.testing.assert_close(rest[0], whole[2], rtol=0, atol=0)
    assert len(data.train_batches(TRAIN, epoch=0, skip=2)) == 3


def test_batch_that_cannot_be_cut() -> None:
    with pytest.raises(ConfigError, match="a batch of 8 images must be a multiple of 3 devices"):
        list(BatchSampler(100, 8, key=(0, 0), world_size=3))


def test_placement() -> None:
    assert Placement("cpu").options()["devices"] == 1
    assert Placement("cpu", devices=2).options()["strategy"] == "ddp"
    with pytest.raises(ConfigError, match="strategy 'fsdp' needs GPUs; try 'ddp'"):
        Placement("cpu", strategy="fsdp")
    with pytest.raises(ConfigError, match="devices must be a whole number of at least 1"):
        Placement("cpu", devices=0)


def numbers(epochs: list[dict[str, Any]], name: str) -> list[float]:
    return [epoch[name] for epoch in epochs]


def test_two_gloo_processes_and_one_give_the_same(tmp_path: Path) -> None:
    """SE batch norms over both, half the images each, 7 test images; stopped and gone on with.

    Float32 sums in another order differ by some 1e-7 a step; nine steps keep that below 1e-5.
    """
    root = image_folder(tmp_path / "images", train=13, test=3)
    (root / "test" / "red" / "extra.png").write_bytes(
        (root / "test" / "red" / "1000.png").read_bytes()
    )
    alone = two_processes.run(root, tmp_path / "one")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    here = Path(__file__).resolve().parents[1]
    launch += [str(here / "two_processes.py"), str(root), str(tmp_path / "two")]
    paths = [str(here.parents[1] / "src"), str(here.parent)]
    done = subprocess.run(
        [
            sys.executable,
            *launch,
            str(here / "two_processes.py"),
            str(root),
            str(tmp_path / "two"),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr

    ranks = [json.loads((tmp_path / "two" / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert numbers(ranks[0], "test_accuracy") == numbers(ranks[1], "test_accuracy")
    for name in ("train_loss", "test_loss"):
        assert numbers(ranks[0], name) == pytest.approx(numbers(alone.epochs, name), rel=1e-5)
    assert numbers(ranks[0], "test_accuracy") == numbers(alone.epochs, "test_accuracy")
    assert all(
        7 * value == pytest.approx(round(7 * value))
        for value in numbers(alone.epochs, "test_accuracy")
    )
    states = [newest_checkpoint(tmp_path / name) for name in ("one", "two")]
    one, two = (read_checkpoint(path)["state_dict"] for path in states if path is not None)
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
