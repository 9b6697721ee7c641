"""What SE blocks cost in a network that you have, and what leaving out the early ones saves."""

import torch
import torchvision

import senet

model = torchvision.models.resnet18()
images = torch.randn(2, 3, 64, 64)

# Read before anything is changed: the model stays as it is, a copy gets the blocks.
report = senet.cost(model, images, repeats=3)
print(report)

# Early blocks work on large maps: they add few parameters and move many bytes.
late = senet.cost(model, images, config=senet.SEConfig(stages=(4, 5)), timing=False)
print("\nSE / plain                    all stages  stages 4 and 5")
for name in ("parameters", "macs", "bytes_moved_step", "bytes_kept"):
    print(f"{name:28}  {report.total.ratio(name):10.4f}  {late.total.ratio(name):14.4f}")

# One quantity exactly, and everything for a program (`to_markdown` is for a page).
print("\n" + late.table("bytes_kept"))
assert late.to_dict()["total"]["difference"]["macs"] == late.total.difference("macs")
