"""A folder belongs to one run at a time, and knows its data again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from senet.compare import ablate, compare
from senet.errors import ConfigError, DataError
from senet.schema import overridden
from senet.training.config import RunConfig
from senet.training.job import train
from senet.training.run_folder import check_data, locked
from training.tiny import CONFIG, CPU, coloured_image, image_folder


def test_a_run_knows_its_images_again(tmp_path: Path) -> None:
    """An image that is gone, and two folders that were exchanged: the labels would be permuted."""
    folder = image_folder(tmp_path / "f", colours=("blue", "green"), size=8)
    coloured_image("blue", 99).save(folder / "train" / "blue" / "more.png")
    changes = {"data.name": str(folder), "image_size": 8, "epochs": 2, "batch_size": 8}
    config = overridden(RunConfig("resnet20"), changes)

    def killed(_what: str, done: int, _total: int) -> None:
        if done == 4:  # the first step of the second epoch
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train(config, out=tmp_path / "killed", placement=CPU, on_progress=killed)
    train(config, out=tmp_path / "done", placement=CPU)
    (folder / "train" / "blue").rename(folder / "other")
    (folder / "train" / "green").rename(folder / "train" / "blue")
    (folder / "other").rename(folder / "train" / "green")
    for name in ("killed", "done"):
        with pytest.raises(
            DataError,
            match=r"begun with other images: train.blue had 13, has 12; train.green had 12, has 13",
        ):
            train(config, out=tmp_path / name, placement=CPU, resume=True)


HOLDER = """
import sys, time
from pathlib import Path
from senet.training.run_folder import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_at_a_time_in_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "new" / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(out)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2] / "src")},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(ConfigError, match=f"no other run writes to, one works in {out}; wait"):
        train(CONFIG, out=out, placement=CPU, resume=True)
    with pytest.raises(ConfigError, match="no other run writes to"):
        compare(out=out, device="cpu")
    with pytest.raises(ConfigError, match="no other run writes to"):
        ablate(out=out, device="cpu")
    process.kill()  # leaves the lock's file behind
    process.communicate()
    assert [path.name for path in out.iterdir()] == [".lock"]
    with locked(out):
        (out / "kept").touch()
    assert [path.name for path in out.iterdir()] == ["kept"]
    with locked(tmp_path / "empty" / "run"):
        pass
    assert not (tmp_path / "empty").exists()


def test_what_changed_in_the_classes_is_named(tmp_path: Path) -> None:
    """Names that are gone and new; where there are none, the first that has another index."""
    now = {"images_per_class": {}}
    for before, after, what in (
        (["a", "b"], ["b", "c"], "'a' is gone, 'c' is new"),
        (["a", "b"], ["a"], "'b' is gone"),
        (["a"], ["a", "b", "c", "d", "e"], "'b', 'c', 'd', ... are new"),
        (["a", "b"], ["b", "a"], "class 0 was 'a', is 'b'"),
    ):
        with pytest.raises(DataError, match=f"; {what}; give the data as they were"):
            check_data({"classes": before}, {"classes": after, **now}, tmp_path)
