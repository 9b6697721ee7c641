"""The main job: the same network without and with SE blocks, trained side by side."""

from senet.compare.comparison import compare

__all__ = ["compare"]
