"""`senet.training.data.open_split` under its older name."""

from senet.training.data import open_split, open_splits

__all__ = ["open_split", "open_splits"]
