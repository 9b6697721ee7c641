"""Killed, told to end, out of disk, or with a damaged checkpoint: a run goes on to the same end."""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import signal
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from senet.cli.commands import app
from senet.errors import TrainingError
from senet.schema import overridden
from senet.training.config import RunConfig, parse_values
from senet.training.data import ImageData
from senet.training.job import train
from senet.training.loop.checkpoints import (
    CheckpointFiles,
    load_weights,
    newest_checkpoint,
    read_checkpoint,
)
from senet.training.loop.placement import Placement
from training import killing
from training.loop.test_runner import assert_same_weights, numbers, trained
from training.tiny import TinyNet, image_folder, tiny_data

# Five steps an epoch, four epochs.
SHORT = ("--set", "train_images=160", "--set", "epochs=4", "--save-every", "2")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    return tiny_data(tmp_path_factory.mktemp("data"))


def short_config(options: tuple[str, ...]) -> RunConfig:
    """The configuration of a command line of `killing`."""
    pairs = [value for name, value in pairwise(options) if name == "--set"]
    return overridden(RunConfig(model="se_resnet20"), parse_values(pairs))


@pytest.mark.skipif(os.name == "nt", reason="sends SIGKILL")
def test_killed_twice_and_the_weights_are_bit_identical(tmp_path: Path) -> None:
    options = (*killing.OPTIONS, *SHORT)
    draw = random.Random(time.time_ns())
    train(short_config(options), out=tmp_path / "calm", placement=Placement("cpu"), save_every=2)

    for _ in range(2):
        record = killing.killed(
            tmp_path / "rough", *options, after=killing.step(tmp_path / "rough"), draw=draw
        )
        assert record["newest_step"] > 0
    again = {"placement": Placement("cpu"), "save_every": 2, "resume": True}
    train(short_config(options), out=tmp_path / "rough", **again)

    calm, rough = killing.weights(tmp_path / "calm"), killing.weights(tmp_path / "rough")
    assert len(calm) > 200
    assert killing.different(calm, rough) == []
    histories = [
        json.loads((tmp_path / name / "run.json").read_text()) for name in ("calm", "rough")
    ]
    losses = [[epoch["train_loss"] for epoch in each["epochs"]] for each in histories]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)  # a sum that was interrupted


@pytest.mark.skipif(os.name == "nt", reason="sends SIGTERM")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_batch_system_asks_to_end(tmp_path: Path, name: str) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)

    def progress(_what: str, done: int, _total: int) -> None:
        if done == 3:
            signal.raise_signal(number)

    config, options = short_config(SHORT), {"out": tmp_path, "placement": Placement("cpu")}
    result = train(config, **options, on_progress=progress)  # type: ignore[arg-type]

    assert result["state"] == "requeue"
    assert json.loads((tmp_path / "run.json").read_text()) == result
    assert read_checkpoint(newest_checkpoint(tmp_path) or tmp_path)["global_step"] == 3
    assert signal.getsignal(number) is before
    done = train(config, **options, resume=True)  # type: ignore[arg-type]
    assert (done["state"], len(done["epochs"])) == ("done", 4)


@pytest.mark.skipif(os.name == "nt", reason="sends SIGTERM")
def test_asked_to_end_while_it_reads_the_data(tmp_path: Path) -> None:
    folder, said = image_folder(tmp_path / "images"), []

    def progress(what: str, _done: int, _total: int) -> None:
        said.append(what)
        signal.raise_signal(signal.SIGTERM)

    config = overridden(RunConfig(), {"data.name": str(folder), "image_size": 8})
    out = tmp_path / "run"
    result = train(config, out=out, placement=Placement("cpu"), on_progress=progress)
    assert (result["state"], result["epochs"]) == ("requeue", [])
    assert said == ["reading train images"]
    assert not out.exists()


def test_exit_code_asks_to_be_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for state, code in (("requeue", 75), ("stopped", 130), ("done", 0)):
        result = {"state": state, "epochs": [], "stuck_gates": {}, "data": {"left_out": []}}
        monkeypatch.setattr("senet.training.job.train", lambda *_, result=result, **__: result)
        invoked = CliRunner().invoke(app, ["train", "--device", "cpu", "--out", str(tmp_path)])
        assert invoked.exit_code == code, invoked.output
        assert ("interrupted; go on with: senet" in invoked.output) == (code != 0)


@pytest.mark.parametrize("hurt", ["cut off", "changed", "empty"])
def test_damaged_checkpoint_is_noticed_and_the_one_before_is_used(
    data: ImageData, tmp_path: Path, hurt: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole, net = trained(data, tmp_path / "whole")
    trained(data, tmp_path / "part", stop_after=8)
    newest = newest_checkpoint(tmp_path / "part")
    assert newest is not None
    assert newest.name.startswith("step-00000008-")
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes({"cut off": content[:-100], "changed": content, "empty": b""}[hurt])

    with caplog.at_level(logging.WARNING, "senet"):
        rest, twin = trained(data, tmp_path / "part")

    assert f"{newest} is damaged" in caplog.text
    assert newest.with_name(newest.name + ".damaged").exists()
    assert numbers(rest) == numbers(whole)
    assert_same_weights(net, twin)


def test_nothing_is_left_to_go_on_from(data: ImageData, tmp_path: Path) -> None:
    whole, _ = trained(data, tmp_path / "whole")
    trained(data, tmp_path / "part", stop_after=2)
    for path in (tmp_path / "part").glob("step-*.ckpt"):
        path.write_bytes(b"")
    rest, _ = trained(data, tmp_path / "part")

    assert numbers(rest) == numbers(whole)  # from the beginning


def test_full_disk_is_one_line_and_the_last_good_checkpoint_stays(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(data, tmp_path, stop_after=5)
    good = newest_checkpoint(tmp_path)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(TrainingError) as error:
            trained(data, tmp_path)
    message = str(error.value)
    assert message.startswith("the checkpoint of step 6 cannot be written to")
    assert "No space left on device" in message
    assert f"the last good checkpoint is {good}" in message
    assert "\n" not in message
    assert not list(tmp_path.glob("*.partial"))
    assert newest_checkpoint(tmp_path) == good
    rest, _ = trained(data, tmp_path)
    assert rest.done


@pytest.mark.skipif(os.name == "nt", reason="sets a resource limit")
def test_real_write_that_fails(tmp_path: Path) -> None:
    """The system refuses more than 200 kB a file."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(TrainingError, match=r"of step 1 cannot be written .*File too large"):
            train(short_config(SHORT), out=tmp_path, placement=Placement("cpu"), save_every=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml"]


def test_two_checkpoints_are_kept_and_half_written_ones_go(tmp_path: Path) -> None:
    files = CheckpointFiles(tmp_path)
    (tmp_path / "step-00000001-0123456789abcdef.ckpt.partial").write_bytes(b"half")
    for step in range(1, 5):
        files.save_checkpoint({"global_step": step, "state_dict": {}}, "ignored")

    names = sorted(path.name[:13] for path in tmp_path.iterdir())
    assert names == ["step-00000003", "step-00000004"]
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert files.load_checkpoint(newest)["global_step"] == 4


def test_checkpoint_is_data_and_never_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "hacked"),)

    torch.save({"state_dict": Evil()}, tmp_path / "evil.ckpt")

    with pytest.raises(Exception, match="no checkpoint that can be read"):
        read_checkpoint(tmp_path / "evil.ckpt")
    assert not (tmp_path / "hacked").exists()


def test_weights_of_another_network(data: ImageData, tmp_path: Path) -> None:
    trained(data, tmp_path, stop_after=4)

    with pytest.raises(Exception, match=r"weights of another network: .*linear"):
        load_weights(TinyNet(3), tmp_path)
    with pytest.raises(Exception, match="holds no checkpoint; train first"):
        load_weights(TinyNet(2), tmp_path / "nowhere")
