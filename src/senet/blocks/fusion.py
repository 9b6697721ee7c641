"""When a batch norm and the SE block in it can be one op, and that op on modules.

A module is called for its result and for its hooks. The op stands for the call of the SE block
(and, with the residual tail, of the norm and the activation), so it is taken only where these have
no hook (but one that says `only_looks = True`) and no replaced forward. The layers inside the SE
block and its gate are called as modules if they have one, or if they are not the block's own.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from senet import ops
from senet.blocks.squeeze_excitation import SqueezeExcitation, hooked
from senet.functional import add_act, no_autocast
from senet.ops.native import NATIVE
from senet.ops.stages import BATCH, FROZEN
from senet.padding import own_positions

__all__ = ["activation_inside", "batch_norm_se", "fusible", "in_short", "residual_tail"]

# Batch norms of other libraries that compute what torch's do, by name: neither is imported here.
_FROZEN = ("torchvision.ops.misc.FrozenBatchNorm2d", "timm.layers.norm_act.FrozenBatchNormAct2d")
_WITH_ACTIVATION = (
    "timm.layers.norm_act.BatchNormAct2d",
    "timm.layers.norm_act.FrozenBatchNormAct2d",
)
_OTHERS = {name.rpartition(".")[2] for name in (*_FROZEN, *_WITH_ACTIVATION)}
_TORCH = (nn.BatchNorm2d.forward, nn.SyncBatchNorm.forward)  # 1d, 2d and 3d share the first
# Those that may stand between a batch norm and a block in one op.
_ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.SiLU: "silu",
    nn.Hardswish: "hardswish",
}


def _of_others(base: type[nn.Module]) -> tuple[bool, bool]:
    """Whether a class is another library's frozen batch norm; one with an activation."""
    if base.__name__ not in _OTHERS:
        return False, False
    name = f"{base.__module__}.{base.__qualname__}"
    return name in _FROZEN, name in _WITH_ACTIVATION


def fusible(
    norm: Any, base: type[nn.Module], se: nn.Module, x: Any, *, training: bool = False
) -> bool:
    """Whether norm(x), computed by the class `base`, and then se, are `batch_norm_se`.

    `base` is the class of the norm that knows nothing of the block. A norm with an activation of
    its own counts. With `training` a frozen norm counts from the size of map on from which a
    training step is worth a compilation, else from that of an evaluation on.
    """
    squeeze = _own(se, x)
    if squeeze == "constant":  # it is another gamma
        return base.forward in _TORCH and (_group(norm) is None or not norm.training)
    if squeeze != "avg":
        return False
    if base.forward in _TORCH:
        return True
    frozen, with_activation = _of_others(base)
    if with_activation and not _is_identity(norm.drop):
        return False
    if with_activation and not _is_identity(norm.act):
        return activation_inside(norm, base, norm.act, type(norm.act), se, x) is not None
    if frozen:  # an expression of its own, which only a fused backend improves on
        return ops.fuses(x, training=training, warm=se.warm)  # type: ignore[arg-type]
    return with_activation


def _own(se: nn.Module, x: Any) -> str | None:
    """The squeeze of a block for the map x that need not be called as a module, else None."""
    if type(se) is not SqueezeExcitation or hooked(se):
        return None
    fits = isinstance(x, Tensor) and x.dim() >= 2 and x.shape[1] == se.channels
    return se.squeeze if fits else None


def _is_identity(part: nn.Module) -> bool:
    """Whether a part of a norm with an activation does nothing."""
    return type(part) is nn.Identity and not hooked(part)


def activation_inside(
    norm: Any,
    base: type[nn.Module],
    act: nn.Module,
    act_base: type[nn.Module],
    se: nn.Module,
    x: Any,
) -> str | None:
    """Return the name of the activation if se(act(norm(x))) is one op with it inside, else None.

    `base` and `act_base` are the classes of norm and activation that know nothing of a block.
    Unlike `fusible`, this asks for a backend that gains by it: what small maps get stays what the
    modules compute, to the last bit.
    """
    name = _ACTIVATIONS.get(act_base)
    known = base.forward in _TORCH or any(_of_others(base))
    if name is None or not known or _own(se, x) != "avg" or hooked(act):
        return None
    fuses = ops.fuses(x, training=_training(norm), warm=se.warm)  # type: ignore[arg-type]
    return name if fuses else None


def _training(norm: Any) -> bool:
    """Whether the statistics are those of the batch."""
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm):
        return False
    return bool(norm.training or (norm.running_mean is None and norm.running_var is None))


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

    With an activation inside, the norm's own or `inside`, the name that `activation_inside` gave:
    s * act(BN(x)). The norm is one for which `fusible` holds.
    """
    mean, var = norm.running_mean, norm.running_var
    training, momentum, group = False, 0.0, None
    if isinstance(norm, nn.modules.batchnorm._BatchNorm):
        norm._check_input_dim(x)  # type: ignore[no-untyped-call]
        training = norm.training or (mean is None and var is None)
        if norm.training:
            momentum = _momentum(norm)
            group = _group(norm) if isinstance(norm, nn.SyncBatchNorm) else None
            if not norm.track_running_stats:
                mean = var = None
    if se.squeeze == "constant":
        statistics = mean, var, training, 0.0 if training and ops.recomputing() else momentum
        return add_act(_scaled_norm(norm, se, x, *statistics), identity, activation)
    if inside is None and "act" in norm._modules:
        inside = _own_activation(norm)
    return ops.batch_norm_se(
        x,
        mean,
        var,
        norm.weight,
        norm.bias,
        se.excitation(),
        inner_activation=inside,
        identity=identity,
        activation=activation,
        training=training,
        momentum=momentum,
        eps=norm.eps,
        group=group,
        mask=own_positions(x),
        warm=se.warm,
    )


def _scaled_norm(
    norm: Any,
    se: SqueezeExcitation,
    x: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    training: bool,  # noqa: FBT001 - in the order of torch.nn.functional.batch_norm
    momentum: float,
) -> Tensor:
    """Return s * BN(x) for a gate s that is constant: a batch norm with s gamma and s beta."""
    with no_autocast(x):
        s = se.constant_gate(len(x))[0] if len(x) else se.constant_gate()[0]
    like = next((vector for vector in (norm.weight, mean) if vector is not None), x)
    gamma = s if norm.weight is None else s * norm.weight
    beta = None if norm.bias is None else (s * norm.bias).to(like.dtype)
    return F.batch_norm(x, mean, var, gamma.to(like.dtype), beta, training, momentum, norm.eps)


def _own_activation(norm: Any) -> str | None:
    """Return the activation in a norm of another library, None where it has none."""
    if any(_of_others(base)[1] for base in type(norm).__mro__):
        return _ACTIVATIONS.get(type(norm.act))
    return None


def _momentum(norm: Any) -> float:
    """Count this batch as batch norm does in training; return the weight of its statistics."""
    if not norm.track_running_stats or norm.num_batches_tracked is None:
        return norm.momentum or 0.0
    if not ops.recomputing():
        norm.num_batches_tracked.add_(1)
    return 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum


def _group(norm: Any) -> Any:
    """Return the processes that share the batch in training, of a synchronised batch norm."""
    there = isinstance(norm, nn.SyncBatchNorm) and dist.is_available() and dist.is_initialized()
    return (norm.process_group or dist.group.WORLD) if there else None


def residual_tail(norm: nn.Module, u: Tensor, identity: Tensor, activation: nn.Module) -> Tensor:
    """Return activation(norm(u) + identity), in one pass over memory where norm has SE inside.

    This is the end of a residual block. The modules are called as usual unless the norm is a batch
    norm with an SE block in it, the activation is a ReLU, and neither has a hook.

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
    y = in_short(norm, u, identity, activation)
    if y is not None:
        return y
    inside = getattr(norm, "block_inside", None)
    if inside is not None and type(activation) is nn.ReLU and identity.shape == u.shape:
        se = inside(u)
        if se is not None and not hooked(norm, activation):
            return batch_norm_se(norm, se, u, identity=identity, activation="relu")
    return activation(norm(u) + identity)  # type: ignore[no-any-return]


def in_short(
    norm: Any, x: Tensor, identity: Tensor | None = None, activation: nn.Module | None = None
) -> Tensor | None:
    """Return s * BN(x), or `residual_tail`, of an SE batch norm on a small map in few calls.

    That is in evaluation without gradients, or after `senet.warm_up`; None in all other cases. For
    speed, as `senet.ops.small_maps` says: what `fusible`, `batch_norm_se` and `ops.choose` ask one
    after the other is asked here.
    """
    plain = getattr(norm, "_plain", None)
    if plain is None or plain.forward not in _TORCH or type(x) is not Tensor:
        return None
    if torch.compiler.is_compiling():
        return None
    se: Any = norm._modules.get("se")
    if type(se) is not SqueezeExcitation:
        return None
    recorded = norm.training or torch.is_grad_enabled()
    way = ops.in_few_calls(x, warm=se.warm, recorded=recorded)
    if way is None or se.squeeze != "avg" or own_positions(x) is not None:
        return None
    if activation is None:
        end, layers = None, se.excitation(se)
    elif type(activation) is nn.ReLU:
        end, layers = "relu", se.excitation(se, norm, activation)
    else:
        return None
    if type(layers) is not ops.TwoLayers:
        return None
    norm._check_input_dim(x)
    affine, running = norm._parameters, norm._buffers
    try:
        vectors = affine["weight"], affine["bias"], running["running_mean"], running["running_var"]
    except KeyError:  # a parametrization, or a replica, which has them elsewhere
        return None
    if way == "evaluate":
        return ops.evaluate(x, vectors, layers, identity, end, norm.eps)
    return _natively(norm, x, vectors, layers, identity, end)


def _natively(
    norm: Any,
    x: Tensor,
    vectors: tuple[Tensor | None, ...],
    layers: ops.TwoLayers,
    identity: Tensor | None,
    activation: str | None,
) -> Tensor | None:
    """Return what the C++ operator does, None where the norm asks for more."""
    if not norm.training:
        kind = FROZEN, None, activation, norm.eps
        return NATIVE(x, identity, None, vectors, layers, *kind)
    count, momentum = norm._buffers.get("num_batches_tracked"), norm.momentum
    if count is None or vectors[2] is None or momentum is None or not norm.track_running_stats:
        return None
    if norm._plain is nn.SyncBatchNorm or torch._C._current_graph_task_id() != -1:
        return None  # the last: checkpointing repeats a forward that has counted
    kind = BATCH, None, activation, norm.eps
    y = NATIVE(x, identity, None, vectors, layers, *kind, momentum)
    if y is not None:
        count.add_(1)
    return y
