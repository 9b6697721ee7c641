"""The mathematics of `senet.functional`, fast: closed forms forward and backward, and backends."""

from senet.ops.activated import ACTIVATIONS
from senet.ops.backends import BACKENDS, Backend, backend, fuses, set_backend, use_backend
from senet.ops.batch_norm import batch_norm_act_se, batch_norm_se, batch_norm_se_add_act
from senet.ops.modes import observed, recomputing
from senet.ops.recalibration import recalibrate, recalibrate_add_act
from senet.ops.whole import TwoLayers

__all__ = [
    "ACTIVATIONS",
    "BACKENDS",
    "Backend",
    "TwoLayers",
    "backend",
    "batch_norm_act_se",
    "batch_norm_se",
    "batch_norm_se_add_act",
    "fuses",
    "observed",
    "recalibrate",
    "recalibrate_add_act",
    "recomputing",
    "set_backend",
    "use_backend",
]
