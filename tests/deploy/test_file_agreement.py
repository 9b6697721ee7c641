"""A file is compared output by output, on images that it takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import senet
from deploy.as_trained import Bottleneck
from senet.deploy import engines
from senet.errors import ExportError, InputError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def images() -> Tensor:
    return torch.randn(2, 3, 12, 12)


class Returning(nn.Module):
    """A network that returns maps in some container."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.net = kind, nn.Sequential(nn.Conv2d(3, 8, 3), Bottleneck(2))

    def forward(self, x: Tensor) -> Any:
        y = self.net(x)
        z = y.mean((2, 3))
        kinds = {"dict": {"out": y, "aux": z}, "nested": (y, [z]), "classes": (z, z.argmax(1))}
        return kinds | {"mask": y > 0} if self.kind == "all" else kinds[self.kind]


@pytest.mark.parametrize("kind", ["dict", "nested", "classes", "all"])
def test_outputs_in_any_container(tmp_path: Path, kind: str) -> None:
    """As segmentation networks of torchvision return them."""
    report = senet.export(Returning(kind).eval(), tmp_path / "net.pt2", images())

    returned = senet.load_exported(tmp_path / "net.pt2").run(images())
    assert len(returned) == (7 if kind == "all" else 2)
    assert report.difference < 1e-5


@pytest.mark.parametrize(("place", "wrong"), [(1, 2.0), (1, float("nan")), (0, float("nan"))])
def test_each_output_must_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int, wrong: float
) -> None:
    """A small output beside a large one, and one that is not a number."""
    right = engines.ENGINES["pt2"]

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return 1e6 * self.conv(x), torch.sigmoid(self.conv(x))

    def broken(given: Path) -> Any:
        loaded = right.read(given)
        run = lambda x: [y * wrong if k == place else y for k, y in enumerate(loaded.run(x))]  # noqa: E731
        return replace(loaded, run=run)

    monkeypatch.setitem(engines.ENGINES, "pt2", replace(right, read=broken))
    with pytest.raises(ExportError, match="must compute what the network does"):
        senet.export(Both().eval(), tmp_path / "net.pt2", images())
    assert list(tmp_path.iterdir()) == []


WRONG_IMAGES: list[tuple[Any, dict[str, Any], str]] = [
    (torch.zeros(2, 3, 14, 12), {}, "N x 3 x 12 x 12, N at least 1, got 2 x 3 x 14 x 12; dynamic"),
    (torch.zeros(2, 1, 12, 12), {"dynamic_size": True}, "N x 3 x any x any, .*got 2 x 1 x 12 x 12"),
    (torch.zeros(0, 3, 12, 12), {}, "N at least 1, got 0 x 3"),
    (torch.zeros(1, 3, 12, 12), {"dynamic_batch": False}, "N at least 2, got 1 x 3"),
    (torch.zeros(3, 12, 12), {}, "got 3 x 12 x 12"),
    ([torch.zeros(3, 12, 12)], {}, "got list"),
]


@pytest.mark.parametrize("name", ["images", "int8"])
@pytest.mark.parametrize(("given", "options", "message"), WRONG_IMAGES)
def test_images_that_a_file_does_not_take(
    tmp_path: Path, name: str, given: Any, options: dict[str, Any], message: str
) -> None:
    path = tmp_path / ("net.onnx" if name == "int8" else "net.pt2")
    with pytest.raises(InputError, match=f"^{name} must be a tensor of images .*{message}"):
        senet.export(nn.Conv2d(3, 4, 1), path, images(), **{name: given}, **options)
    assert list(tmp_path.iterdir()) == []
