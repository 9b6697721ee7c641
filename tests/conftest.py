"""What every test shares: one thread, one seed, the folder of real data beside the repository."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from environments import Environment

# The tests run in several processes at once; and one thread makes sums come in one order.
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device, and torch sees none")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_page_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing the page of a run takes longer than the runs of most tests.

    It is drawn for the run that tests share (`run` in training/conftest.py).
    """
    if job := sys.modules.get("senet.training.job"):
        monkeypatch.setattr(job, "render_report", lambda *_, **__: "")


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data that are not part of the repository; the test is skipped where they are missing."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the real data in ../shared/data, which are not part of the repository")
    return folder


@pytest.fixture(scope="session")
def core(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment as `pip install senet` leaves it."""
    return Environment(tmp_path_factory.mktemp("core"))
