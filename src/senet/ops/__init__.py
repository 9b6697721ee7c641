"""The mathematics of `senet.functional`, fast: closed forms forward and backward, and backends."""

from senet.ops.api import batch_norm_se, recalibrate
from senet.ops.backends import BACKENDS, Backend, backend, fuses, set_backend, use_backend
from senet.ops.excitation import TwoLayers
from senet.ops.modes import observed, recomputing

__all__ = [
    "BACKENDS",
    "Backend",
    "TwoLayers",
    "backend",
    "batch_norm_se",
    "fuses",
    "observed",
    "recalibrate",
    "recomputing",
    "set_backend",
    "use_backend",
]
