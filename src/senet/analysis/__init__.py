"""Looking at results: what seeds can say, what the gates do, and one page that shows it.

`senet.analysis.figures` draws (it alone loads matplotlib, so it is imported by name).
"""

from senet.analysis.gate_costs import BlockCost, GateCosts, gate_costs
from senet.analysis.gate_statistics import BlockGates
from senet.analysis.gates import Gates
from senet.analysis.record import record_gates
from senet.analysis.report import render_report
from senet.analysis.series import summarise
from senet.analysis.stats import (
    Estimate,
    MeanStd,
    PairedDifference,
    ProportionInterval,
    mean_std,
    paired_difference,
    proportion_interval,
    verdict,
)

__all__ = [
    "BlockCost",
    "BlockGates",
    "Estimate",
    "GateCosts",
    "Gates",
    "MeanStd",
    "PairedDifference",
    "ProportionInterval",
    "gate_costs",
    "mean_std",
    "paired_difference",
    "proportion_interval",
    "record_gates",
    "render_report",
    "summarise",
    "verdict",
]
