"""A run gives the same numbers each time, and goes on as if it had not been interrupted."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from senet.errors import ConfigError, DataError, TrainingError
from senet.insertion import se_modules
from senet.models import create_model
from senet.training import TrainConfig
from senet.training.data import ImageData
from senet.training.loop.checkpoints import (
    load_weights,
    newest_checkpoint,
    read_checkpoint,
    step_of,
)
from senet.training.loop.module import Classifier
from senet.training.loop.placement import find_device
from senet.training.loop.runner import Run, finished_epochs, train_run
from senet.training.loop.schedule import cosine_with_warmup
from senet.training.loop.stopping import Stop
from training.tiny import RECIPE, TinyNet, tiny_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    return tiny_data(tmp_path_factory.mktemp("data"))


def trained(
    data: ImageData,
    folder: Path,
    *,
    train: TrainConfig = RECIPE,
    stop_after: int | None = None,
    said: list[tuple[str, int, int]] | None = None,
) -> tuple[Run, TinyNet]:
    """One run; `stop_after` so many steps of it."""
    torch.manual_seed(train.seed)
    net, stop, steps = TinyNet(2), Stop(), 0

    def progress(what: str, done: int, total: int) -> None:
        nonlocal steps
        if ": train loss" in what:  # what an epoch came to, not a step
            return
        steps += 1
        stop.requested = steps == stop_after
        if said is not None:
            said.append((what, done, total))

    run = train_run(
        net,
        data,
        train,
        folder=folder,
        device=torch.device("cpu"),
        title="plain",
        on_progress=progress,
        stop=stop,
        before=100,
        total=200,
    )
    return run, net


def numbers(run: Run) -> list[dict[str, Any]]:
    """What must be equal: all but the clock."""
    return [{name: epoch[name] for name in epoch if name != "seconds"} for epoch in run.epochs]


def assert_same_weights(a: torch.nn.Module, b: torch.nn.Module) -> None:
    torch.testing.assert_close(dict(a.state_dict()), dict(b.state_dict()), rtol=0, atol=0)


def test_it_learns_and_keeps_its_history(data: ImageData, tmp_path: Path) -> None:
    said: list[tuple[str, int, int]] = []
    run, net = trained(data, tmp_path / "run", said=said)

    assert run.done
    assert [epoch["epoch"] for epoch in run.epochs] == [1, 2, 3]
    assert run.epochs[-1]["test_accuracy"] == 1.0
    assert run.epochs[-1]["train_loss"] < run.epochs[0]["train_loss"]
    assert finished_epochs(tmp_path / "run") == run.epochs
    assert_same_weights(load_weights(TinyNet(2), tmp_path / "run"), net)
    assert sorted(path.name[:14] for path in (tmp_path / "run").iterdir()) == [
        "history.csv",
        "history.json",
        "step-00000008-",  # before the last step, and after the test
        "step-00000009-",
    ]
    assert said[0] == ("plain, epoch 1/3", 101, 200)
    assert re.fullmatch(r"plain, epoch 3/3, loss \S+, accuracy \S+ %, \d+ images/s", said[-1][0])
    assert said[-1][1:] == (109, 200)


def test_same_seed_same_numbers_and_another_seed_others(data: ImageData, tmp_path: Path) -> None:
    first, net = trained(data, tmp_path / "a")
    torch.manual_seed(123)
    again, twin = trained(data, tmp_path / "b")
    other, _ = trained(data, tmp_path / "c", train=replace(RECIPE, seed=1))

    assert numbers(first) == numbers(again)
    assert_same_weights(net, twin)
    assert numbers(first) != numbers(other)


@pytest.mark.parametrize("steps", [2, 3, 5])
def test_interrupted_run_goes_on_to_the_same_end(
    data: ImageData, tmp_path: Path, steps: int
) -> None:
    """Stopped in the first epoch, at the end of it, and in the second of three."""
    whole, net = trained(data, tmp_path / "whole")
    part, _ = trained(data, tmp_path / "part", stop_after=steps)

    assert not part.done
    assert len(part.epochs) == (steps - 1) // 3
    rest, twin = trained(data, tmp_path / "part")

    assert rest.done
    assert numbers(rest) == numbers(whole)
    assert_same_weights(net, twin)


def test_compiled_run_has_the_same_checkpoints(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a backend that runs what was traced as it is: Inductor would take a minute."""
    compiled, original = 0, torch.nn.Module.compile

    def backend(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Any:
        nonlocal compiled
        compiled += 1
        return graph.forward

    monkeypatch.setattr(torch.nn.Module, "compile", lambda net: original(net, backend=backend))
    train = replace(RECIPE, compile=True)
    plain, net = trained(data, tmp_path / "plain")
    trained(data, tmp_path / "part", train=train, stop_after=5)
    rest, twin = trained(data, tmp_path / "part", train=train)
    torch._dynamo.reset()

    assert compiled
    assert numbers(rest) == numbers(plain)
    assert_same_weights(net, twin)
    assert_same_weights(load_weights(TinyNet(2), tmp_path / "part"), net)


def test_blocks_may_be_compiled_for_maps_of_every_size(data: ImageData) -> None:
    for warm_up in (False, True):
        net = create_model("se_resnet20", num_classes=2)
        module = Classifier(net, data, replace(RECIPE, warm_up=warm_up, ema=0.9))
        for each in (net, module.tested):
            assert [block.warm for block in se_modules(each).values()] == [warm_up] * 9


def test_what_is_finished_is_not_trained_again(data: ImageData, tmp_path: Path) -> None:
    said: list[tuple[str, int, int]] = []
    trained(data, tmp_path, stop_after=5)
    trained(data, tmp_path, said=said)

    assert said[0] == ("plain, epoch 2/3", 106, 200)


def test_each_step_has_its_images_and_its_learning_rate(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, rates = [], []
    step = Classifier.training_step

    def spied(module: Classifier, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        seen.append(tuple(batch))
        rates.append(module.trainer.optimizers[0].param_groups[0]["lr"])
        return step(module, batch, index)

    monkeypatch.setattr(Classifier, "training_step", spied)
    trained(data, tmp_path)

    passes = [tuple(batch) for e in range(3) for batch in data.train_batches(RECIPE, epoch=e)]
    torch.testing.assert_close(seen, passes, rtol=0, atol=0)
    # half an epoch of three steps rises: two of nine steps
    factors = [cosine_with_warmup(t, steps=9, warmup=2) for t in range(9)]
    assert rates == pytest.approx([RECIPE.lr * factor for factor in factors])


def test_other_classes_than_the_run_was_begun_with_are_refused(tmp_path: Path) -> None:
    """Class k of the weights would become another one."""
    trained(tiny_data(tmp_path / "a"), tmp_path / "run", stop_after=4)
    other = tiny_data(tmp_path / "b", colours=("green", "red"))

    with pytest.raises(DataError, match="'blue' is gone, 'green' is new; give the data as they"):
        trained(other, tmp_path / "run")
    kept = read_checkpoint(newest_checkpoint(tmp_path / "run") or tmp_path)
    assert kept["senet"]["classes"] == ["blue", "red"]


def test_finished_run_is_not_repeated(data: ImageData, tmp_path: Path) -> None:
    first, _ = trained(data, tmp_path)
    said: list[tuple[str, int, int]] = []
    again, _ = trained(data, tmp_path, said=said)

    assert again == first
    assert not said


def test_epochs_without_a_test(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests: list[int] = []
    monkeypatch.setattr(
        Classifier, "on_validation_epoch_start", lambda module: tests.append(module.current_epoch)
    )
    run, _ = trained(data, tmp_path, train=replace(RECIPE, epochs=4, test_every=2))

    tested = [epoch["test_accuracy"] is not None for epoch in run.epochs]
    assert tested == [False, True, False, True]
    assert tests == [1, 3]


def test_loss_that_is_no_longer_finite(data: ImageData, tmp_path: Path) -> None:
    message = r"no longer finite at step [12], in epoch 1; try a smaller lr than 1e.* no checkpoint"
    with pytest.raises(TrainingError, match=message):
        trained(data, tmp_path, train=replace(RECIPE, lr=1e30, warmup_epochs=0))
    assert finished_epochs(tmp_path) == []


def test_weights_that_the_last_step_broke_are_not_kept(data: ImageData, tmp_path: Path) -> None:
    """The loss of a step is from before it: only the test sees what the last one did."""
    once = replace(RECIPE, epochs=1, batch_size=24, lr=1e30, warmup_epochs=0)
    with pytest.raises(TrainingError, match="no longer finite in the test after step 1, in epoch"):
        trained(data, tmp_path, train=once)
    assert finished_epochs(tmp_path) == []
    assert not list(tmp_path.glob("*.ckpt"))


def test_a_test_that_fails_costs_no_epoch(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: object) -> None:
        raise DataError("image 3 of the test split cannot be read")

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "validation_step", unreadable)
        with pytest.raises(DataError, match="image 3"):
            trained(data, tmp_path / "part")
    newest = newest_checkpoint(tmp_path / "part")
    assert newest is not None
    assert step_of(newest) == 2  # of the 3 steps of an epoch
    part, net = trained(data, tmp_path / "part")
    whole, expected = trained(data, tmp_path / "whole")
    assert_same_weights(net, expected)
    assert len(part.epochs) == len(whole.epochs) == 3


def test_history_without_a_checkpoint_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "history.json").write_text(json.dumps([{"epoch": 1}]))

    assert finished_epochs(tmp_path) == []


def test_nothing_is_said(
    data: ImageData, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trained(data, tmp_path)

    assert capfd.readouterr() == ("", "")


def test_device() -> None:
    assert find_device("cpu").type == "cpu"
    assert find_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("gpu", "cuda:99", "xpu"):
        with pytest.raises(
            ConfigError, match=rf"device must be one that is here \(auto, cpu.*'{name}'"
        ):
            find_device(name)
