"""Squeeze-and-excitation for any convolutional network.

    import senet

    report = senet.insert(model, torch.zeros(1, 3, 224, 224))
    print(report)

`import senet` loads torch and nothing heavier.
"""

from senet import functional
from senet.blocks import (
    SEBatchNorm1d,
    SEBatchNorm2d,
    SEBatchNorm3d,
    SESyncBatchNorm,
    SqueezeExcitation,
)
from senet.cost import CostReport, cost
from senet.errors import SenetError
from senet.insertion import (
    InsertionReport,
    SEConfig,
    SEParameters,
    Site,
    SitePlan,
    convert_sync_batchnorm,
    find_sites,
    insert,
    load,
    remove,
    save,
    se_modules,
    se_parameters,
)
from senet.models import (
    backbone,
    create_model,
    from_pretrained,
    list_models,
    push_to_hub,
    register_with_timm,
    save_pretrained,
)
from senet.models.weights import convert_weights, load_weights, preprocessing
from senet.ops import backend, set_backend, use_backend

__version__ = "0.1.0.dev0"

__all__ = [
    "CostReport",
    "InsertionReport",
    "SEBatchNorm1d",
    "SEBatchNorm2d",
    "SEBatchNorm3d",
    "SEConfig",
    "SEParameters",
    "SESyncBatchNorm",
    "SenetError",
    "Site",
    "SitePlan",
    "SqueezeExcitation",
    "backbone",
    "backend",
    "convert_sync_batchnorm",
    "convert_weights",
    "cost",
    "create_model",
    "find_sites",
    "from_pretrained",
    "functional",
    "insert",
    "list_models",
    "load",
    "load_weights",
    "preprocessing",
    "push_to_hub",
    "register_with_timm",
    "remove",
    "save",
    "save_pretrained",
    "se_modules",
    "se_parameters",
    "set_backend",
    "use_backend",
]
