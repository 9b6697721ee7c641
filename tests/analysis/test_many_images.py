"""Memory does not grow with the images, and processes add up to one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from senet import create_model
from senet.analysis.gate_sums import GROUPS, GateSums

IN_PROCESSES = """
import sys
import torch
import torch.distributed as dist
from torch import nn
from senet import SqueezeExcitation
from senet.analysis import record_gates

torch.manual_seed(0)
torch.set_num_threads(1)
first = nn.Conv2d(3, 8, 3), SqueezeExcitation(8, 2)
net = nn.Sequential(*first, nn.Conv2d(8, 8, 3), SqueezeExcitation(8))
batches = [(torch.randn(6, 3, 9, 9), torch.randint(0, 3, (6,))) for _ in range(4)]
rank, meeting = int(sys.argv[1]), f"file://{sys.argv[2]}"
dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
classes = ["a", "b", "c"]
total = record_gates(net, batches[rank::2], classes=classes).all_reduce()
one = record_gates(net, batches, classes=classes)
for mine, whole in zip(total.blocks, one.blocks, strict=True):
    expected = whole.sums.state()
    for name, value in mine.sums.state().items():
        same = torch.equal(value, expected[name])
        if name == "map":  # in floating point
            same = torch.allclose(value, expected[name], rtol=1e-12)
        assert same, (mine.path, name)
    assert torch.equal(mine.mean, whole.mean)
    assert mine.level == whole.level and mine.specificity.mean == whole.specificity.mean
try:
    record_gates(net, batches, classes=["x", "y", str(rank)]).all_reduce()
except ValueError as error:
    print("refused:", error)
dist.destroy_process_group()
"""


def test_two_processes_are_one_to_the_last_bit(tmp_path: Path) -> None:
    script = tmp_path / "processes.py"
    script.write_text(IN_PROCESSES)
    started = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(tmp_path / "meeting")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in started:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err[-2000:]
        assert "refused: gates that are added up must be of the same classes and blocks" in out


@pytest.mark.parametrize("classes", [10, 1000])
def test_memory_of_the_largest_network_is_classes_times_channels(classes: int) -> None:
    with torch.device("meta"):
        net = create_model("se_resnet152")
    channels = [block.channels for block in net.modules() if hasattr(block, "excite")]
    total, kept = sum(channels), 0
    for each in channels[:3] + channels[-1:]:
        kept += sum(value.nbytes for value in GateSums(classes, each).state().values())
    per_channel = kept / sum(channels[:3] + channels[-1:])

    assert (len(channels), total) == (50, 47_872)
    # 8 bytes for each class, and 9 sums for each group of images: 0.43 GB with 1,000 classes
    assert per_channel < 8 * classes + 8 * 9 * GROUPS + 200
    assert total * per_channel < 0.43e9


MANY_IMAGES = """
import gc
import torch
from senet import create_model
from senet.analysis import record_gates

net = create_model("se_resnet20", num_classes=1000)

def most(batches):
    "Bytes of all tensors that are alive between batches, at most; nothing is collected."
    largest = 0

    def images():
        nonlocal largest
        for _ in range(batches):
            yield torch.randn(4, 3, 32, 32), torch.randint(0, 1000, (4,))
            alive = sum(x.nbytes for x in gc.get_objects() if type(x) is torch.Tensor)
            largest = max(largest, alive)

    record_gates(net, images(), classes=[str(k) for k in range(1000)])
    return largest

gc.disable()
few = most(2)
gc.collect()
print(few, most(12))
"""


def test_memory_does_not_grow_with_the_images() -> None:
    """In a process of its own: what other tests leave behind is alive, too."""
    done = subprocess.run(
        [sys.executable, "-c", MANY_IMAGES], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    few, many = map(int, done.stdout.split())
    assert 0 < many <= few
