"""When a batch norm and the SE block in it can be one op, and that op on modules.

A module is called for its result and for its hooks. The op skips the call of the SE block (and,
with the residual tail, of the norm and the activation), so it is taken only where nothing listens
to those calls: no hook (but one that says `only_looks = True`), no replaced forward. The layers
inside the SE block and its gate are called if something listens to them, or if they are not the
block's own.
"""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from senet import ops
from senet.blocks.squeeze_excitation import SqueezeExcitation, hooked
from senet.ops.reference import add_act

__all__ = ["activation_inside", "batch_norm_se", "fusible", "residual_tail"]

# Batch norms of other libraries that compute what torch's do, by name: neither is imported here.
_FROZEN = ("torchvision.ops.misc.FrozenBatchNorm2d", "timm.layers.norm_act.FrozenBatchNormAct2d")
_WITH_ACTIVATION = (
    "timm.layers.norm_act.BatchNormAct2d",
    "timm.layers.norm_act.FrozenBatchNormAct2d",
)
_TORCH = (nn.BatchNorm2d.forward, nn.SyncBatchNorm.forward)  # 1d, 2d and 3d share the first
# Those that may stand between a batch norm and a block in one op.
_ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.SiLU: "silu",
    nn.Hardswish: "hardswish",
}


def _name(base: type[nn.Module]) -> str:
    return f"{base.__module__}.{base.__qualname__}"


def fusible(norm: Any, base: type[nn.Module], se: nn.Module, x: Any) -> bool:
    """Whether norm(x), computed by the class `base`, and then se, are `batch_norm_se`.

    A norm with an activation of its own counts.

    Args:
        norm: the module with the block.
        base: the class of it that knows nothing of the block.
        se: the block.
        x: the input.
    """
    if not _own(se, x):
        return False
    name = _name(base)
    if name in _WITH_ACTIVATION and not _is_identity(norm, "act"):
        inside = activation_inside(norm, base, norm.act, type(norm.act), se, x)
        return inside is not None and _is_identity(norm, "drop")
    if name in _WITH_ACTIVATION and not _is_identity(norm, "drop"):
        return False
    if name in _FROZEN:  # an expression of its own, which only a fused backend improves on
        return ops.fuses(x, training=False)
    return base.forward in _TORCH or name in _WITH_ACTIVATION


def _own(se: nn.Module, x: Any) -> bool:
    """Whether se(x) is the paper's block, and no hook is on it."""
    if type(se) is not SqueezeExcitation or se.squeeze != "avg" or hooked(se):
        return False
    return isinstance(x, Tensor) and x.dim() >= 2 and x.shape[1] == se.channels


def _is_identity(norm: Any, part: str) -> bool:
    """Whether a part of a norm with an activation does nothing."""
    module = getattr(norm, part)
    return type(module) is nn.Identity and not hooked(module)


def activation_inside(
    norm: Any,
    base: type[nn.Module],
    act: nn.Module,
    act_base: type[nn.Module],
    se: nn.Module,
    x: Any,
) -> str | None:
    """Return the name of the activation if se(act(norm(x))) is one op with it inside, else None.

    Unlike `fusible`, this asks for a backend that gains by it: what small maps get stays what the
    modules compute, to the last bit.

    Args:
        norm: the batch norm.
        base: the class of it that knows nothing of a block.
        act: the activation.
        act_base: likewise.
        se: the block.
        x: the input of the norm.
    """
    name = _ACTIVATIONS.get(act_base)
    known = base.forward in _TORCH or _name(base) in (*_FROZEN, *_WITH_ACTIVATION)
    if name is None or not known or not _own(se, x) or hooked(act):
        return None
    training = bool(_training(norm))
    if _group(norm) is not None or not ops.fuses(x, training=training):
        return None
    return name if isinstance(se.excitation(), ops.TwoLayers) else None  # type: ignore[operator]


def _training(norm: Any) -> bool:
    """Whether the statistics are those of the batch."""
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm):
        return False
    return norm.training or (norm.running_mean is None and norm.running_var is None)


def batch_norm_se(
    norm: Any,
    se: SqueezeExcitation,
    x: Tensor,
    *,
    identity: Tensor | None = None,
    activation: str | None = None,
    inside: str | None = None,
) -> Tensor:
    """Return s * BN(x), or activation(s * BN(x) + identity), with all rules of torch's batch norm.

    With an activation inside, the norm's own or `inside`: s * act(BN(x)).

    Args:
        norm: one for which `fusible` holds.
        se: the block.
        x: [N, C, *spatial].
        identity: a map like x, or None.
        activation: as in `senet.ops.batch_norm_se_add_act`.
        inside: what `activation_inside` found.
    """
    options: dict[str, Any] = {"eps": norm.eps}
    mean, var = norm.running_mean, norm.running_var
    if isinstance(norm, nn.modules.batchnorm._BatchNorm):
        norm._check_input_dim(x)  # type: ignore[no-untyped-call]
        options["training"] = _training(norm)
        options["momentum"] = _momentum(norm)
        options["group"] = _group(norm)
        if norm.training and not norm.track_running_stats:
            mean = var = None
    statistics = mean, var, norm.weight, norm.bias
    inside = inside or _own_activation(norm)
    if inside is not None:
        options.pop("group", None)
        excitation = se.excitation()
        y = ops.batch_norm_act_se(x, *statistics, excitation, activation=inside, **options)
        return add_act(y, identity, activation)
    if identity is None:
        return ops.batch_norm_se(x, *statistics, se.excitation(), **options)
    return ops.batch_norm_se_add_act(
        x, *statistics, se.excitation(), identity, activation=activation, **options
    )


def _own_activation(norm: Any) -> str | None:
    """Return the activation in a norm of another library, None where it has none."""
    act = getattr(norm, "act", None)
    if act is None or not any(_name(base) in _WITH_ACTIVATION for base in type(norm).__mro__):
        return None
    return _ACTIVATIONS.get(type(act))


def _momentum(norm: Any) -> float:
    """Count this batch where batch norm counts it, and return the weight of its statistics."""
    if not (norm.training and norm.track_running_stats) or norm.num_batches_tracked is None:
        return norm.momentum or 0.0
    if not ops.recomputing():
        norm.num_batches_tracked.add_(1)
    return 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum


def _group(norm: Any) -> Any:
    """Return the processes that share the batch: SyncBatchNorm's, in training."""
    there = isinstance(norm, nn.SyncBatchNorm) and norm.training
    if not (there and dist.is_available() and dist.is_initialized()):
        return None
    return norm.process_group or dist.group.WORLD


def residual_tail(norm: nn.Module, u: Tensor, identity: Tensor, activation: nn.Module) -> Tensor:
    """Return activation(norm(u) + identity), in one pass over memory where norm has SE inside.

    This is the end of a residual block. The modules are called as usual unless the norm is a batch
    norm with an SE block in it, the activation is a ReLU, and no hook listens to either.

    Args:
        norm: the last module of the branch.
        u: its input, [N, C, *spatial].
        identity: what is added, of the shape of u.
        activation: the module behind the addition.

    Returns:
        [N, C, *spatial].

    Example:
        >>> import torch
        >>> u = torch.zeros(2, 3, 4, 4)
        >>> residual_tail(nn.BatchNorm2d(3), u, u - 1, nn.ReLU()).max().item()
        0.0
    """
    inside = getattr(norm, "block_inside", None)
    if inside is not None and type(activation) is nn.ReLU and identity.shape == u.shape:
        se = inside(u)
        if se is not None and not hooked(norm, activation):
            return batch_norm_se(norm, se, u, identity=identity, activation="relu")
    y: Tensor = activation(norm(u) + identity)
    return y
