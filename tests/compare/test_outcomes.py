"""What a network says of each test image is kept, and says what the run says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from senet.compare.outcomes import FORMAT, read_outcomes
from senet.errors import DataError
from senet.training import DataConfig, TrainConfig
from training.tiny import COLOURS, compared, image_folder


@pytest.fixture(autouse=True)
def _fast_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("senet.compare.comparison.render_report", lambda result: result["state"])


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    root = tmp_path_factory.mktemp("data")
    folder = image_folder(root / "images", train=6, test=5, colours=tuple(COLOURS))
    return DataConfig(str(folder), image_size=8)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_outcomes_are_those_of_the_run(
    coloured: DataConfig, tmp_path: Path, precision: str
) -> None:
    train = TrainConfig(epochs=1, batch_size=4, lr=0.02, warmup_epochs=0, precision=precision)
    result = compared(coloured, tmp_path / "out", train=train, seeds=1)

    for run in result["runs"]:
        kept = read_outcomes(tmp_path / "out" / "runs" / f"{run['arch']}-seed0")
        right = (kept.label == kept.answer).double()
        assert kept.label.tolist() == [0] * 5 + [1] * 5 + [2] * 5
        assert right.mean().item() == run["test_accuracy"]
        assert kept.loss.mean().item() == pytest.approx(run["test_loss"], rel=1e-5)
        assert kept.top5 is None  # of three classes
    path = tmp_path / "out" / "runs" / "se-seed0" / "outcomes.safetensors"
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": FORMAT}


def test_intervals_over_images_stand_beside_those_over_seeds(
    coloured: DataConfig, tmp_path: Path
) -> None:
    train = TrainConfig(epochs=1, batch_size=4, lr=0.02, warmup_epochs=0)
    options: dict[str, Any] = {"train": train, "seeds": 2, "arms": ("plain", "se", "constant")}
    out = tmp_path / "out"
    result = compared(coloured, out, **options)

    summary = result["summary"]
    for place, entry in enumerate(summary["differences"]):
        for of in (entry, *(m["differences"][place] for m in summary["measures"].values())):
            if of["difference"] is None:  # top-5 of three classes
                assert of["over_images"] is None
                continue
            interval = of["over_images"]
            assert interval["mean"] == pytest.approx(of["difference"]["mean"], abs=1e-6)
            assert (interval["images"], interval["seeds"]) == (15, 2)
            assert interval["low"] is None or interval["low"] < interval["high"]
    assert summary["power"]["estimate"] == "2 pairs"

    # a comparison from before this was kept: --resume tests the networks that it has
    for path in out.rglob("outcomes.safetensors"):
        path.unlink()
    again = compared(coloured, out, resume=True, **options)
    assert again["summary"] == summary

    path.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"outcomes\.safetensors cannot be read .* delete it"):
        compared(coloured, out, resume=True, **options)
    assert json.loads((out / "results.json").read_text())["schema"] == "senet.compare/2"
