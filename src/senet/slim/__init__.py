"""Taking away what does nothing: gates that a constant can replace go into the weights."""

from senet.slim.folds import Fold, FoldCost, FoldPlan
from senet.slim.gate_folding import Folding, fold
from senet.slim.planning import find_folds
from senet.slim.pruning import prune
from senet.slim.slimming import slim

__all__ = ["Fold", "FoldCost", "FoldPlan", "Folding", "find_folds", "fold", "prune", "slim"]
