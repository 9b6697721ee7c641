"""A residual branch from its last convolution on, where the batch norm has given statistics.

    x --> convolution --> U --> batch norm, z, s --> y = relu(s y0 + identity)

A frozen batch norm alone keeps nothing for the backward; with a block, ds needs U. But of U it
needs G = sum g U alone, one number per image and channel, and U is linear in x. With k over what
the convolution's window takes in, U_c = sum_k W_ck x_k, so that with the convolution's weight
gradient for g, of each image alone,

    V[n, c, k] = sum g[n, c] x[n, k]          G[n, c] = sum_k W_ck V[n, c, k]
    A = sum g          B = G - mu A           ds = a B + beta A

x is kept by the convolution, y by the next layer, and X (below) gives the mean of U, and so z:
nothing is kept but the gate and the hidden h. V is no work on top, for dU = a (s g + dz share)
makes of it the weight gradient that is needed anyway:

    dW_ck = a_c sum_n (s[n, c] V[n, c, k] + dz[n, c] X[n, k])          X[n, k] = sum share x[n, k]

On small maps V, as large as the weights, would cost more than U: there U is computed again.
docs/free-se.md has the counts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from senet.functional import no_autocast
from senet.ops import stages
from senet.ops.autograd import double_backward, fused_backward, fused_forward
from senet.ops.backends import choose
from senet.ops.closed_form import Call, Case, plain, resolve
from senet.ops.excitation import TwoLayers, layers_backward
from senet.ops.layout import AS_IS, CHANNELS_FIRST, dense, join, order_of, positions, split
from senet.ops.reductions import acc_dtype, share_of, to_acc
from senet.ops.stages import FROZEN, Sums

__all__ = ["Window", "convolution_batch_norm_se"]

# From how many positions of a map on V is cheaper than U: a multiply-add of V is one of as many
# for each of its values, which is written and read a few times.
POSITIONS = 256


class Window(NamedTuple):
    """How a convolution without bias and groups goes over a map [N, C, H, W]."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    def convolve(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Return U."""
        return F.conv2d(x, kernel, None, self.stride, self.padding, self.dilation)

    def size(self, x: Tensor, kernel: Tensor) -> tuple[int, ...]:
        """Return the shape of U."""
        spatial = (
            (n + 2 * p - d * (k - 1) - 1) // stride + 1
            for n, k, stride, p, d in zip(x.shape[2:], kernel.shape[2:], *self, strict=True)
        )
        return len(x), len(kernel), *spatial

    def gradients(
        self, grad: Tensor, x: Tensor, kernel: Tensor, *, of_map: bool, of_kernel: bool
    ) -> tuple[Any, Any]:
        """Return the gradients of x and of the kernel where they are wanted, for that of U."""
        return torch.ops.aten.convolution_backward(  # type: ignore[no-any-return]
            grad,
            *(x, kernel, None, self.stride, self.padding, self.dilation),
            *(False, (0, 0), 1, (of_map, of_kernel, False)),
        )[:2]


def convolution_batch_norm_se(
    x: Tensor,
    kernel: Tensor,
    window: Window,
    norm: tuple[Tensor | None, Tensor | None, Tensor, Tensor],
    excitation: TwoLayers,
    identity: Tensor,
    *,
    eps: float,
    mask: Tensor | None,
    warm: bool = False,
) -> Tensor:
    """Return relu(batch_norm_se(conv2d(x, kernel)) + identity), keeping x and it, but not U.

    Args:
        x: [N, K, H, W] in the type in which the convolution computes.
        kernel: [C, K, kh, kw] in any type.
        window: how it goes over x.
        norm: gamma, beta, and the given mean and variance, [C].
        excitation: the block.
        identity: [N, C, H', W'] in a type of its own, maybe a wider one.
        eps: added to the variance.
        mask: as in `senet.ops.batch_norm_se`.
        warm: as in `senet.ops.batch_norm_se`.

    Source: docs/free-se.md.
    """
    choice, dtype = choose(identity, training=True, warm=warm), acc_dtype(x.dtype)
    weight, bias, mean, var = norm
    case = Case(FROZEN, AS_IS, None, True, eps, *excitation[4:])  # noqa: FBT003
    call = Call(case, choice.run or plain, choice.in_one)
    share = None if mask is None else share_of(mask, dtype)
    tensors = weight, bias, mean.to(dtype), var.to(dtype), identity, share, *excitation[:4]
    with no_autocast(x):
        return _Convolved.apply(call, window, x, kernel, *tensors)  # type: ignore[no-any-return]


@final
class _Convolved(Function):
    """apply(call, window, x, W, gamma, beta, mean, var, identity, share, W1, b1, W2, b2) -> y."""

    @staticmethod
    def forward(
        ctx: Any,
        call: Call,
        window: Window,
        x: Tensor,
        kernel: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        var: Tensor,
        identity: Tensor,
        share: Tensor | None,
        *layers: Any,
    ) -> Tensor:
        u = window.convolve(x, kernel.to(x.dtype))
        order = order_of(u)
        ctx.call = call = replace(call, case=call.case._replace(order=order))
        norm, running = (weight, bias, mean, var), (None, None, None)
        tensors = dense(u, order), *norm, identity, share, *layers
        y, _, *known, _, _ = fused_forward(call, running, *tensors)
        if order != AS_IS:
            y = y.data  # no view, or autograd would forbid what users do: out += identity
        ctx.window = window
        ctx.save_for_backward(x, kernel, *norm, y, share, *known, *layers)
        return y  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        call, window = ctx.call, ctx.window
        x, kernel, weight, bias, mean, var, out, share, *known = ctx.saved_tensors
        norm, layers = (weight, bias, mean, var), known[3:]
        with no_autocast(x):
            w = kernel.to(x.dtype)
            if call.differentiated():
                g = torch.where(out <= 0, 0, grad)
                u = window.convolve(x, w)
                du, *grads = double_backward(call, g, u, norm, share, layers)
                wanted = [t for t in (x, kernel) if t.requires_grad]
                each = iter(torch.autograd.grad(u, wanted, du, create_graph=True))
                dx, dkernel = (next(each) if t.requires_grad else None for t in (x, kernel))
            else:
                few = positions(out, CHANNELS_FIRST) < POSITIONS
                compute = _by_map if few else _by_image
                tensors = grad, out, x, w, share, weight, bias, mean, *known
                g, du, dkernel, *grads = compute(call, window, *tensors)
                rest = {"of_map": ctx.needs_input_grad[2], "of_kernel": dkernel is None}
                dx, dw = window.gradients(du.to(x.dtype), x, w, **rest)
                dkernel = (dw if dkernel is None else dkernel).to(kernel.dtype)
        dgamma, dbeta, *dlayers = grads
        identity = g if ctx.needs_input_grad[8] else None
        return None, None, dx, dkernel, dgamma, dbeta, None, None, identity, None, *dlayers


def _by_map(call: Call, window: Window, *tensors: Any) -> tuple[Any, ...]:
    """Return g, dU, None, dgamma, dbeta and the layers', from a U that is computed again."""
    grad, out, x, w, share, weight, bias, mean, h, s, rstd, *layers = tensors
    known = mean, rstd, weight, bias, None, h, s, share, *layers
    u = window.convolve(x, w)
    g, du, *grads = fused_backward(call, grad, out, u, *known, needs_map=True)
    return g, du, None, *grads


def _by_image(call: Call, window: Window, *tensors: Any) -> tuple[Any, ...]:
    """Return g, dU, dW, dgamma, dbeta and the layers', from the V of each image."""
    grad, out, x, w, share, weight, bias, mean, h, s, rstd, *layers = tensors
    case, wide = call.case, to_acc(w)
    order, size, gain = case.order, out.shape, stages.gain_of(rstd, weight)
    own = (torch.ones_like(out[:, :1]) if share is None else share > 0).to(rstd.dtype)
    count, windows = own.sum((1, 2, 3))[:, None], []
    for image, each in zip(torch.split(own, 1), torch.split(x, 1), strict=True):  # one channel: X L
        given = image, to_acc(each), wide[:1]
        windows.append(window.gradients(*given, of_map=False, of_kernel=True)[1])
    deviation = torch.stack([(v * wide).flatten(1).sum(1) for v in windows]) / count - mean
    z = deviation * gain if bias is None else deviation * gain + bias.to(gain.dtype)
    g, a = call.run(stages.masked_sum, split(grad, order), split(out, order), order=order)
    g = join(g, size, order)
    total, products = torch.zeros_like(w, dtype=rstd.dtype), []
    for n, image in enumerate(torch.split(g.to(x.dtype), 1)):
        _, v = window.gradients(image, x[n : n + 1], w, of_map=False, of_kernel=True)
        v = to_acc(v)
        products.append((v * wide).flatten(1).sum(1))
        total.addcmul_(v, (s[n] * gain)[:, None, None, None])
    b = torch.stack(products) - mean * a
    ds = b * gain if bias is None else b * gain + a * bias.to(a.dtype)
    dz, *dlayers = layers_backward(
        ds, z, h, s, *layers, excitation=case.excitation, centered=case.centered
    )
    for v, part in zip(windows, gain * dz / count, strict=True):
        total.addcmul_(v, part[:, None, None, None])
    share = None if share is None else split(share, order)
    sums, affine = Sums(a, b, None, deviation), (mean, rstd, weight, bias)
    du, *dnorm = resolve(call, split(g, order), None, s, dz, sums, affine, share, needs_map=True)
    dgamma, dbeta = (None if t is None else d for t, d in zip((weight, bias), dnorm, strict=True))
    return g, join(du, size, order), total, dgamma, dbeta, *dlayers  # type: ignore[arg-type]
