"""`senet.compare.compare`: two networks that differ in SE alone; stopped, it goes on as if not."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from senet import SEConfig, se_modules
from senet.analysis import render_report
from senet.compare.experiment import Experiment
from senet.errors import ConfigError, DataError, MissingPackageError
from senet.training import DataConfig, TrainConfig
from senet.training.config import RunConfig
from senet.training.data import load_data
from senet.training.loop.module import Classifier
from senet.training.loop.stopping import Stop
from training.tiny import RECIPE, TinyNet, compared, image_folder, tiny_net


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    folder = image_folder(tmp_path_factory.mktemp("data") / "images")
    return DataConfig(str(folder), image_size=8)


@pytest.fixture(autouse=True)
def _fast_report(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The report has its own tests, and drawing takes longer than all else here."""
    monkeypatch.setattr("senet.compare.comparison.render_report", lambda result: result["state"])


def interrupted(
    coloured: DataConfig, out: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> Any:
    """A comparison that the user stops after so many steps."""
    stops: list[Stop] = []
    make, steps = Stop.__init__, 0

    def remember(stop: Stop) -> None:
        make(stop)
        stops.append(stop)

    def progress(what: str, _done: int, _total: int) -> None:
        nonlocal steps
        steps += "epoch" in what and "train loss" not in what  # that is what an epoch came to
        if steps == after:
            stops[0].requested = True

    with monkeypatch.context() as patched:
        patched.setattr(Stop, "__init__", remember)
        return compared(coloured, out, on_progress=progress)


def without_clock(result: dict[str, Any]) -> dict[str, Any]:
    """The result but for what another run may have otherwise."""
    kept = {name: result[name] for name in ("config", "data", "summary", "cost", "excitations")}
    runs = json.loads(json.dumps(result["runs"]))
    for run in runs:
        del run["seconds"]
        for epoch in run["epochs"]:
            del epoch["seconds"]
    return kept | {"runs": runs}


@pytest.fixture(scope="module")
def finished(coloured: DataConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    compared(coloured, out)
    return out


def read(out: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((out / "results.json").read_text())
    return results


# ---- the result


def test_result_has_the_schema(finished: Path) -> None:
    result = read(finished)

    assert list(result) == [
        *("schema", "state", "command", "versions", "device", "date", "config", "data"),
        *("runs", "summary", "worth", "cost", "excitations", "folded"),
    ]
    assert (result["schema"], result["state"]) == ("senet.compare/2", "done")
    assert [(run["arch"], run["seed"], run["state"]) for run in result["runs"]] == [
        *(("plain", 0, "done"), ("se", 0, "done"), ("plain", 1, "done"), ("se", 1, "done"))
    ]
    for run in result["runs"]:
        assert [epoch["epoch"] for epoch in run["epochs"]] == [1, 2, 3]
        assert run["test_accuracy"] == run["epochs"][-1]["test_accuracy"]
        assert run["seconds"] == pytest.approx(sum(epoch["seconds"] for epoch in run["epochs"]))
        (blue, _), _ = run["confusion"]
        assert blue + 4 * run["per_class"]["red"]["proportion"] == 8 * run["test_accuracy"]
    assert result["config"]["model"] == "tiny_net"
    assert result["config"]["seeds"] == [0, 1]
    assert result["config"]["se"] == SEConfig().to_dict()
    assert result["data"]["classes"] == ["blue", "red"]


def test_summary_is_that_of_the_runs(finished: Path) -> None:
    result = read(finished)
    summary, runs = result["summary"], result["runs"]
    gaps = [runs[1]["test_accuracy"] - runs[0]["test_accuracy"]]
    gaps += [runs[3]["test_accuracy"] - runs[2]["test_accuracy"]]

    (entry,) = summary["differences"]
    assert [of["n"] for of in (*summary["arms"].values(), entry["difference"])] == [2, 2, 2]
    assert entry["difference"]["mean"] == pytest.approx(sum(gaps) / 2)
    assert isinstance(summary["verdict"], str)


def test_cost_and_excitations_are_those_of_the_network(finished: Path) -> None:
    result = read(finished)

    # two blocks of 8 channels with one hidden unit: 8 + 1 + 8 + 8
    assert result["cost"]["total"]["difference"]["parameters"] == 2 * 25
    assert result["excitations"]["classes"] == ["blue", "red"]
    block, _ = result["excitations"]["blocks"]
    assert block["channels"] == len(block["mean"][0]) == 8
    assert block["overall_mean"] != 1.0  # trained, no longer the identity


def test_report_is_one_page(finished: Path) -> None:
    page = (finished / "report.html").read_text()

    assert "tiny_net" in page
    assert "Answers by class, SE" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_folder_has_what_the_pages_say(finished: Path) -> None:
    paths = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}

    runs = [f"{arch}-seed{seed}" for arch in ("plain", "se") for seed in (0, 1)]
    names = ("history.csv", "history.json", "outcomes.safetensors", "run.json")
    files = [f"runs/{run}/{name}" for run in runs for name in names]
    files += [f"runs/se-seed{seed}/gates.csv" for seed in (0, 1)]
    checkpoints = {name for name in paths if name.endswith(".ckpt")}
    assert sorted(paths - checkpoints) == sorted(["report.html", "results.json", *files])
    assert sorted(Path(name).parent.name for name in checkpoints) == sorted(2 * runs)


def test_same_options_same_numbers(coloured: DataConfig, finished: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)

    assert without_clock(compared(coloured, tmp_path / "out")) == without_clock(read(finished))


# ---- what is compared


def test_networks_share_their_weights_and_their_function(
    coloured: DataConfig, tmp_path: Path
) -> None:
    data = load_data(coloured, input_size=(3, 8, 8))
    config = RunConfig(tiny_net, None, SEConfig(), coloured, RECIPE)
    made = Experiment(config, ("plain", "se"), 2, torch.device("cpu"), tmp_path)
    images = made.some_images(data)
    state = torch.random.get_rng_state()
    plain_net, se_net = made.network("plain", 0, data), made.network("se", 0, data)
    again, other = made.network("se", 0, data), made.network("plain", 1, data)

    assert torch.equal(torch.random.get_rng_state(), state)
    assert len(se_modules(se_net)) == 2
    plain, se = plain_net.state_dict(), se_net.state_dict()
    assert all(torch.equal(plain[key], se[key]) for key in plain)
    torch.testing.assert_close(plain_net.eval()(images), se_net.eval()(images), rtol=0, atol=0)
    torch.testing.assert_close(dict(se), dict(again.state_dict()), rtol=0, atol=0)
    assert not torch.equal(plain["linear.weight"], other.state_dict()["linear.weight"])


def test_both_networks_see_the_same_images(
    coloured: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[tuple[str, int], list[Tensor]] = defaultdict(list)
    step = Classifier.training_step

    def spied(module: Classifier, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        arch = "se" if se_modules(module.net) else "plain"
        seen[arch, module.train_config.seed] += [part.clone() for part in batch]
        return step(module, batch, index)

    monkeypatch.setattr(Classifier, "training_step", spied)
    compared(coloured, tmp_path / "out")

    for seed in (0, 1):
        assert len(seen["plain", seed]) == 2 * 9
        torch.testing.assert_close(seen["plain", seed], seen["se", seed], rtol=0, atol=0)
    assert not torch.equal(seen["plain", 0][0], seen["plain", 1][0])


# ---- interruption


@pytest.mark.parametrize("after", [4, 14])
def test_interrupted_comparison_goes_on_to_the_same_end(
    coloured: DataConfig,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
) -> None:
    """Stopped in the second epoch of the first run, and of the second."""
    out = tmp_path / "out"
    part = interrupted(coloured, out, monkeypatch, after)

    assert part == read(out)
    assert part["state"] == "partial"
    assert [run["state"] for run in part["runs"]] == ["done"] * (after // 9) + ["partial"]
    assert len(part["runs"][-1]["epochs"]) == 1
    assert "no seed has both runs" in part["summary"]["verdict"]
    assert (out / "report.html").read_text() == "partial"

    whole = compared(coloured, out, resume=True)
    assert whole["state"] == "done"
    assert without_clock(whole) == without_clock(read(finished))
    gates = Path("runs/se-seed0/gates.csv")
    assert (out / gates).read_bytes() == (finished / gates).read_bytes()
    assert len((out / gates).read_text().splitlines()) == 1 + 3 * 2  # of two blocks, each epoch


def test_finished_runs_are_not_repeated(
    coloured: DataConfig, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    interrupted(coloured, out, monkeypatch, 9 + 1)
    said: list[str] = []
    compared(coloured, out, resume=True, on_progress=lambda what, *_: said.append(what))

    assert not any(what.startswith("plain, seed 1/2") for what in said)
    assert any(what.startswith("SE, seed 1/2") for what in said)
    assert "measuring the cost" not in said


def test_resume_where_nothing_is_begins(coloured: DataConfig, tmp_path: Path) -> None:
    train = TrainConfig(epochs=1, batch_size=8)

    result = compared(coloured, tmp_path / "out", resume=True, seeds=1, train=train)
    assert result["state"] == "done"
    assert result["summary"]["verdict"] == "one seed: no interval, no verdict"


def test_a_folder_of_the_first_schema_is_gone_on_with(
    coloured: DataConfig, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    part = interrupted(coloured, out, monkeypatch, 9 + 1)
    means = part["summary"]["arms"]
    del part["config"]["arms"]
    part["schema"] = "senet.compare/1"
    part["summary"] = {**means, "difference": None, "verdict": "open"}
    (out / "results.json").write_text(json.dumps(part))

    with pytest.raises(ConfigError, match="arms was"):
        compared(coloured, out, resume=True, arms=("plain", "constant"))
    whole = compared(coloured, out, resume=True)
    assert whole["schema"] == "senet.compare/2"
    assert without_clock(whole) == without_clock(read(finished))


def test_resume_with_other_options_is_refused(coloured: DataConfig, finished: Path) -> None:
    before = read(finished)
    train = TrainConfig(**(RECIPE.to_dict() | {"epochs": 4, "lr": 0.1}))

    with pytest.raises(
        ConfigError,
        match=r"same options, but epochs was 3, is 4; lr was 0.05, is 0.1; se.red.*16.*8",
    ):
        compared(coloured, finished, resume=True, train=train, se=SEConfig(reduction=8))
    assert read(finished) == before


def test_resume_with_other_classes_is_refused(tmp_path: Path) -> None:
    folder, train = image_folder(tmp_path / "a"), TrainConfig(epochs=1, batch_size=8)
    given = DataConfig(str(folder), image_size=8)
    compared(given, tmp_path / "out", seeds=1, train=train)
    for split in ("train", "test"):
        (folder / split / "blue").rename(folder / split / "sky")

    with pytest.raises(DataError, match="'blue' is gone, 'sky' is new"):
        compared(given, tmp_path / "out", seeds=1, train=train, resume=True)


def test_a_package_that_the_report_lacks_is_missed_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(result: Any) -> str:
        raise MissingPackageError("the HTML report needs the package matplotlib")

    monkeypatch.setattr("senet.compare.comparison.render_report", lacking)
    with pytest.raises(MissingPackageError, match="matplotlib"):
        compared(DataConfig("digits"), tmp_path / "out", seeds=1)

    assert not (tmp_path / "out").exists()


def test_networks_that_answer_one_class_only_are_named(tmp_path: Path) -> None:
    """Three of four images are blue, and a rate this small learns nothing else."""
    folder = image_folder(tmp_path / "f", colours=("blue",), train=30, test=30)
    image_folder(tmp_path / "f", colours=("red",), train=10, test=10)

    class Stubborn(TinyNet):
        def __init__(self, num_classes: int, in_chans: int) -> None:
            super().__init__(num_classes, in_chans)
            with torch.no_grad():
                self.linear.weight.zero_()
                self.linear.bias[0] = 1.0

    recipe = TrainConfig(epochs=1, batch_size=8, lr=1e-9)
    given = DataConfig(str(folder), image_size=8)
    result = compared(given, tmp_path / "out", model=Stubborn, train=recipe)
    summary = result["summary"]
    assert summary["majority_share"] == 0.75
    assert {run["only_answer"] for run in result["runs"]} == {"blue"}
    assert all(run["balanced_accuracy"] == 0.5 for run in result["runs"])
    assert summary["warning"].startswith("4 of 4 networks answer one class only (blue)")
    page = render_report(result)
    assert "they tell no classes apart" in page
    assert "Always answering the largest class would give 75" in page


def test_each_measure_has_its_interval_in_pairs(coloured: DataConfig, tmp_path: Path) -> None:
    train = TrainConfig(epochs=1, batch_size=8, lr=0.05, warmup_epochs=0.5)
    result = compared(coloured, tmp_path, seeds=3, train=train)
    for name in ("test_loss", "balanced_accuracy", "macro_f1"):
        measure = result["summary"]["measures"][name]
        of = {(run["arch"], run["seed"]): run[name] for run in result["runs"]}
        gaps = [of["se", seed] - of["plain", seed] for seed in range(3)]
        [difference] = [each["difference"] for each in measure["differences"]]
        half = stats.t.ppf(0.975, 2) * np.std(gaps, ddof=1) / 3**0.5
        assert difference["mean"] == pytest.approx(np.mean(gaps))
        assert difference["low"] == pytest.approx(np.mean(gaps) - half)
        of_se = np.mean([of["se", seed] for seed in range(3)])
        assert measure["arms"]["se"]["mean"] == pytest.approx(of_se)
    assert result["summary"]["measures"]["top5"]["arms"] == {"plain": None, "se": None}
    page = render_report(result)
    assert "The evidence" in page
    assert "other images" in page
    assert "macro F1, %" in page
