"""Networks by name: the paper's, torchvision's and timm's, with random weights."""

from senet.models.features import backbone
from senet.models.hub import from_pretrained, push_to_hub, save_pretrained
from senet.models.nets.cifar import CifarResNet
from senet.models.nets.classifier import Classifier
from senet.models.nets.inception import BNInception
from senet.models.nets.preact import PreActResNet
from senet.models.nets.resnet import ResNet
from senet.models.nets.shake import ShakeNet
from senet.models.nets.shufflenet import ShuffleNet
from senet.models.registry import NETWORKS, create_model, input_size, list_models
from senet.models.timm_registry import register_with_timm

__all__ = [
    "NETWORKS",
    "BNInception",
    "CifarResNet",
    "Classifier",
    "PreActResNet",
    "ResNet",
    "ShakeNet",
    "ShuffleNet",
    "backbone",
    "create_model",
    "from_pretrained",
    "input_size",
    "list_models",
    "push_to_hub",
    "register_with_timm",
    "save_pretrained",
]
