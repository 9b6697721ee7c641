"""The figures: learning curves, paired accuracies, excitations by class and block, cost,
images.

The only place with matplotlib. The input is made of plain dicts and lists, in the
form of a `senet.compare/1` result, so that a figure can be drawn again from results.json.
"""

from senet.errors import optional

with optional("a figure"):
    from senet.analysis.figures.block_figures import block_costs, gates_over_time
    from senet.analysis.figures.class_figures import (
        class_differences,
        confusion_map,
        similarity_map,
    )
    from senet.analysis.figures.drawing import Drawing
    from senet.analysis.figures.gate_figures import (
        excitation_depth,
        excitation_heat_map,
        excitation_profiles,
    )
    from senet.analysis.figures.image_figures import image_itself, image_maps, image_strips
    from senet.analysis.figures.run_figures import (
        cost_bars,
        epoch_curves,
        learning_curves,
        paired_accuracy,
    )

__all__ = [
    "Drawing",
    "block_costs",
    "class_differences",
    "confusion_map",
    "cost_bars",
    "epoch_curves",
    "excitation_depth",
    "excitation_heat_map",
    "excitation_profiles",
    "gates_over_time",
    "image_itself",
    "image_maps",
    "image_strips",
    "learning_curves",
    "paired_accuracy",
    "similarity_map",
]
