"""A network for inference: batch norms folded, every SE block in the form that engines know."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from senet.deploy.agreement import check_agreement, comparable
from senet.deploy.canonical import (
    CanonicalSE,
    Excitation,
    GatedConv,
    is_block,
    read_excitation,
)
from senet.deploy.folding import (
    Affine,
    affine_of,
    is_linear_map,
    is_plain,
    merge_affine,
    pointwise_matrix,
)
from senet.deploy.joins import join_additions
from senet.deploy.separation import copied, replace_module, separate, without_identities
from senet.errors import InputError, unknown_name
from senet.insertion.trace import Call, Flow, record_flow

__all__ = ["FORMS", "Deployment", "deploy"]

FORMS = ("fast", "portable")
_OWN_NORM = "it takes the statistics of the batch, has a hook, or is of a class of its own"
_OWN_FORM = "a squeeze or a gate of a form of its own"


@final
@dataclass
class Deployment:
    """What `deploy` did; `print` shows it.

    Attributes:
        folded: batch norms that went into the layer in front of them.
        moved: blocks whose squeeze reads the input of a 1x1 convolution.
        canonical: the other blocks.
        constant: blocks whose gate did not depend on the image, and are gone.
        joined: modules in which a block's product and the addition behind it are one pass.
        kept: what could not be rewritten, as (module path, reason).
    """

    folded: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    canonical: list[str] = field(default_factory=list)
    constant: list[str] = field(default_factory=list)
    joined: list[str] = field(default_factory=list)
    kept: list[tuple[str, str]] = field(default_factory=list)

    @property
    def blocks(self) -> int:
        """How many SE blocks were rewritten."""
        return len(self.moved) + len(self.canonical) + len(self.constant)

    def __str__(self) -> str:
        """Return the numbers, and what was kept."""
        head = (
            f"{len(self.folded)} batch norms folded. {self.blocks} SE blocks: {len(self.moved)} "
            f"read the input of their 1x1 convolution, {len(self.canonical)} read their own, "
            f"{len(self.constant)} were constant and are gone. In {len(self.joined)} modules "
            "product and addition are one pass."
        )
        return "\n".join([head, *(f"kept {path}: {reason}" for path, reason in self.kept)])


@torch.no_grad()
def deploy(model: nn.Module, example_input: Any = None, *, form: str = "fast") -> nn.Module:
    """Return a network for inference that computes the same; the given one is not touched.

    Batch norms are folded into the convolution in front of them. Every SE block, inserted by this
    project, of its own networks, or of timm and torchvision, becomes mean, two 1x1 convolutions, a
    gate and a product; nothing of the form for training is left. A gate that does not depend on the
    image goes into the weights in front of it.

    Args:
        model: any network that runs on the example input.
        example_input: as in `senet.find_sites`: a tensor, a tuple of arguments, or a mapping. None
            makes an image of 224 x 224 with the channels of the first convolution.
        form: "fast" also moves the squeeze in front of a 1x1 convolution that makes more channels
            than it reads, and lets product and residual addition be one pass. "portable" leaves
            each block as the one pattern by which engines and quantisers know it.

    Returns:
        A network of `torch.nn` modules and the few of `senet.deploy`, in evaluation mode, without
        gradients; its attribute `deployment` says what was done and what could not be.

    Raises:
        InputError: the model does not run on the example input, or has no values (meta device).
        InsertionError: the model cannot be copied, is compiled, or the new network computes
            something else.
        UnknownNameError: no such form.

    Source: docs/deploy.md.

    Example:
        >>> from senet import SEBatchNorm2d
        >>> net = nn.Sequential(nn.Conv2d(3, 32, 1), SEBatchNorm2d(32)).eval()
        >>> x = torch.randn(2, 3, 8, 8)
        >>> fast = deploy(net, x)
        >>> torch.allclose(fast(x), net(x), atol=1e-5)
        True
        >>> fast.deployment.folded, fast.deployment.moved
        (['1.0'], ['1.1'])
    """
    if form not in FORMS:
        raise unknown_name("form", form, FORMS)
    net = copied(model)
    pairs = separate(net)
    example = _example(net) if example_input is None else example_input
    rewriting = _Rewriting(net, record_flow(net, example), form)
    rewriting.run()
    without_identities(net, pairs)
    if form != "portable":
        _join(net, rewriting.done)
    net.requires_grad_(requires_grad=False)
    hosts = [path for path, module in rewriting.modules.items() if module in pairs]
    paths = comparable(rewriting.touched, hosts, rewriting.done.joined)
    check_agreement(model, net, example, {"", *paths})
    net.train().eval()  # drops what a forward kept for the next, in the type of now
    net.deployment = rewriting.done  # type: ignore[assignment]
    return net


def _example(net: nn.Module) -> Tensor:
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            return torch.randn(1, module.in_channels, 224, 224).to(module.weight)
    raise InputError(
        "the network has no two-dimensional convolution to make an image for; "
        "give example_input, an input that it runs on"
    )


@final
class _Rewriting:
    """One network while it is rewritten; paths are those at the time of the flow."""

    def __init__(self, net: nn.Module, flow: Flow, form: str) -> None:
        self.net, self.flow, self.form = net, flow, form
        self.modules = dict(net.named_modules())
        self.went_into: dict[str, str] = {}  # a batch norm that is gone: its layer
        self.touched: list[tuple[str, ...]] = []  # paths of modules that changed together
        self.done = Deployment()

    def run(self) -> None:
        """Fold the batch norms, then rewrite the blocks."""
        called = {
            path: module for path, module in self.modules.items() if path in self.flow.calls_of
        }
        for path, norm in called.items():
            affine = affine_of(norm)
            if self._in_block(path):
                continue
            if affine is not None:
                self._fold(path, norm, affine)
            elif isinstance(norm, _BatchNorm):
                self.done.kept.append((path, _OWN_NORM))
        for path, block in called.items():
            if is_block(block):
                plain = all(map(is_plain, block.modules()))
                excitation = read_excitation(block) if plain else None
                if excitation is None:
                    why = _OWN_FORM if plain else "it or a part of it has a hook"
                    self.done.kept.append((path, why))
                else:
                    self._rewrite(path, block, excitation)

    def _in_block(self, path: str) -> bool:
        parents = path.split(".")[:-1]
        return any(is_block(self.modules[".".join(parents[: i + 1])]) for i in range(len(parents)))

    def _fold(self, path: str, norm: nn.Module, affine: Affine) -> None:
        maker = self._maker(path)
        if maker is None or not is_linear_map(self.modules[maker]):
            self.done.kept.append((path, "no convolution feeds this batch norm alone"))
            return
        merge_affine(self.modules[maker], affine.a, affine.c)
        self.touched.append((path, maker))
        replace_module(self.net, norm, affine.rest)
        if type(affine.rest) is nn.Identity:
            self.went_into[path] = maker
        self.done.folded.append(path)

    def _maker(self, path: str) -> str | None:
        """The module whose every output is the input of this one, and of nothing else."""
        calls = self.flow.calls_of[path]
        makers = {self._maker_of(call) for call in calls}
        maker = makers.pop() if len(makers) == 1 else None
        return maker if maker is not None and len(self.flow.calls_of[maker]) == len(calls) else None

    def _maker_of(self, call: Call) -> str | None:
        if call.input is None or call.input in self.flow.outputs:
            return None
        consumers = call.input.consumers
        if not consumers or not all(map(call.makes, consumers)):
            return None
        made = self.flow.outputs_of[call.input]
        return self.went_into.get(made[0].path, made[0].path) if made else None

    def _rewrite(self, path: str, block: nn.Module, excitation: Excitation) -> None:
        maker = self._maker(path)
        layer = None if maker is None else self.modules[maker]
        if layer is None or not is_linear_map(layer):
            layer = None
        self.touched.append((path,) if maker is None else (path, maker))
        constant = excitation.constant()
        if constant is not None and (layer is not None or bool((constant == 1).all())):
            if layer is not None:
                merge_affine(layer, constant)
            replace_module(self.net, block, nn.Identity())
            self.done.constant.append(path)
            return
        if layer is not None and excitation.factor != 1:
            merge_affine(layer, torch.full_like(excitation.weight2[:, 0], excitation.factor))
            excitation = excitation.scaled()
        read = self.flow.calls_of[path][0].input or self.flow.values[0]
        spatial, like = len(read.shape) - 2, next(block.parameters())
        matrix = None
        if self.form != "portable" and layer is not None and excitation.squeeze == "avg":
            matrix = pointwise_matrix(layer)
        if layer is not None and matrix is not None and matrix[0].shape[1] <= matrix[0].shape[0]:
            gate = excitation.through(*matrix).build(spatial, like)
            replace_module(self.net, layer, GatedConv(layer, gate))
            replace_module(self.net, block, nn.Identity())
            self.done.moved.append(path)
        else:
            replace_module(self.net, block, CanonicalSE(excitation.build(spatial, like)))
            self.done.canonical.append(path)


def _join(net: nn.Module, done: Deployment) -> None:
    """Join products and additions in the smallest modules that hold both."""
    for path, module in list(net.named_modules())[::-1]:
        if not path or not _holds_blocks(module):
            continue
        joined = join_additions(module)
        if joined is not None:
            replace_module(net, module, joined)
            done.joined.append(path)


def _holds_blocks(module: nn.Module) -> bool:
    return any(isinstance(m, CanonicalSE | GatedConv) for m in module.modules() if m is not module)
