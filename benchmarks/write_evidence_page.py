"""The page of `benchmarks/evidence.py`, from its JSON files."""

from __future__ import annotations

from typing import Any

__all__ = ["page"]


def page(parts: dict[str, Any]) -> str:
    """The page, of the parts that are there."""
    return f"# Does SE help?\n\n{len(parts)} parts\n"
