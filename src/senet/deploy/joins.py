"""Residual blocks as graphs, where a block and the addition meet.

The module in whose forward both stand is traced by torch.fx, its children as leaves, and becomes a
`torch.fx.GraphModule` with the same children under the same names. So a block's product and the
addition behind it become one pass, identity + s * x. A module that cannot be traced, since its
forward depends on data, stays as it is.
"""

from __future__ import annotations

import copy
import inspect
import operator
from typing import Any, final

import torch
from torch import fx, nn

from senet.deploy.canonical import CanonicalSE, CanonicalSEAdd, GatedConv, GatedConvAdd
from senet.deploy.folding import is_plain

__all__ = ["join_additions", "move_hooks", "one_argument", "scale_identity"]

_ADDITIONS = (operator.add, operator.iadd, torch.add)
_JOINED: dict[type[nn.Module], type[nn.Module]] = {
    CanonicalSE: CanonicalSEAdd,
    GatedConv: GatedConvAdd,
}


@final
class _Tracer(fx.Tracer):
    """Sees the calls of a module's children, and inside those that hold one of the targets."""

    def __init__(self, targets: tuple[str, ...]) -> None:
        super().__init__()
        self.targets = targets

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a child is called as it is."""
        inside = module_qualified_name + "."
        return not any(target.startswith(inside) for target in self.targets)


def scale_identity(module: nn.Module, host: str, block: nn.Module) -> fx.GraphModule | None:
    """Return a residual block with an SE block on its identity, which is its input.

    Args:
        module: the residual block, without the SE block.
        host: the path in it of the module whose output the identity is added to.
        block: the SE block.

    Returns:
        None where torch.fx cannot trace the module, or finds no such addition.
    """
    shell = _shell(module)
    graph = _traced(shell, (host,)) if one_argument(module) else None
    if graph is None:
        return None
    (x,) = (node for node in graph.nodes if node.op == "placeholder")
    sums = [
        node
        for node in graph.nodes
        if node.target in (*_ADDITIONS, "add", "add_")
        and x in node.args
        and any(getattr(arg, "target", None) == host for arg in node.args)
    ]
    if len(sums) != 1:
        return None
    traced = _graph_module(module, shell, graph)
    traced.add_module("se_shortcut", block)
    with graph.inserting_after(x):
        scaled = graph.call_module("se_shortcut", (x,))
    sums[0].replace_input_with(x, scaled)
    traced.recompile()
    return traced


def join_additions(module: nn.Module) -> fx.GraphModule | None:
    """Return the module with its products and additions joined; None where there is none to join.

    None as well where torch.fx cannot trace it.
    """
    if not one_argument(module):
        return None
    targets = tuple(path for path, child in module.named_modules() if type(child) in _JOINED)
    shell = _shell(module)
    graph = _traced(shell, targets)
    if graph is None:
        return None
    joined = [node for node in graph.nodes if _join(shell, node)]
    if not joined:
        return None
    graph.lint()
    return _graph_module(module, shell, graph)


def _graph_module(module: nn.Module, shell: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """Return a graph as a module in the place of another, with its hooks."""
    made = fx.GraphModule(shell, graph, type(module).__name__).eval()
    move_hooks(shell, made)
    return made


def move_hooks(module: nn.Module, other: nn.Module) -> None:
    """Let another module have the hooks of a module around its forward."""
    for kind in _HOOKS:
        setattr(other, kind, getattr(module, kind))
        setattr(module, kind, type(getattr(module, kind))())


_HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
)


def _shell(module: nn.Module) -> nn.Module:
    """Return a copy with the same parameters, buffers and hooks.

    A forward may keep what it computed, such as a table of position biases; when it is traced it
    keeps a proxy, which no later call can use.
    """
    hooks = [getattr(child, kind) for child in module.modules() for kind in _HOOKS]
    shared = {id(each): each for each in (*module.parameters(), *module.buffers(), *hooks)}
    return copy.deepcopy(module, shared)


def _traced(module: nn.Module, targets: tuple[str, ...]) -> fx.Graph | None:
    """Return the graph of a module's forward, without what does nothing in evaluation."""
    tracer = _Tracer(targets)
    for path, child in module.named_modules():
        if path and not tracer.is_leaf_module(child, path) and not is_plain(child):
            return None  # its hook would be called with a proxy
    try:
        graph = tracer.trace(module)
    except Exception:  # noqa: BLE001 - whatever a forward does to a proxy, it can stay as it is
        return None
    graph._tracer_cls = None  # what unpickling traces with: torch's own will do
    for node in graph.nodes:
        node.type = None  # annotations that torch.jit.script would look up
    _without_identities(module, graph)
    return graph


def one_argument(module: nn.Module) -> bool:
    """Whether a module's forward takes one tensor: no option can change what it does."""
    parameters = inspect.signature(module.forward).parameters.values()
    return [p.kind for p in parameters] == [inspect.Parameter.POSITIONAL_OR_KEYWORD]


def _without_identities(module: nn.Module, graph: fx.Graph) -> None:
    for node in list(graph.nodes):
        child = module.get_submodule(node.target) if node.op == "call_module" else module
        if type(child) in _NOTHING and is_plain(child):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


_NOTHING: tuple[type[nn.Module], ...] = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Dropout3d)


def _join(module: nn.Module, node: fx.Node) -> bool:
    """Make one call of an addition and the block in front of it, if they are such a pair."""
    named = node.op == "call_function" and node.target in _ADDITIONS
    method = node.op == "call_method" and node.target in ("add", "add_")
    if not (named or method) or len(node.args) != 2 or node.kwargs:
        return False
    operands: list[Any] = list(node.args)
    for branch, identity in (operands, operands[::-1]):
        if not isinstance(branch, fx.Node) or not isinstance(identity, fx.Node):
            continue
        if branch.op != "call_module" or len(branch.users) != 1 or branch is identity:
            continue
        in_place = node.target in (operator.iadd, "add_")
        if in_place and operands[0] is identity and len(identity.users) > 1:
            continue  # what else reads the identity may want the sum
        path = str(branch.target)
        block = module.get_submodule(path)
        calls = [each for each in node.graph.nodes if each.target == path]
        if type(block) not in _JOINED or len(calls) != 1:
            continue
        parent, _, name = path.rpartition(".")
        parts = dict(block.named_children())
        module.get_submodule(parent)._modules[name] = _JOINED[type(block)](**parts)
        with node.graph.inserting_before(node):
            call = node.graph.call_module(path, (branch.args[0], identity))
        node.replace_all_uses_with(call)
        node.graph.erase_node(node)
        node.graph.erase_node(branch)
        return True
    return False
