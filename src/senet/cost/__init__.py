"""What SE blocks cost: parameters, multiply-adds, bytes moved, bytes kept, and times."""

from senet.cost.as_deployed import Deployed
from senet.cost.cost_report import SCHEMA, Conditions, CostReport
from senet.cost.cost_rows import QUANTITIES, Counts, Row
from senet.cost.measure import cost
from senet.cost.timing import Quartiles, Timing

__all__ = [
    "QUANTITIES",
    "SCHEMA",
    "Conditions",
    "CostReport",
    "Counts",
    "Deployed",
    "Quartiles",
    "Row",
    "Timing",
    "cost",
]
