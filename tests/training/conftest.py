"""The run that the tests of `senet train` and `senet eval` look at: trained once, never changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from senet.training.job import train
from training.tiny import CONFIG, CPU


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "a"
    train(CONFIG, out=out, placement=CPU, command="senet train")
    return out
