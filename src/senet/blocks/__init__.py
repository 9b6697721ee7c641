"""The modules: the SE block and the batch norms that contain one."""

from senet.blocks.batchnorm import SEBatchNorm1d, SEBatchNorm2d, SEBatchNorm3d
from senet.blocks.squeeze_excitation import Gate, SqueezeExcitation

__all__ = ["Gate", "SEBatchNorm1d", "SEBatchNorm2d", "SEBatchNorm3d", "SqueezeExcitation"]
