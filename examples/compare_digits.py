"""Is SE worth it on these data? Train a network without and with it, alike in everything else.

The command for this is `senet compare`; from Python it is one call. This example is short, two
pairs of two epochs; a real question deserves more of both.
"""

from pathlib import Path

import senet
from senet.compare import compare
from senet.training import DataConfig, TrainConfig

result = compare(
    model="resnet20",  # or "torchvision/resnet18", "timm/..."
    data=DataConfig("digits"),  # or an image folder, "hfds/PATH_OR_NAME", "torch/cifar10" ...
    train=TrainConfig(epochs=2, lr=0.1),
    se=senet.SEConfig(reduction=16),
    seeds=2,
    out=Path("runs") / "compare_digits",
    resume=True,  # called again, it goes on where it was
    timing=False,
)

for run in result["runs"]:
    print(f"{run['arch']:5} seed {run['seed']}: {run['test_accuracy']:.1%} of the test images")

difference = result["summary"]["differences"][0]["difference"]
low, high = (100 * difference[end] for end in ("low", "high"))
print(
    f"SE - plain: {100 * difference['mean']:+.1f} points, 95 % interval [{low:+.1f}, {high:+.1f}]"
)
print(result["summary"]["verdict"])

added = result["cost"]["total"]["difference"]
print(f"SE adds {added['parameters']:,} parameters")
assert all(run["state"] == "done" for run in result["runs"])
