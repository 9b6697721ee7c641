"""What the HTML pages share: Jinja2 with their templates and filters, and figures inside."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from senet.analysis import number_texts as texts
from senet.analysis.series import number
from senet.analysis.stats import proportion_interval
from senet.errors import optional

if TYPE_CHECKING:
    from jinja2 import Environment

    from senet.analysis.figures import Drawing

__all__ = ["environment"]

_TEXTS = ("decimal", "duration", "interval", "percent", "points", "quantity")


def environment(purpose: str, **filters: Callable[..., Any]) -> Environment:
    """Return Jinja2 with the templates of this package; every value is escaped.

    Args:
        purpose: what needs it, for the message about a package that is missing.
        **filters: of one page, beside those that all have.

    Raises:
        MissingPackageError: Jinja2, matplotlib or scipy is not installed, whatever is shown.
    """
    with optional(purpose):
        import scipy  # type: ignore[import-untyped]  # noqa: F401 - the intervals need it
        from jinja2 import Environment, PackageLoader

        import senet.analysis.figures  # noqa: F401 - and matplotlib with it
    made = Environment(
        loader=PackageLoader("senet.analysis", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {name: getattr(texts, name) for name in _TEXTS}
    made.filters |= {"inline": _inline, "value": _value, "wilson": _wilson, **filters}
    made.globals["none_"] = texts.NONE
    made.tests["known"] = lambda value: not math.isnan(number(value))
    return made


def _inline(drawing: Drawing) -> str:
    """The SVG of a drawing, with colours that follow the page: var(--ink, #1f2328) for #1f2328."""
    from senet.analysis.figures.drawing import COLOUR

    svg = drawing.svg()
    for name, colour in COLOUR.items():
        svg = re.sub(rf"(?<=: ){colour}\b", f"var(--{name}, {colour})", svg)
    return svg


def _wilson(accuracy: Any, images: Any) -> str:
    """The 95 % interval of an accuracy on so many test images, in percent."""
    accuracy, images = number(accuracy), number(images)
    if not (0 <= accuracy <= 1 and images >= 1):
        return texts.NONE
    interval = proportion_interval(round(accuracy * images), int(images))
    return f"{texts.decimal(100 * interval.low, 1)} to {texts.decimal(100 * interval.high, 1)}"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
