"""The modules: the SE block and the batch norms that contain one."""

from senet.blocks.batchnorm import (
    SEBatchNorm1d,
    SEBatchNorm2d,
    SEBatchNorm3d,
    SESyncBatchNorm,
)
from senet.blocks.branches import branch_tail
from senet.blocks.channel_scale import ChannelScale
from senet.blocks.fusion import residual_tail
from senet.blocks.squeeze_excitation import Gate, SqueezeExcitation
from senet.blocks.warming import warm_up

__all__ = [
    "ChannelScale",
    "Gate",
    "SEBatchNorm1d",
    "SEBatchNorm2d",
    "SEBatchNorm3d",
    "SESyncBatchNorm",
    "SqueezeExcitation",
    "branch_tail",
    "residual_tail",
    "warm_up",
]
