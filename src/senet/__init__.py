"""Squeeze-and-excitation for any convolutional network.

    import senet

    report = senet.insert(model, torch.zeros(1, 3, 224, 224))
    print(report)

`import senet` loads torch and nothing heavier: the core is there at once, the names of the lab
(networks by name, published weights) load their room when they are first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from senet import functional
from senet.blocks import (
    SEBatchNorm1d,
    SEBatchNorm2d,
    SEBatchNorm3d,
    SESyncBatchNorm,
    SqueezeExcitation,
    warm_up,
)
from senet.cost import CostReport, cost
from senet.deploy import Deployment, ExportReport, deploy, export, load_exported
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
from senet.ops import backend, set_backend, use_backend
from senet.padding import mask_padding

if TYPE_CHECKING:
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
    from senet.slim import Folding, FoldPlan, find_folds, fold

__version__ = "0.1.0.dev0"

__all__ = [
    "CostReport",
    "Deployment",
    "ExportReport",
    "FoldPlan",
    "Folding",
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
    "deploy",
    "export",
    "find_folds",
    "find_sites",
    "fold",
    "from_pretrained",
    "functional",
    "insert",
    "list_models",
    "load",
    "load_exported",
    "load_weights",
    "mask_padding",
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
    "warm_up",
]

# The lab: a name, and the room that is loaded when it is first asked for.
_LAB = {
    "FoldPlan": "senet.slim",
    "Folding": "senet.slim",
    "backbone": "senet.models",
    "convert_weights": "senet.models.weights",
    "create_model": "senet.models",
    "find_folds": "senet.slim",
    "fold": "senet.slim",
    "from_pretrained": "senet.models",
    "list_models": "senet.models",
    "load_weights": "senet.models.weights",
    "preprocessing": "senet.models.weights",
    "push_to_hub": "senet.models",
    "register_with_timm": "senet.models",
    "save_pretrained": "senet.models",
}

if not TYPE_CHECKING:  # type checkers see the imports above, and no name beside them

    def __getattr__(name: str) -> object:
        """Load a name of the lab, once."""
        if name not in _LAB:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = getattr(import_module(_LAB[name]), name)
        return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
