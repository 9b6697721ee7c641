"""What SE blocks cost: parameters, multiply-adds, bytes moved, bytes kept, and times."""

from senet.cost.measure import cost
from senet.cost.report import SCHEMA, Conditions, CostReport
from senet.cost.timing import Quartiles, Timing
from senet.cost.views import QUANTITIES, Counts, Row

__all__ = [
    "QUANTITIES",
    "SCHEMA",
    "Conditions",
    "CostReport",
    "Counts",
    "Quartiles",
    "Row",
    "Timing",
    "cost",
]
