"""Looking at results: what seeds can say, what the gates do, and one page that shows it.

`senet.analysis.figures` draws (it alone loads matplotlib, so it is imported by name).
"""

from senet.analysis.excitations import BlockExcitations, Excitations
from senet.analysis.record import ExcitationRecorder, record_excitations
from senet.analysis.report import render_report
from senet.analysis.series import summarise
from senet.analysis.stats import (
    MeanStd,
    PairedDifference,
    ProportionInterval,
    mean_std,
    paired_difference,
    proportion_interval,
    verdict,
)

__all__ = [
    "BlockExcitations",
    "ExcitationRecorder",
    "Excitations",
    "MeanStd",
    "PairedDifference",
    "ProportionInterval",
    "mean_std",
    "paired_difference",
    "proportion_interval",
    "record_excitations",
    "render_report",
    "summarise",
    "verdict",
]
