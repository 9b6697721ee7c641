"""The main job: the same network without and with SE blocks, trained side by side."""

from senet.compare.running import compare

__all__ = ["compare"]
