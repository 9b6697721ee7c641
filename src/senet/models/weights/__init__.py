"""Published weights: reading them, matching them with a network, and what images they expect."""

from senet.models.weights.convert import convert_weights
from senet.models.weights.load import WeightsReport, load_weights
from senet.models.weights.preprocess import CAFFE, IMAGENET, Preprocessing, preprocessing

__all__ = [
    "CAFFE",
    "IMAGENET",
    "Preprocessing",
    "WeightsReport",
    "convert_weights",
    "load_weights",
    "preprocessing",
]
