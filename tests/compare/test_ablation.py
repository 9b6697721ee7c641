"""The ablations: the paper's rows, each variant trained once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from senet.compare import ARMS, ablate
from senet.compare.ablation import BLOCKS, TABLES, _table
from senet.compare.experiment import Experiment
from senet.errors import ConfigError
from senet.training import DataConfig, TrainConfig
from senet.training.config import RunConfig
from senet.training.data import load_data

# arms of senet compare that are in no table
CONTROLS = {"constant", "se-only", "bn-only", "head-only"}


OPTIONS: dict[str, Any] = {
    "data": DataConfig(train_images=64),
    "train": TrainConfig(epochs=1, batch_size=32),
    "device": "cpu",
    "seeds": 1,
}


class Ablated(NamedTuple):
    """Table 11, and the same folder gone on with to tables 11 and 15."""

    out: Path
    first: dict[str, Any]
    stamps: dict[Path, int]
    result: dict[str, Any]


@pytest.fixture(scope="module")
def ablated(tmp_path_factory: pytest.TempPathFactory) -> Ablated:
    out = tmp_path_factory.mktemp("ablated")
    first = ablate(**OPTIONS, out=out, tables=(11,))
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.ckpt")}
    return Ablated(out, first, stamps, ablate(**OPTIONS, out=out, tables=(11, 15)))


def test_ablation_trains_each_variant_once_and_goes_on(ablated: Ablated) -> None:
    out, first, stamps, result = ablated

    assert {run["variant"] for run in result["runs"]} == {"se", "max", "inner"}
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert result["tables"][0] == first["tables"][0]
    assert result["majority_share"] == 61 / 599
    row = result["tables"][0]["rows"][0]
    assert (row["name"], row["paper_error"], row["paper_difference"]) == ("max", 22.57, 0.29)
    assert row["direction"] == "open"  # one seed has no interval
    with pytest.raises(ConfigError, match="holds an ablation with another train"):
        ablate(**{**OPTIONS, "train": TrainConfig(epochs=2)}, out=out)


@pytest.mark.parametrize("model", ["se_resnet20", "timm/seresnet18"])
def test_a_network_with_se_has_no_row_without(model: str, tmp_path: Path) -> None:
    data = DataConfig(train_images=64, image_size=32)
    with pytest.raises(ConfigError, match="model must be a network without SE blocks"):
        ablate(model=model, data=data, tables=(10,), seeds=1, out=tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_one_seed_is_the_same_network_only_where_it_computes_the_same(ablated: Ablated) -> None:
    """resnet20's units end with their 3x3 convolution, so that is what SE_3x3 is there; a tie of
    accuracies is not."""
    result = ablated.result
    rows = {row["variant"]: row for table in result["tables"] for row in table["rows"]}
    assert rows["inner"]["direction"] == "the same network"
    assert rows["max"]["direction"] == "open"
    runs = [{**run, "error": 0.5} for run in result["runs"]]  # a tie
    assert _table(11, runs)["rows"][0]["direction"] == "open"


def test_tables_are_the_papers() -> None:
    """Top-1 errors of tables 10-16, and that each variant is what its row says."""
    listed = {number: [row.paper for row in rows] for number, (_, _, rows) in TABLES.items()}
    assert listed == {
        10: [22.29, 22.25, 22.26, 22.28, 22.72, 23.30],
        11: [22.57, 22.28],
        12: [23.47, 23.00, 22.28],
        13: [23.30, 23.03, 23.04, 22.68, 22.28],
        14: [22.28, 22.23, 22.78, 22.20],
        15: [22.28, 22.48],
        16: [23.30, 22.93, 22.28],
    }
    assert {row.variant for _, _, rows in TABLES.values() for row in rows} == set(ARMS) - CONTROLS
    made = Experiment(
        RunConfig("resnet20", se=BLOCKS), tuple(ARMS), 1, torch.device("cpu"), Path("unused")
    )
    blocks = {name: made.of(name, 0).se for name in ARMS}
    assert blocks["plain"] is None
    assert all(each is None or not each.bias for each in blocks.values())
    data = load_data(DataConfig(), input_size=(1, 8, 8))
    for name in ARMS:
        net = made.network(name, 0, data)
        assert net.eval()(torch.zeros(1, 1, 8, 8)).shape == (1, 10), name
