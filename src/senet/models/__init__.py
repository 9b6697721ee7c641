"""Networks by name: the project's own, torchvision's and timm's, with random weights."""

from senet.models.cifar import CifarResNet
from senet.models.registry import create_model, input_size, list_models

__all__ = ["CifarResNet", "create_model", "input_size", "list_models"]
