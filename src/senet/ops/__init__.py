"""The mathematics of `senet.functional`, fast: closed forms forward and backward, and backends."""

from senet.ops.api import batch_norm_se, recalibrate
from senet.ops.backends import (
    BACKENDS,
    Backend,
    backend,
    fuses,
    in_few_calls,
    set_backend,
    use_backend,
)
from senet.ops.excitation import TwoLayers
from senet.ops.modes import observed, recomputing
from senet.ops.small_maps import evaluate

__all__ = [
    "BACKENDS",
    "Backend",
    "TwoLayers",
    "backend",
    "batch_norm_se",
    "evaluate",
    "fuses",
    "in_few_calls",
    "observed",
    "recalibrate",
    "recomputing",
    "set_backend",
    "use_backend",
]
