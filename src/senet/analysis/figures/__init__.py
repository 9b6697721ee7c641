"""The figures: learning curves, paired accuracies, excitations by class and block, cost.

The only place with matplotlib. The input is made of plain dicts and lists, in the
form of a `senet.compare/1` result, so that a figure can be drawn again from results.json.
"""

from senet.errors import optional

with optional("a figure"):
    from senet.analysis.figures.drawing import Drawing
    from senet.analysis.figures.gate_figures import (
        excitation_depth,
        excitation_heat_map,
        excitation_profiles,
    )
    from senet.analysis.figures.run_figures import cost_bars, learning_curves, paired_accuracy

__all__ = [
    "Drawing",
    "cost_bars",
    "excitation_depth",
    "excitation_heat_map",
    "excitation_profiles",
    "learning_curves",
    "paired_accuracy",
]
