"""Experiments: a network without and with SE blocks, side by side, and the paper's ablations."""

from senet.compare.ablation import ablate
from senet.compare.arms import ARMS, Arm
from senet.compare.comparison import compare
from senet.compare.summary import power_of

__all__ = ["ARMS", "Arm", "ablate", "compare", "power_of"]
