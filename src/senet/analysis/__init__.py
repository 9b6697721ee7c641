"""Looking at results: what seeds can say, what the gates do, and one page that shows it.

`senet.analysis.figures` draws (it alone loads matplotlib, so it is imported by name).
"""

from senet.analysis.gate_classes import (
    ClassContrast,
    Similarity,
    class_contrast,
    class_similarity,
)
from senet.analysis.gate_costs import BlockCost, GateCosts, gate_costs
from senet.analysis.gate_files import write_gates
from senet.analysis.gate_findings import findings
from senet.analysis.gate_page import render_gates
from senet.analysis.gate_statistics import BlockGates
from senet.analysis.gates import Gates
from senet.analysis.image_gates import ImageGates, image_gates
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
    "ClassContrast",
    "Estimate",
    "GateCosts",
    "Gates",
    "ImageGates",
    "MeanStd",
    "PairedDifference",
    "ProportionInterval",
    "Similarity",
    "class_contrast",
    "class_similarity",
    "findings",
    "gate_costs",
    "image_gates",
    "mean_std",
    "paired_difference",
    "proportion_interval",
    "record_gates",
    "render_gates",
    "render_report",
    "summarise",
    "verdict",
    "write_gates",
]
