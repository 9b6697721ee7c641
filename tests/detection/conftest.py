"""What the tests of detection share: images with boxes, and a finished run on them."""

from __future__ import annotations

from pathlib import Path

import pytest

import senet
from detection.shapes import scene, write_voc
from detection.tiny_runs import CPU, SIZE, tiny
from senet.detection.detector_runs import train_detector


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scenes = {
        "train": [scene(k, SIZE) for k in range(9)],
        "val": [scene(100 + k, SIZE) for k in range(5)],
    }
    return write_voc(tmp_path_factory.mktemp("boxes"), scenes, SIZE)


@pytest.fixture(scope="session")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("runs") / "run"
    with senet.use_backend("reference"):
        result = train_detector(tiny(data), out=out, placement=CPU)
    assert result["state"] == "done"
    return out
