"""`senet.training.data.opened_image` under its older name."""

from senet.training.data import opened_image

__all__ = ["opened_image"]
